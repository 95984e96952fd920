"""`rejoinder watch ID`: follows a response in the terminal, and rejoins by itself.

    GET …?stream=true&starting_after=N → print the events, remember the last number → after any break again,
    from there

It gives up after an error that a repetition cannot mend, and if the server never answered. A stream ends
cleanly only behind the response's end. If such a stream had no terminal event for us, the response itself
tells the status.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec

from schemas.errors import RejoinderError
from schemas.events import TERMINAL_EVENTS
from services.backoff import Backoff
from services.process import until_stopped, while_wanted
from services.terminal.printing import say, say_json, until_enough

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before another try: twice as long for each in a row without an event, up to the longest."""
NOBODY_S = 10.0
"""Seconds after which a server that never answered is given up: the URL is wrong, or the server is down."""
SILENCE_S = 45.0
"""Seconds without even a keep-alive after which a connection is given up."""
LONGEST_LINE = 32 << 20
"""Most bytes of a line of a stream: a terminal event carries the whole response."""
INTERRUPTED = 130

OPEN = frozenset({"queued", "in_progress"})
DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})

Tell = Callable[["Told"], None]
"""Prints an event, or what is to be printed of it."""


class WatchFailed(RejoinderError):
    """The response cannot be followed. The message is the server's answer."""


class Broken(RejoinderError):
    """The connection or the server failed; a later try may succeed. `pause_s`: the server's Retry-After."""

    def __init__(self, why: str, pause_s: float = 0) -> None:
        super().__init__(why)
        self.pause_s = pause_s


class Response(msgspec.Struct):
    """The fields of a response object that are needed here."""

    status: str


class Event(msgspec.Struct):
    """The fields of an event that are needed here."""

    type: str
    sequence_number: int
    delta: Any = None
    response: Response | None = None


class Told(NamedTuple):
    """An event, decoded, and its bytes as they came."""

    event: Event
    data: bytes


_event = msgspec.json.Decoder(Event).decode
_response = msgspec.json.Decoder(Response).decode


def watch(
    id: str, url: str, starting_after: int, *, as_json: bool, headers: Sequence[str], api_key: str = ""
) -> int:
    """Follow `id` to its end. Returns 0 if it completed, 1 if it ended otherwise, and INTERRUPTED if a signal
    came, or nobody reads the output any more. Raises WatchFailed.
    """
    pairs = [header.partition(":") for header in headers]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise WatchFailed("--header takes NAME: VALUE")
    sent = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    sent |= {name.strip(): value.strip() for name, _, value in pairs}
    watching = Watching(id, url, starting_after, sent, _as_json if as_json else _as_text)
    status = until_enough(lambda: until_stopped(watching.run))
    return INTERRUPTED if status is None else status


class Watching:
    """A response that is followed. `cursor` is the number of the last event that was printed."""

    def __init__(self, id: str, url: str, cursor: int, headers: Mapping[str, str], tell: Tell) -> None:
        self._url = f"{url.rstrip('/')}/v1/responses/{quote(id, safe='')}"
        self._headers = headers
        self._tell = tell
        self._answered = False
        self.cursor = cursor
        self.status = ""

    async def run(self, stop: asyncio.Event) -> int:
        """Follow the response to its end, or until `stop`. Returns the exit status."""
        await while_wanted(self._follow(), stop)
        if not self.status:
            _note(f"stopped; to go on: --starting-after {self.cursor}")
            return INTERRUPTED
        _note(self.status)
        return 0 if self.status == "completed" else 1

    async def _follow(self) -> None:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_S)
        backoff, began = Backoff(FIRST_PAUSE, LONGEST_PAUSE), time.monotonic()
        async with aiohttp.ClientSession(timeout=limits, read_bufsize=LONGEST_LINE) as session:
            while not self.status:
                before = self.cursor
                try:
                    await self._once(session)
                except Broken as broken:
                    if not self._answered and time.monotonic() - began > NOBODY_S:
                        why = f"nothing answers at {self._url}: {broken}; --url says where Rejoinder is"
                        raise WatchFailed(why) from broken
                    if self.cursor > before:
                        backoff.succeeded()
                    pause = max(broken.pause_s, backoff.pause())
                    _note(f"{broken}; again in {pause:g} s")
                    await asyncio.sleep(pause)

    async def _once(self, session: aiohttp.ClientSession) -> None:
        """Follow on one connection, to the response's end. Raises Broken, or WatchFailed."""
        query = {"stream": "true", "starting_after": str(self.cursor)}
        try:
            async with session.get(self._url, params=query, headers=self._headers) as answer:
                self._answered = True
                await _check(answer)
                async for line in answer.content:
                    if line.startswith(b"data:"):
                        self._take(line[5:].strip())
            if not self.status:
                await self._look_up(session)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise WatchFailed(f"{self._url} is no http URL") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Broken(str(error) or "the connection broke") from error
        except msgspec.MsgspecError as error:
            raise WatchFailed(f"{self._url} does not answer as Rejoinder does: {error}") from error

    def _take(self, data: bytes) -> None:
        event = _event(data)
        self._tell(Told(event, data))
        self.cursor = event.sequence_number
        if event.type in TERMINAL_EVENTS and event.response is not None:
            self.status = event.response.status

    async def _look_up(self, session: aiohttp.ClientSession) -> None:
        """Get the status of a response whose stream ended without a terminal event: it had ended before."""
        async with session.get(self._url, headers=self._headers) as answer:
            await _check(answer)
            status = _response(await answer.read()).status
        if status in OPEN:
            raise Broken("the stream ended early")
        self.status = status


async def _check(answer: aiohttp.ClientResponse) -> None:
    """Raises Broken or WatchFailed unless the answer is a success."""
    if answer.status in (200, 204):
        return
    why = _message(await answer.read()) or f"{answer.status} {answer.reason}"
    if answer.status >= 500 or answer.status in (408, 429):
        asked = answer.headers.get("retry-after", "")
        raise Broken(why, float(asked) if asked.isdecimal() else 0)
    raise WatchFailed(why)


def _message(body: bytes) -> str:
    """The message in an error envelope; "" if the body is none."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return ""


def _as_json(told: Told) -> None:
    say_json(told.data)


def _as_text(told: Told) -> None:
    if told.event.type in DELTAS and isinstance(told.event.delta, str):
        say(told.event.delta)
    elif told.event.type in TERMINAL_EVENTS:
        say("\n")


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")
