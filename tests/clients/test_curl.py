"""curl, as the README pastes it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.api import Api
from tests.wire import KEEP_ALIVE


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = shutil.which("curl")
    if command is None:
        pytest.skip("curl is not on this machine: install it to run what the README shows")
    return subprocess.run([command, "--silent", "--show-error", *arguments], capture_output=True, timeout=30)


def streamed(*arguments: str) -> bytes:
    """The frames of a stream that ended, without the keep-alives that a slow machine puts between them."""
    answer = curl("-N", *arguments)
    assert answer.returncode == 0
    return answer.stdout.replace(KEEP_ALIVE, b"")


def created(base_url: str, **fields: object) -> str:
    body = {"model": "echo", "input": "one two three", "background": True, **fields}
    answer = curl(f"{base_url}/v1/responses", "-H", "content-type: application/json", "-d", json.dumps(body))
    return str(json.loads(answer.stdout)["id"])


def test_create_follow_and_rejoin(base_url: str) -> None:
    id = created(base_url)

    whole = streamed(f"{base_url}/v1/responses/{id}?stream=true")
    rest = streamed(f"{base_url}/v1/responses/{id}?stream=true&starting_after=7")

    assert whole.count(b"\ndata: ") == 12
    assert rest == whole[whole.index(b"event: response.output_text.done") :]


def test_a_post_streams(base_url: str) -> None:
    body = '{"model": "echo", "input": "one two", "background": true, "stream": true}'

    frames = streamed(f"{base_url}/v1/responses", "-H", "content-type: application/json", "-d", body)

    assert frames.count(b"\ndata: ") == 11


def test_a_cut_stream_is_no_success(base_url: str) -> None:
    api = Api(base_url)
    id = api.open()
    command = [shutil.which("curl") or "curl", "-sN", f"{base_url}/v1/responses/{id}?stream=true"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        while not running.stdout.readline().startswith(b"data: "):
            pass
        api.delete(id)

        # 18: partial file, 56: the connection was reset.
        assert running.wait(timeout=20) in (18, 56)


def test_poll(base_url: str) -> None:
    id = created(base_url)
    Api(base_url).events(id)

    answer = curl("--fail-with-body", f"{base_url}/v1/responses/{id}")

    assert answer.returncode == 0
    assert json.loads(answer.stdout)["status"] == "completed"


def test_a_large_request_waits_for_its_100_continue(base_url: str, tmp_path: Path) -> None:
    words = "word " * 120_000
    sent = tmp_path / "body.json"
    sent.write_text(json.dumps({"model": "echo", "input": words}))

    answer = curl(f"{base_url}/v1/responses", "-H", "content-type: application/json", "-d", f"@{sent}")

    assert answer.returncode == 0
    assert json.loads(answer.stdout)["output"][0]["content"][0]["text"] == words.strip()
