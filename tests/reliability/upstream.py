"""A model server that counts: how often a response was asked for, what it sent, when it was hung up on.

One path prefix per kind of upstream; they differ in what they can do when an executor is lost:

    /plain/v1      a Responses server whose streams end with their connection
    /kept/v1       one that runs responses in the background and lets streams be rejoined

A request's `metadata` says what to do: `case` names it, `words` how many, `pause` seconds between them.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.steady import steady

Event = dict[str, Any]

CONFIG = """
[[models]]
match = "resumable"
base_url = "{url}/kept/v1"
resumable = true

[[models]]
match = "repeatable"
base_url = "{url}/plain/v1"
repeatable = true

[[models]]
match = "fragile"
base_url = "{url}/plain/v1"
"""


class Upstream:
    """What the server remembers, by case."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """POSTs: each one starts the model."""
        self.rejoined: Counter[str] = Counter()
        self.contexts: dict[str, str] = {}
        """By case the `traceparent` of the last POST; "" without one."""
        self.hung_up: dict[str, float] = {}
        """When a stream was cut by the caller, by the steady clock."""
        self.cancelled: dict[str, float] = {}
        self.kept: dict[str, tuple[float, list[Event], float]] = {}
        """By upstream id: when it began, its events, the pause between them."""
        self.cases: dict[str, str] = {}
        self.lock = threading.Lock()
        self.url = ""

    @property
    def config(self) -> str:
        """A rejoinder.toml with a model of each kind."""
        return CONFIG.format(url=self.url)

    def started(self, case: str) -> int:
        with self.lock:
            self.calls[case] += 1
            return self.calls[case]


def events_of(upstream_id: str, words: int) -> list[Event]:
    """A whole stream."""
    response = {"id": upstream_id, "object": "response", "status": "in_progress", "output": []}
    item = {"id": f"msg_{upstream_id}", "type": "message", "role": "assistant", "status": "in_progress"}
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    text = " ".join(f"w{n}" for n in range(words))
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    done = {**item, "status": "completed", "content": [part]}
    deltas = [f"w{n}" if n == words - 1 else f"w{n} " for n in range(words)]
    events: list[Event] = [
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": word, "logprobs": []} for word in deltas),
        {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.completed", "response": {**response, "status": "completed", "output": [done]}},
    ]
    return [{**event, "sequence_number": n} for n, event in enumerate(events)]


class _Handler(BaseHTTPRequestHandler):
    upstream: Upstream
    """Whom it serves: set on the class that `_handler` makes."""
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        if self.path.endswith("/cancel"):
            id = self.path.split("/")[-2]
            self.upstream.cancelled[self.upstream.cases[id]] = steady()
            return self._json({"id": id, "status": "cancelled"})
        asked = body["metadata"]
        case = asked["case"]
        self.upstream.contexts[case] = self.headers.get("traceparent", "")
        number = self.upstream.started(case)
        id = f"up_{case}_{number}"
        self.upstream.cases[id] = case
        events = events_of(id, int(asked.get("words", "10")))
        pause = float(asked.get("pause", "0.02"))
        if self.path.startswith("/kept"):
            self.upstream.kept[id] = (time.monotonic(), events, pause)
        return self._stream(case, events, time.monotonic(), pause)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        id = url.path.split("/")[-1]
        after = int(parse_qs(url.query).get("starting_after", ["-1"])[0])
        began, events, pause = self.upstream.kept[id]
        self.upstream.rejoined[self.upstream.cases[id]] += 1
        self._stream(self.upstream.cases[id], events[after + 1 :], began + pause * (after + 1), pause)

    def _stream(self, case: str, events: list[Event], began: float, pause: float) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for index, event in enumerate(events):
                self._wait(began + index * pause)
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        except OSError:
            self.upstream.hung_up[case] = steady()

    def _wait(self, due: float) -> None:
        """Until `due`, looking out for a caller that hangs up."""
        self.connection.settimeout(max(0.0005, due - time.monotonic()))
        try:
            if time.monotonic() < due and not self.connection.recv(1):
                raise ConnectionAbortedError("the caller hung up")
        except TimeoutError:
            pass
        finally:
            self.connection.settimeout(30)

    def _json(self, answer: Event) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def _handler(upstream: Upstream) -> type[_Handler]:
    return type("Handler", (_Handler,), {"upstream": upstream})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, *_: object) -> None:
        """A caller that is killed is what these tests are about."""


@contextmanager
def served() -> Iterator[Upstream]:
    """The server, in threads."""
    upstream = Upstream()
    server = _Server(("127.0.0.1", 0), _handler(upstream))
    upstream.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield upstream
    finally:
        server.shutdown()
        server.server_close()
