"""Traces as a port: a `Tracer` makes spans, a span has the context for what is below it.

A context is a `traceparent`, as it goes over the wire and into the log; "" is none. A tracer that is off
hands the parent's context on, so a trace of others goes through Rejoinder even where it adds nothing.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from enum import Enum
from typing import Protocol

Attributes = Mapping[str, str | int | float | bool]
"""By name; one with an empty text is left out."""

here: ContextVar[str] = ContextVar("here", default="")
"""The context in which this task works: requests to services of ours carry it."""


class SpanSide(Enum):
    """On which side of a request a span is."""

    SERVER = "server"
    """A request that came."""
    CLIENT = "client"
    """A request that was sent."""
    INTERNAL = "internal"
    """Work within a process."""


class Span(Protocol):
    """Something that takes time. Times are seconds since the epoch; None is now."""

    @property
    def context(self) -> str:
        """The context for what is below it."""
        ...

    def name(self, name: str) -> None:
        """Name it anew: the first name was a guess."""
        ...

    def note(self, attributes: Attributes) -> None:
        """Add what is known of it."""
        ...

    def event(self, name: str) -> None:
        """Something happened within it, now."""
        ...

    def end(self, at: float | None = None, *, error: str = "") -> None:
        """It is over; `error` is the kind of its failure. Only the first end counts."""
        ...


class Tracer(Protocol):
    """Makes the spans of one process."""

    @property
    def tells(self) -> bool:
        """Whether it makes any."""
        ...

    def span(
        self,
        name: str,
        side: SpanSide,
        parent: str,
        attributes: Attributes,
        *,
        since: float | None = None,
        link: str = "",
    ) -> Span:
        """A span below the context `parent`; the first one of a trace if that is "". It begins at `since`.

        `link` is a context that it has to do with beside its parent.
        """
        ...

    def close(self) -> None:
        """Send what was not sent yet. It blocks, for seconds at most."""
        ...


class Untold:
    """A span that nobody is told of."""

    def __init__(self, context: str) -> None:
        self.context = context
        """That of its parent."""

    def name(self, name: str) -> None:
        """Nothing."""

    def note(self, attributes: Attributes) -> None:
        """Nothing."""

    def event(self, name: str) -> None:
        """Nothing."""

    def end(self, at: float | None = None, *, error: str = "") -> None:
        """Nothing."""


class NoTraces:
    """A tracer that is off."""

    tells = False

    def span(
        self,
        name: str,  # noqa: ARG002 - the port's
        side: SpanSide,  # noqa: ARG002
        parent: str,
        attributes: Attributes,  # noqa: ARG002
        *,
        since: float | None = None,  # noqa: ARG002
        link: str = "",  # noqa: ARG002
    ) -> Span:
        """A span that nobody is told of."""
        return Untold(parent)

    def close(self) -> None:
        """Nothing."""


OFF: Tracer = NoTraces()
