"""Probes a service of ours that owes an answer, to tell a slow answer from a dead process.

The time alone cannot tell: the kernel accepts connections and requests for a stopped process, and the answer
to a POST that waits for its response may rightly take hours. So a caller that has waited `SILENCE_S` probes
the service's `/livez`:

    the probe is answered, and the service has the whole request   wait for the answer without a bound
    `LOOKS` probes in a row are not answered                       the service is silent: stop waiting

The verdict takes 4 s, so the client hears 503 within 5 s (A-10). It takes several probes: if this process
stood still itself, the next probe is answered.

A service that falls silent after an answered probe is not noticed: the caller waits as long as its client.
Use only without a balancer: behind one, the probe may reach a healthy neighbour. There, the liveness probes
of the deployment must end a process that hangs.
"""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from schemas.errors import RejoinderError

SILENCE_S = 1.0
"""Seconds that a caller waits for its answer before each probe."""
LOOK_S = 1.0
"""Seconds that a probe may take. Callers share a probe; at most `SILENCE_S`, so that a shared one began after
the request of each caller was sent."""
LOOKS = 3
"""Probes in a row without an answer that make a service silent."""


class Silent(RejoinderError):
    """A service took a request, and its process answers no probe."""

    def __init__(self) -> None:
        super().__init__("it takes connections and answers nothing: is its process stopped?")


class Pulse:
    """What this process knows of one service. `look` probes it, and raises when no answer comes."""

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        self._look = look
        self._looking: asyncio.Task[bool] | None = None
        self._missed = 0

    def felt(self) -> None:
        """Note that the service answered a request or a probe."""
        self._missed = 0

    async def silence(self, has_it: Callable[[], bool]) -> None:
        """Return when the service is silent. Never returns once it is alive and has the whole request.

        `has_it` says whether the service has the whole request.
        """
        while True:
            await asyncio.sleep(SILENCE_S)
            whole = has_it()
            while not await self._lives():
                if self._missed >= LOOKS:
                    return
            if whole:
                await asyncio.Event().wait()

    def close(self) -> None:
        """Stop probing."""
        if self._looking is not None:
            self._looking.cancel()

    async def _lives(self) -> bool:
        """Whether the service answers. One probe is under way at a time; all callers share it."""
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
