"""Whether a service of ours shows life, looked at when it owes an answer.

A process that is stopped, or hangs, still takes connections and requests: its system does that for it. And an
answer may rightly take hours: that to a POST which waits for its response. So who has waited for `SILENCE_S`
looks at `/livez`:

    any answer, once the service has the whole request   what was asked may take as long as it needs
    none, `LOOKS` times in a row                         the service is silent, and waiting is given up

That takes 4 s: a client hears 503 within 5 s (A-10). By several looks and not by the clock alone: when it was
this process that stood still, the next look is answered.

A service that falls silent after that is waited for, as long as the client waits. And one address is one
process here: behind a balancer a look may land on a neighbour that lives, and probes must end what hangs.
"""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from schemas.errors import RejoinderError

SILENCE_S = 1.0
"""Seconds to wait for an answer before each look at whether there will be one."""
LOOK_S = 1.0
"""Seconds that a look may take; no longer than `SILENCE_S`, so that one that others began is newer than what
whoever joins it has sent."""
LOOKS = 3


class Silent(RejoinderError):
    """A service took what it was asked, and shows no life."""

    def __init__(self) -> None:
        super().__init__("it takes connections and answers nothing: is its process stopped?")


class Pulse:
    """What is known of one service. `look` asks it for anything, and raises when it does not answer."""

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        self._look = look
        self._looking: asyncio.Task[bool] | None = None
        self._missed = 0

    def felt(self) -> None:
        """The service answered somebody."""
        self._missed = 0

    async def silence(self, has_it: Callable[[], bool]) -> None:
        """Return when the service is silent: never, once it shows life and has the whole request."""
        while True:
            await asyncio.sleep(SILENCE_S)
            whole = has_it()
            while not await self._lives():
                if self._missed >= LOOKS:
                    return
            if whole:
                await asyncio.Event().wait()

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _lives(self) -> bool:
        """Whether it answers; one look at a time, for all who want to know."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._answers())
        return await asyncio.shield(self._looking)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._look()
        except (aiohttp.ClientError, OSError):  # TimeoutError is one of the latter
            self._missed += 1
            return False
        self.felt()
        return True
