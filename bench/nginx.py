"""nginx as a target, with the locations that a benchmark names. It is measured where it is installed.

python -m bench.nginx FOLDER    # runs the nginx.conf in FOLDER, and prints `ready URL` once it listens
"""

import argparse
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from getpass import getuser
from pathlib import Path

from bench.target import Target
from services.broker.tcp import free_port
from tests.process import ServerProcess

CONFIG = """
{modules}
user {user};
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    {locations}
  }}
}}
"""
_LISTEN = re.compile(r"listen 127\.0\.0\.1:([0-9]+);")


def installed() -> bool:
    """Whether there is an nginx."""
    return shutil.which("nginx") is not None


@contextmanager
def nginx(name: str, locations: str, module: Path | None = None) -> Iterator[Target]:
    """A target `name`: nginx with these `locations`, and a loaded `module`."""
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder:
        modules = "" if module is None else f"load_module {module};"
        said = {"modules": modules, "user": getuser(), "folder": folder, "port": free_port()}
        (Path(folder) / "nginx.conf").write_text(CONFIG.format(**said, locations=locations))
        command = [sys.executable, "-m", "bench.nginx", folder]
        with ServerProcess(command, Path(folder) / "log") as process:
            yield Target(name, process)


def main() -> None:
    """Run nginx until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    config = parser.parse_args().folder / "nginx.conf"
    found = _LISTEN.search(config.read_text())
    assert found is not None
    port = int(found[1])
    process = subprocess.Popen(["nginx", "-c", str(config), "-p", str(config.parent)])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.05)
    print(f"ready http://127.0.0.1:{port}", flush=True)
    process.wait()


if __name__ == "__main__":
    main()
