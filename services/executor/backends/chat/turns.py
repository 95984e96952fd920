"""Tells calls to the client one after the other (U-59). Pure.

    steps as they came, of several calls in turn → the same steps, each call's together

Servers that make several calls at once may send their arguments in turn. OpenAI never does, so clients put
each piece under the call that began last.
"""

from collections.abc import Iterable, Iterator

from services.executor.backends.chat.calls import Call, CallStep


class CallTurns:
    """The call of one stream whose turn it is, and the steps of the others, which wait for theirs."""

    def __init__(self) -> None:
        self._telling: Call | None = None
        self._waiting: dict[Call, list[CallStep]] = {}
        """By call, in the order in which they began to wait."""

    def take(self, steps: Iterable[CallStep]) -> Iterator[CallStep]:
        """Take `steps`. Returns what may be told: of the call whose turn it is, and when it is over, of the
        next one.
        """
        for step in steps:
            self._waiting.setdefault(step.call, []).append(step)
        while self._waiting:
            if self._telling in self._waiting:
                yield from self._waiting.pop(self._telling)
            elif self._telling is None or is_over(self._telling):
                self._telling = next(iter(self._waiting))
            else:
                return

    def end(self) -> Iterator[CallStep]:
        """All steps that wait: no more come."""
        waiting, self._waiting = self._waiting, {}
        for steps in waiting.values():
            yield from steps


def is_over(call: Call) -> bool:
    """Whether all arguments of a call were told. Arguments that are no JSON have no known end: they are over
    when the next call starts. Others may replace an empty object (U-42), so it is told at the very end.
    """
    return bool(call.told) and call.instead is None and (call.arguments.whole or call.arguments.broken)
