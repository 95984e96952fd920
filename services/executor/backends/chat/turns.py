"""Calls are told to the client one after the other (U-59). Pure.

    steps as they came, of several calls in turn → the same steps, each call's together

Servers that make several calls at once may send their arguments in turn. OpenAI never does, so clients put
what comes under the call that began last.
"""

from collections.abc import Iterable, Iterator

from services.executor.backends.chat.calls import Call, Step


class Turns:
    """Whose turn it is among the calls of one stream, and what the others have to say until it is theirs."""

    def __init__(self) -> None:
        self._telling: Call | None = None
        self._waiting: dict[Call, list[Step]] = {}
        """By call, in the order in which they began to wait."""

    def take(self, steps: Iterable[Step]) -> Iterator[Step]:
        """What may be told when `steps` came: of the call whose turn it is; when it is over, of the next."""
        for step in steps:
            self._waiting.setdefault(step.call, []).append(step)
        while self._waiting:
            if self._telling in self._waiting:
                yield from self._waiting.pop(self._telling)
            elif self._telling is None or is_over(self._telling):
                self._telling = next(iter(self._waiting))
            else:
                return

    def end(self) -> Iterator[Step]:
        """All that waits: nothing more comes."""
        waiting, self._waiting = self._waiting, {}
        for steps in waiting.values():
            yield from steps


def is_over(call: Call) -> bool:
    """Whether all arguments of a call were told. Nobody knows the end of those that are no JSON: the start of
    the next call stands for it. An empty object may stand for others (U-42), so it is told at the very end.
    """
    return bool(call.told) and call.instead is None and (call.arguments.whole or call.arguments.broken)
