"""`rejoinder watch`: the text of a response in the terminal, whatever happens to the connection."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence

import pytest
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from schemas.errors import not_found, unavailable
from schemas.events import frame
from services.terminal.watch import WatchFailed
from services.terminal.watch import watch as watching
from services.web.answers import json_answer
from services.web.edge import route
from services.web.sse import EventStream
from tests.process import REJOINDER
from tests.serving import HOST, serving

ID = "resp_0000" + "0" * 32


def event(number: int, type: str, **fields: object) -> bytes:
    return frame(type, number, json.dumps({"type": type, "sequence_number": number, **fields}).encode())


def story(status: str = "completed") -> list[bytes]:
    words = [
        event(number + 1, "response.output_text.delta", delta=word)
        for number, word in enumerate(["one ", "two ", "three"])
    ]
    last = {"completed": "response.completed"}.get(status, "response.failed")
    return [event(0, "response.created"), *words, event(4, last, response={"status": status})]


class Storyteller:
    """A server that tells a story, and breaks off each stream after so many frames."""

    def __init__(
        self, frames: Sequence[bytes], breaks: Sequence[int] = (), status: str = "completed"
    ) -> None:
        self.frames = frames
        self.breaks = list(breaks)
        self.status = status
        self.cursors: list[int] = []

    def routes(self) -> list[Route]:
        return [route("GET", "/v1/responses/{id}", self.answer)]

    async def answer(self, request: Request) -> ASGIApp:
        if request.path_params["id"] != ID:
            raise not_found(request.path_params["id"])
        if "stream" not in request.query_params:
            return json_answer({"id": ID, "status": self.status})
        cursor = int(request.query_params["starting_after"])
        self.cursors.append(cursor)
        if self.breaks and self.breaks[0] == 0:
            self.breaks.pop(0)
            raise unavailable("Not now.", retry_after=1)
        return EventStream(self.tell(self.frames[cursor + 1 :]))

    async def tell(self, frames: Sequence[bytes]) -> AsyncIterator[bytes]:
        bound = self.breaks.pop(0) if self.breaks else len(frames)
        for piece in frames[:bound]:
            yield piece
            await asyncio.sleep(0.05)
        if bound < len(frames):
            raise RuntimeError("broken off on purpose")


async def start(port: int, *arguments: str, stdout: int = PIPE) -> Process:
    command = [REJOINDER, "watch", *arguments, "--url", f"http://{HOST}:{port}"]
    return await asyncio.create_subprocess_exec(*command, stdout=stdout, stderr=PIPE)


async def watch(port: int, *arguments: str) -> tuple[int | None, str, str]:
    process = await start(port, *arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_text_is_printed_and_the_status_told() -> None:
    async with serving(Storyteller(story()).routes()) as (_, port):
        assert await watch(port, ID) == (0, "one two three\n", "completed\n")


async def test_a_stream_that_breaks_is_rejoined_behind_what_was_told() -> None:
    teller = Storyteller(story(), breaks=[2, 0, 1])
    async with serving(teller.routes()) as (_, port):
        status, out, err = await watch(port, ID)
    assert (status, out) == (0, "one two three\n")
    assert teller.cursors == [-1, 1, 1, 2]
    assert "Not now.; again in 1 s" in err


async def test_every_event_comes_as_json_on_request() -> None:
    async with serving(Storyteller(story()).routes()) as (_, port):
        _, out, _ = await watch(port, ID, "--json", "--starting-after", "1")
    assert [json.loads(line)["sequence_number"] for line in out.splitlines()] == [2, 3, 4]


async def test_a_response_that_did_not_complete_is_a_failure() -> None:
    async with serving(Storyteller(story("cancelled")).routes()) as (_, port):
        assert await watch(port, ID) == (1, "one two three\n", "cancelled\n")


async def test_a_cursor_past_the_end_tells_the_status() -> None:
    async with serving(Storyteller(story()).routes()) as (_, port):
        assert await watch(port, ID, "--starting-after", "4") == (0, "", "completed\n")


async def test_a_server_that_never_answers_ends_it() -> None:
    status, out, err = await watch(9, ID)
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"rejoinder: nothing answers at http://{HOST}:9/v1/responses/{ID}: ")
    assert last.endswith("; --url says where Rejoinder is")


@pytest.mark.parametrize("url", [f"{HOST}:9", "ftp://a", "http://"])
def test_a_url_that_is_none_ends_it_at_once(url: str) -> None:
    with pytest.raises(WatchFailed, match="is no http URL"):
        watching(ID, url, -1, as_json=False, headers=())


async def test_the_api_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    async def answer(request: Request) -> ASGIApp:
        keys.append(request.headers["authorization"])
        return json_answer({"id": ID, "status": "completed"})

    async with serving([route("GET", "/v1/responses/{id}", answer)]) as (_, port):
        assert (await watch(port, ID, "--api-key", "sesame"))[0] == 0
        monkeypatch.setenv("REJOINDER_WATCH_API_KEY", "open")
        assert (await watch(port, ID))[0] == 0
    assert set(keys) == {"Bearer sesame", "Bearer open"}


async def test_words_that_the_terminal_has_no_letters_for_end_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    words = [event(0, "response.output_text.delta", delta="你好"), *story()[4:]]
    async with serving(Storyteller(words).routes()) as (_, port):
        status, out, err = await watch(port, ID)
    assert (status, out, err) == (0, "\\u4f60\\u597d\n", "completed\n")


async def test_a_reader_that_has_enough_ends_it() -> None:
    """`rejoinder watch … | head`: it does not take the broken pipe for a broken connection."""
    teller = Storyteller(story() * 100)
    async with serving(teller.routes()) as (_, port):
        process = await start(port, ID, stdout=(pipe := os.pipe())[1])
        os.close(pipe[1])
        os.close(pipe[0])
        _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err, teller.cursors) == (130, b"", [-1])


async def test_an_unknown_response_is_one_line() -> None:
    async with serving(Storyteller(story()).routes()) as (_, port):
        assert await watch(port, "resp_x") == (1, "", "rejoinder: Response with id 'resp_x' not found.\n")


async def test_an_interrupt_tells_where_to_go_on() -> None:
    teller = Storyteller([event(0, "response.created"), b": and then silence\n"])
    teller.breaks = [1]
    async with serving(teller.routes()) as (_, port):
        process = await start(port, ID, "--json")
        assert process.stdout is not None
        assert json.loads(await process.stdout.readline())["sequence_number"] == 0
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode().endswith("stopped; to go on: --starting-after 0\n")
