"""Clients written elsewhere, unmodified, against the whole system (tests/system.py) or `--base-url`.

What needs a model with tools or thoughts runs against a system of its own, `models`.
"""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.model_server import ModelServer
from tests.system import System

NODE = Path(__file__).parent / "node"
NodeCases = Callable[..., int]


@pytest.fixture(scope="session")
def server() -> Iterator[ModelServer]:
    """The model server behind `models`."""
    with ModelServer().serving() as serving:
        yield serving


@pytest.fixture(scope="session")
def models(server: ModelServer, kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a system whose models `responses-…` and `chat-…` are the model server's, by either API.

    The chat server is not offered what only vendors can run: Codex offers a search with each request.
    """
    folder = tmp_path_factory.mktemp("models")
    config = folder / "rejoinder.toml"
    config.write_text(
        "".join(
            f'[[models]]\nmatch = "{backend}-*"\nbackend = "{backend}"\nbase_url = "{server.url}"\n{more}\n'
            for backend, more in (("responses", ""), ("chat", 'vendor_tools = "drop"'))
        )
    )
    with System(kafka, folder, config=config) as system:
        yield f"{system.base_url}/v1"


@pytest.fixture(scope="session")
def node() -> str:
    """The command `node`, the packages of package-lock.json installed beside the cases."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip(
            "node and npm are not on this machine: install Node.js 20 or newer for the JavaScript clients"
        )
    lock, installed = NODE / "package-lock.json", NODE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=NODE, check=True, capture_output=True)
        installed.touch()
    return node


@pytest.fixture
def node_cases(node: str) -> NodeCases:
    """Runs the cases of a file by node's own runner, under an environment; returns how many passed: all."""

    def run(name: str, **environ: str) -> int:
        ran = subprocess.run(
            [node, "--test", name],
            cwd=NODE,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
        passed = re.search(r"(?:#|ℹ) pass (\d+)", ran.stdout)
        assert passed is not None
        return int(passed[1])

    return run


@pytest.fixture(scope="session")
def openai(base_url: str) -> Iterator[OpenAI]:
    """The SDK, its answers checked against its own types."""
    with OpenAI(base_url=f"{base_url}/v1", api_key="unused", _strict_response_validation=True) as client:
        yield client


@pytest.fixture
async def async_openai(base_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{base_url}/v1", api_key="unused", _strict_response_validation=True
    ) as client:
        yield client
