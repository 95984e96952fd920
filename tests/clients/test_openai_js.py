"""The openai JavaScript SDK: the cases are in node/openai.test.mjs, run by node's own runner."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "node"


@pytest.fixture(scope="session")
def node() -> str:
    """The command `node`, the packages of package-lock.json installed beside the cases."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip(
            "node and npm are not on this machine: install Node.js 20 or newer for the JavaScript clients"
        )
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=True, capture_output=True)
        installed.touch()
    return node


@pytest.mark.slow
def test_every_case_passes(node: str, base_url: str, keepalive_s: float) -> None:
    environ = {**os.environ, "REJOINDER_URL": base_url, "KEEPALIVE_MS": str(int(keepalive_s * 1000))}
    ran = subprocess.run(
        [node, "--test", "openai.test.mjs"],
        cwd=FOLDER,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    passed = re.search(r"# pass (\d+)|ℹ pass (\d+)", ran.stdout)
    assert passed is not None
    assert int(passed[1] or passed[2]) > 20
