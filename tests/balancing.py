"""Real balancers in front of shards, configured as `rejoinder shards` prints it."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from getpass import getuser
from pathlib import Path
from typing import Literal

import pytest

from services.broker.tcp import free_port
from services.terminal.balancers import Layout, balancer_text
from tests.conftest import eventually
from tests.serving import HOST

Real = Literal["nginx", "haproxy"]
REAL: tuple[Real, ...] = ("nginx", "haproxy")
"""Those that run here."""

NGINX = """
user {user};
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {shards}
}}
"""


def config_of(balancer: Real, layout: Layout, port: int, folder: Path) -> str:
    """The whole configuration of a balancer that listens on `port`."""
    text = balancer_text(balancer, layout).replace(":8080", f"{HOST}:{port}")
    text = text.replace("listen 8080;", f"listen {HOST}:{port};")
    return NGINX.format(user=getuser(), folder=folder, shards=text) if balancer == "nginx" else text


@asynccontextmanager
async def balanced(balancer: Real, layout: Layout) -> AsyncIterator[int]:
    """A balancer in front of the replays of `layout`; its port."""
    command = shutil.which(balancer)
    if command is None:
        pytest.skip(f"no {balancer} on this machine: apt-get install {balancer}")
    port = free_port()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        file = folder / "balancer.conf"
        file.write_text(config_of(balancer, layout, port, folder))
        flags = ["-c", str(file), "-p", made] if balancer == "nginx" else ["-db", "-f", str(file)]
        process = await asyncio.create_subprocess_exec(command, *flags)

        async def listens() -> bool:
            assert process.returncode is None, f"{balancer} ended"
            with suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return True
            return False

        try:
            await eventually(listens)
            yield port
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
