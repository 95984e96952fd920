"""The call: one POST, whose events are told as they arrive."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from services.config import Model
from services.executor.backend import Resume, RunRequest, UpstreamError, UpstreamEvent
from services.executor.backends.failures import UNFIT
from services.executor.backends.sse_parser import ServerSentEvent
from services.executor.backends.upstream import Upstream
from tests.messages.asked import asked
from tests.messages.told import Told


class MessagesBackend:
    """Serves one model server. Closing the connection is its cancel."""

    resumable = False

    def __init__(self, model: Model, upstream: Upstream) -> None:
        self.repeatable = model.repeatable
        self.pass_extensions = model.extensions == "pass"
        self._upstream = upstream
        self._words = upstream.words

    async def stream(
        self, request: RunRequest, resume: Resume | None = None
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        """See `Backend`. Raises UpstreamError."""
        assert resume is None, "not resumable"
        told = Told()
        async with (
            self._upstream.post("/messages", asked(request), request) as answer,
            aclosing(self._upstream.events(answer)) as arrivals,
        ):
            async for arrived in arrivals:
                batch, failure = self._batch(arrived, told)
                yield batch
                if failure is not None:
                    raise failure
                if told.ended:
                    return
        raise self._words.lost("ended its stream without a message_stop.")

    async def stop(self, upstream_id: str) -> None:
        """Such a server runs nothing without a connection."""

    async def close(self) -> None:
        """Close the upstream's session."""
        await self._upstream.close()

    def _batch(
        self, arrived: Sequence[ServerSentEvent], told: Told
    ) -> tuple[list[UpstreamEvent], UpstreamError | None]:
        """The events up to the first that tells of an error, or is one; and that error."""
        batch: list[UpstreamEvent] = []
        try:
            for one in arrived:
                event = self._upstream.decode(one.data)
                if event.get("type") == "error":
                    return batch, self._words.reported(event)
                batch += [UpstreamEvent(said) for said in told.event(event)]
        except UpstreamError as failure:
            return batch, failure
        except UNFIT:
            return batch, self._words.malformed("sent an event whose fields do not fit.")
        return batch, None
