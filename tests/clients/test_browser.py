"""A browser: `fetch` and `EventSource` in headless Chromium, from a page of an allowed origin.

The page (browser/page.html) runs all cases and posts what came of them. It is served by a server of ours,
under the origin's name; that server also passes streams on and cuts them, so that an EventSource rejoins.
"""

import json
import queue
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.wire import Connection

PAGE = Path(__file__).parent / "browser" / "page.html"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
CUT_AFTER = 4
"""Frames that pass before a stream under /cut/ is cut."""


class PageServer(ThreadingHTTPServer):
    """Serves the page, takes its results, and cuts streams of the server at `base_url`."""

    daemon_threads = True

    def __init__(self, base_url: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base_url = base_url
        self.results: queue.Queue[dict[str, Any]] = queue.Queue()
        self.cut: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        if self.path.startswith("/cut/"):
            self._pass_on(self.path.removeprefix("/cut"))
        elif urlsplit(self.path).path == "/":
            self._answer(PAGE.read_bytes(), "text/html")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.server.results.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer(b"{}", "application/json")

    def _answer(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self, path: str) -> None:
        """Pass a stream on; the first time that `path` is asked for, reset it after some frames."""
        names = ("accept", "last-event-id")
        headers = {name: self.headers[name] for name in names if name in self.headers}
        with Connection(self.server.base_url) as upstream:
            upstream.ask("GET", path, headers=headers)
            self.send_response(upstream.status)
            self.send_header("content-type", upstream.headers.get("content-type", "text/plain"))
            self.end_headers()
            for count, frame in enumerate(upstream.frames(), 1):
                self.wfile.write(frame.raw)
                if count == CUT_AFTER and path not in self.server.cut:
                    self.server.cut.add(path)
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    return

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture(scope="module")
def page(base_url: str) -> Iterator[PageServer]:
    with PageServer(base_url) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def results(
    page: PageServer, cors_origin: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """What the page's cases came to, by name."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        pytest.skip("Chromium is not on this machine: install it (Debian: chromium) for the browser's cases")
    origin = urlsplit(cors_origin)
    address = f"127.0.0.1:{page.server_address[1]}"
    command = [
        chromium,
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
        # The page is served here under the origin's name; no other name resolves.
        f"--host-resolver-rules=MAP {origin.hostname} {address}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"{cors_origin}/?server={page.base_url}",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            yield page.results.get(timeout=120)
        finally:
            browser.terminate()


ALL = list(range(12))


def test_fetch_cut_and_rejoined(results: dict[str, Any]) -> None:
    assert results["fetch_cut_and_rejoined"] == ALL


def test_headers_are_exposed(results: dict[str, Any]) -> None:
    assert results["headers_are_exposed"] == "string"


def test_an_event_source_gets_all_and_is_stopped(results: dict[str, Any]) -> None:
    assert results["an_event_source_gets_all_and_is_stopped"] == {"numbers": ALL, "connections": 1}


def test_an_event_source_that_is_cut_rejoins_by_itself(results: dict[str, Any]) -> None:
    assert results["an_event_source_that_is_cut_rejoins_by_itself"] == {"numbers": ALL, "connections": 2}


def test_an_event_source_with_a_cursor_in_its_url_rejoins_where_it_was(results: dict[str, Any]) -> None:
    found = results["an_event_source_with_a_cursor_in_its_url_rejoins_where_it_was"]
    assert found == {"numbers": ALL[4:], "connections": 2}
