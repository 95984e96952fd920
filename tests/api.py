"""A client of the API's routes for tests, over `tests.wire`."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from tests.wire import Answer, Connection, Frame, ask

TERMINAL = {"response.completed", "response.failed", "response.incomplete"}
CLOSED = {"completed", "failed", "incomplete", "cancelled"}
Input = str | list[dict[str, Any]]
Asked = TypeVar("Asked", Answer, Connection)
SLOW_MS = 60_000
"""A pause between words that no test waits for: the response stays open until it is cancelled or deleted."""


class Api:
    """A client of one base URL; `headers` go with every request."""

    def __init__(self, base_url: str, headers: Mapping[str, str] = {}) -> None:
        self.base_url = base_url
        self.headers = dict(headers)

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] = {}) -> Answer:
        """Send any request. A `body` that is not bytes is sent as JSON."""
        return ask(self.base_url, method, path, body, {**self.headers, **headers})

    def connect(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] = {}, **options: Any
    ) -> Connection:
        """Send a request and read the head of its answer; the caller reads the rest."""
        raw = None if body is None else json.dumps(body).encode()
        return Connection(self.base_url, **options).ask(method, path, raw, {**self.headers, **headers})

    def post(self, body: object, headers: Mapping[str, str] = {}) -> Answer:
        """POST /v1/responses."""
        return self.ask("POST", "/v1/responses", body, headers)

    def create(self, words: Input = "one two three", **fields: Any) -> str:
        """The id of a new background response of model echo; see `request`."""
        answer = insisting(lambda: self.post(request(words, **fields)))
        assert answer.status == 200, answer
        return str(answer.json["id"])

    def open(self, words: Input = "one two three", **fields: Any) -> str:
        """The id of a background response that stays open, in progress with its first events out."""
        id = self.create(words, interval_ms=SLOW_MS, **fields)
        self.eventually(id, lambda response: response["status"] == "in_progress")
        return id

    def closed(self, words: Input = "one two three", **fields: Any) -> str:
        """The id of a background response that has run to its end."""
        id = self.create(words, **fields)
        self.events(id)
        return id

    def get(self, id: str, query: str = "", headers: Mapping[str, str] = {}) -> Answer:
        """GET /v1/responses/{id}."""
        return self.ask("GET", _path(id) + query, headers=headers)

    def response(self, id: str) -> dict[str, Any]:
        """The response object; fails unless the answer is 200."""
        answer = insisting(lambda: self.get(id))
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    def cancel(self, id: str) -> Answer:
        """POST /v1/responses/{id}/cancel."""
        return self.ask("POST", _path(id) + "/cancel")

    def delete(self, id: str) -> Answer:
        """DELETE /v1/responses/{id}."""
        return self.ask("DELETE", _path(id))

    def input_items(self, id: str, query: str = "") -> Answer:
        """GET /v1/responses/{id}/input_items."""
        return self.ask("GET", _path(id) + "/input_items" + query)

    def stream(
        self, id: str, after: object = None, headers: Mapping[str, str] = {}, **options: Any
    ) -> Connection:
        """The event stream of a response, its head read. The request is repeated after a 503."""
        cursor = "" if after is None else f"&starting_after={quote(str(after))}"
        path = f"{_path(id)}?stream=true{cursor}"
        return insisting(lambda: self.connect("GET", path, None, headers, **options))

    def events(self, id: str, after: object = None) -> list[Frame]:
        """All frames after the cursor, to the clean end of the stream."""
        with self.stream(id, after) as stream:
            assert stream.status == 200, stream.body()
            return list(stream.frames())

    def take(self, id: str, count: int, after: object = None) -> list[Frame]:
        """The first `count` frames after the cursor; then the reader hangs up."""
        with self.stream(id, after) as stream:
            assert stream.status == 200, stream.body()
            frames = stream.frames()
            return [next(frames) for _ in range(count)]

    def eventually(
        self, id: str, holds: Callable[[dict[str, Any]], object], timeout: float = 60
    ) -> dict[str, Any]:
        """Poll until the response object is as wanted, and return it."""
        deadline = time.monotonic() + timeout
        while not holds(response := self.response(id)):
            assert time.monotonic() < deadline, f"not in {timeout} s: {response}"
            time.sleep(0.05)
        return response


def request(words: Input = "one two three", **fields: Any) -> dict[str, Any]:
    """The body of a background request to model echo.

    `tokens`, `interval_ms` and `fail_after` go into the metadata as `echo.…`; other fields as they are, and
    None leaves one out.
    """
    steering = {
        f"echo.{key}": str(fields.pop(key))
        for key in ("tokens", "interval_ms", "fail_after")
        if key in fields
    }
    metadata = {**fields.pop("metadata", {}), **steering}
    body = {"model": "echo", "input": words, "background": True, "metadata": metadata or None, **fields}
    return {key: value for key, value in body.items() if value is not None}


def insisting(ask: Callable[[], Asked]) -> Asked:
    """The answer to `ask`, repeated while it is a 503, as clients do where that is safe (A-10).

    A machine that stands still for longer than an append or a look at the log may take rightly refuses
    requests. Fails after a minute of refusals.
    """
    deadline = time.monotonic() + 60
    while (answer := ask()).status == 503:
        assert time.monotonic() < deadline, answer
        time.sleep(int(answer.headers["retry-after"]))
        if isinstance(answer, Connection):
            answer.close()
    return answer


def numbers(frames: list[Frame]) -> list[int]:
    """The sequence numbers of the frames."""
    return [frame.number for frame in frames]


def types(frames: list[Frame]) -> list[str]:
    """The event types of the frames."""
    return [frame.type for frame in frames]


def text(response: dict[str, Any]) -> str:
    """All output text of a response object."""
    parts = [part for item in response["output"] for part in item.get("content", [])]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


def error_of(answer: Answer) -> dict[str, Any]:
    """The error of a refused request; fails unless the envelope is whole (A-16)."""
    assert "x-request-id" in answer.headers, answer
    assert list(answer.json) == ["error"], answer
    error: dict[str, Any] = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    for text_field in ("message", "type"):
        assert isinstance(error[text_field], str), error
        assert error[text_field], error
    return error


def _path(id: str) -> str:
    return f"/v1/responses/{quote(id, safe='')}"
