"""The HTTP edge of the backends: one configured upstream, its calls, its failures.

    POST or GET → (wait and repeat, if surely nothing was started) → an answer with status 2xx, or an error

aiohttp's errors are translated here and nowhere else. A connection is used once: if a POST fails on a kept
connection that the server is just closing, it is unknown whether the server started anything, and no upstream
call is made twice on a guess.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from io import BytesIO
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection

from schemas.checks import is_deeper
from schemas.steps import encoding, finished
from schemas.values import counting
from services.backoff import Backoff
from services.config import Agent, Route, api_key
from services.executor.backend import RunRequest, UpstreamError
from services.executor.backends.bodies import HEAD_BYTES, BodyReader
from services.executor.backends.failures import UpstreamErrors, call_refusal, retry_after
from services.executor.backends.sse_parser import EventTooLarge, MayLeaveOut, ServerSentEvent, whole_only
from services.executor.backends.told import page_words
from services.executor.mending import surrogates
from services.executor.metrics import CALLS_REPEATED
from services.loops import in_turns

CONNECT_TIMEOUT = 30.0
"""Seconds to connect, name look-up and TLS included."""
CALLS = 4
"""Most calls in all, while the upstream says, or its absence shows, that none was started."""
CONNECT_PAUSE = 0.25
"""Seconds before a connection is tried again; twice that the next time."""
LONGEST_RETRY_AFTER = 30.0
"""Seconds. If an upstream asks for more, the response ends."""
LARGE_BODY = 1 << 20
"""Bytes from which on a request is written piece by piece, as the upstream takes it."""
PIECE = 1 << 16
ERROR_BODY_BYTES = 64 * 1024
ERROR_BODY_TIMEOUT = 10.0
"""Seconds that the body of an error may take. After that its status alone is told."""
SECRET_LENGTH = 8
"""Characters from which on the value of any header is kept out of error texts."""
_SECRET_NAME = re.compile("auth|key|token|secret|cookie|password|credential|signature", re.IGNORECASE)
EVENT_STREAM = "text/event-stream"
RECORD_BYTES = 1 << 20
MAX_EVENT_BYTES = 960_000
"""Most bytes of one event, or unstreamed answer, if a record holds RECORD_BYTES. It is less than a record,
because we add to it (P-9)."""
MAX_DEPTH = 200
"""How deep an event may be nested. It repeats a request, which may be half as deep. Clients and readers of
the log must be able to decode it inside another object, and at any depth of their own stack."""
MAX_VALUES = 100_000
"""Most JSON values of one event or answer, so that decoding it does not hold the loop (`schemas.values`)."""

Calling = Callable[[], None]


def _nothing() -> None:
    """Do nothing."""


_calling: ContextVar[Calling] = ContextVar("calling", default=_nothing)


@contextmanager
def _told(calling: Calling) -> Iterator[None]:
    token = _calling.set(calling)
    try:
        yield
    finally:
        _calling.reset(token)


class _Large(aiohttp.BytesIOPayload):
    """A large request, written as the upstream takes it. `taken` is called for every piece, because an
    upstream that takes it slowly is not silent.
    """

    taken: Calling = staticmethod(_nothing)

    async def write_with_length(self, writer: AbstractStreamWriter, _: int | None) -> None:
        while piece := self._value.read(PIECE):
            await writer.write(piece)
            self.taken()


class _Request(aiohttp.ClientRequest):
    """Calls `_calling` when it is connected and about to be sent: connecting may outlast a lease (P-53). An
    upstream that does not read the request is silent, too.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        _calling.get()()
        if isinstance(self.body, _Large) and conn.protocol is not None:
            self.body.taken = conn.protocol.start_timeout
        answer = await super().send(conn)
        if conn.protocol is not None:
            conn.protocol.start_timeout()  # else silence would count only after the whole body was taken
        conn.add_callback(lambda: _drop_unsent(conn.transport))
        return answer


def _drop_unsent(transport: asyncio.Transport | None) -> None:
    """Drop what the upstream did not take of a closed connection. Otherwise asyncio would hold it, and keep
    the loop from closing, for as long as the other end lives.
    """
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()


class Upstream:
    """One model server or agent of the configuration.

    `idle` is the `timeout` (seconds) of a route that has none, `record_bytes` the size of the largest record.
    """

    def __init__(
        self, route: Route, environ: Mapping[str, str], idle: float, record_bytes: int = RECORD_BYTES
    ) -> None:
        name = f"The agent '{route.name}'" if isinstance(route, Agent) else "The model server"
        self._base = (route.url if isinstance(route, Agent) else route.base_url).rstrip("/")
        self._label = route.label
        self._headers, secrets = _headers(route, environ)
        self._timeout = idle if route.timeout is None else route.timeout
        self._session: aiohttp.ClientSession | None = None
        self._largest = MAX_EVENT_BYTES * record_bytes // RECORD_BYTES
        self.words = UpstreamErrors(name, secrets)

    @asynccontextmanager
    async def post(
        self, path: str, body: Mapping[str, Any], run: RunRequest | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """POST `body` to `path`, for `run`; the call is repeated only if surely nothing was started.

        `run.calling` is called right before each request is sent. Raises UpstreamError, and whatever
        `run.calling` raises.
        """
        async with self._call("POST", path, await in_turns(encoding(body)), run) as answer:
            yield answer

    @asynccontextmanager
    async def get(
        self, path: str, run: RunRequest | None = None, calls: int = CALLS
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET `path` and its query, in at most `calls` calls. Raises as `post` does."""
        async with self._call("GET", path, None, run, calls) as answer:
            yield answer

    async def events(
        self, answer: aiohttp.ClientResponse, may_leave_out: MayLeaveOut = whole_only
    ) -> AsyncGenerator[list[ServerSentEvent]]:
        """The events of an answer as they arrive, until it ends. An unstreamed answer is one event, then
        [DONE] (U-10).

        Raises UpstreamError: for an event that is too large and may not be left out, and for an answer that
        is neither a stream nor JSON.
        """
        streams = answer.content_type == EVENT_STREAM
        body = BodyReader(self._largest, may_leave_out, streams=streams)
        with self._translated():
            async for chunk in answer.content.iter_any():
                events, too_large = _parsed(body, chunk)
                if events:
                    yield events
                if too_large:
                    raise self.too_large("answer" if body.is_whole else "event")
                if len(body.unread or b"") >= HEAD_BYTES:
                    break
        if body.unread is not None:
            raise self._no_stream(answer, body.unread)
        if rest := list(body.end()):
            yield rest

    def too_large(self, sent: str = "event", usage: object = None) -> UpstreamError:
        """The error for an event, or an answer, that fits into no record (P-9). `usage`: as known by then."""
        what = f"sent an {sent} larger than {self._largest} bytes."
        return self.words.failed(what, type="event_too_large", usage=usage)

    async def body(self, answer: aiohttp.ClientResponse, most: int = 0) -> bytes:
        """The body of an answer that is not streamed.

        Raises UpstreamError for more than `most` bytes (0: the bound of an event).
        """
        most = most or self._largest
        with self._translated():
            body = await _read(answer, most + 1)
        if len(body) > most:
            what = f"sent an answer larger than {most} bytes."
            raise self.words.failed(what, type="event_too_large")
        return body

    def _no_stream(self, answer: aiohttp.ClientResponse, begun: bytes) -> UpstreamError:
        """The error for an answer that is neither a stream nor JSON, and begins with `begun`."""
        named = "content-type" in answer.headers
        what = self.words.cleared(answer.content_type) if named else f"{answer.status} and no content type"
        said = self.words.cleared(page_words(begun))
        return self.words.gone(
            f"answered with {what} instead of an event stream{f': {said}' if said else '.'}"
        )

    def decode(self, data: bytes) -> dict[str, Any]:
        """The JSON object in `data`; its strings may hold halves of surrogate pairs (U-12). Raises
        UpstreamError.
        """
        if len(data) > MAX_VALUES and finished(counting(data, MAX_VALUES)) > MAX_VALUES:
            raise self.words.malformed(f"sent JSON of more than {MAX_VALUES} values.")
        try:
            decoded = surrogates.loads(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self.words.malformed("sent something that is not JSON.") from error
        except RecursionError as error:
            raise self.words.malformed("sent JSON that is nested too deeply.") from error
        if not isinstance(decoded, dict):
            raise self.words.malformed("sent JSON that is not an object.")
        # Cheap test first: nearly every event has too few brackets to be deep.
        if data.count(b"{") + data.count(b"[") > MAX_DEPTH and is_deeper(decoded, MAX_DEPTH):
            raise self.words.malformed("sent JSON that is nested too deeply.")
        return decoded

    async def close(self) -> None:
        """Close the session."""
        if self._session:
            await self._session.close()

    @asynccontextmanager
    async def _call(
        self, method: str, path: str, body: bytes | None, run: RunRequest | None, calls: int = CALLS
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        with self._translated():
            with _told(_nothing if run is None else run.calling):
                headers = self._headers if run is None else {**run.headers, **self._headers}
                answer = await self._answered(method, path, body, headers, calls)
            async with answer:
                if answer.status >= 300:
                    # Only a POST starts a response; a GET asks for one that was started before.
                    starts = method == "POST"
                    said = call_refusal(answer.status, answer.headers.get("retry-after")) if starts else None
                    raise self.words.refused(answer.status, await _error_body(answer), said)
                if run is not None:
                    run.answered()
                yield answer

    async def _answered(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], calls: int
    ) -> aiohttp.ClientResponse:
        """The first answer that does not ask to call again, or the last one."""
        backoff = Backoff(CONNECT_PAUSE, LONGEST_RETRY_AFTER)
        for _ in range(1, calls):
            try:
                answer = await self._request(method, path, body, headers)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                CALLS_REPEATED.labels(self._label, "unreachable").inc()
                await backoff.wait()
                continue
            seconds = retry_after(answer.status, answer.headers.get("retry-after"), LONGEST_RETRY_AFTER)
            if seconds is None:
                return answer
            answer.close()
            CALLS_REPEATED.labels(self._label, "refused").inc()
            await asyncio.sleep(seconds)
        return await self._request(method, path, body, headers)

    async def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = self._connect()
        data = _Large(BytesIO(body)) if body is not None and len(body) > LARGE_BODY else body
        return await self._session.request(
            method, self._base + path, data=data, headers=headers, allow_redirects=False
        )

    def _connect(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._timeout)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        jar = aiohttp.DummyCookieJar()
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=jar,
            read_bufsize=1 << 18,
            request_class=_Request,
        )

    def _translated(self) -> "_Translation":
        return _Translation(self.words, self._timeout)


class _Translation:
    """Turns aiohttp's errors into UpstreamError, in our words: aiohttp's name hosts and ports."""

    def __init__(self, words: UpstreamErrors, timeout: float) -> None:
        self._words = words
        self._timeout = timeout

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        match error:
            case aiohttp.ClientSSLError():
                raise self._words.lost("cannot be reached: TLS failed.", "upstream_unreachable") from error
            case aiohttp.ClientConnectorError():
                why = os.strerror(error.errno) if error.errno and error.errno > 0 else "its name is unknown"
                raise self._words.lost(f"cannot be reached: {why}.", "upstream_unreachable") from error
            case aiohttp.ConnectionTimeoutError():
                what = f"cannot be reached within {CONNECT_TIMEOUT:g} s."
                raise self._words.lost(what, "upstream_unreachable") from error
            case TimeoutError():
                what = f"sent nothing for {self._timeout:g} s."
                raise self._words.failed(what, type="upstream_idle") from error
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
                raise self._words.malformed("does not speak HTTP as expected.") from error
            case aiohttp.ClientError() | OSError():
                raise self._words.lost("broke the connection before the response ended.") from error


def _headers(route: Route, environ: Mapping[str, str]) -> tuple[dict[str, str], Sequence[str]]:
    """The headers of every call, and the secrets in them. Raises SettingsError without the key."""
    headers = {"content-type": "application/json", "accept": "text/event-stream, application/json"}
    headers |= {"accept-encoding": "identity", "user-agent": "rejoinder", **route.headers}
    secrets = [secret for name, value in route.headers.items() for secret in _secrets(name, value)]
    if key := api_key(route, environ):
        headers["authorization"] = f"Bearer {key}"
        secrets.append(key)
    return headers, secrets


def _secrets(name: str, value: str) -> list[str]:
    """The secrets in a header. If its name says so, that is the value, and the key behind a scheme; else the
    value if it is long: a short one may be an ordinary word, and would be redacted in sentences.
    """
    if _SECRET_NAME.search(name):
        return [value, *(word for word in value.split() if len(word) >= SECRET_LENGTH)]
    return [value] if len(value) >= SECRET_LENGTH else []


def _parsed(parser: BodyReader, chunk: bytes) -> tuple[list[ServerSentEvent], bool]:
    """The events of `chunk`, and whether an event that is too large follows them."""
    events: list[ServerSentEvent] = []
    try:
        events.extend(parser.feed(chunk))
    except EventTooLarge:
        return events, True
    return events, False


async def _error_body(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an error answer, b"" if it does not come: the status says enough."""
    try:
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            return await _read(answer, ERROR_BODY_BYTES)
    except (aiohttp.ClientError, OSError):
        return b""


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """Up to `most` bytes of a body."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) >= most:
            break
    return bytes(body[:most])
