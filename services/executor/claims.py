"""The claims that this executor has sent in a partition: under way, lost, and what they led to. Pure."""

from msgspec import Struct

from schemas.fold import State
from schemas.ids import ClaimId, ResponseId


class Sent(Struct, frozen=True):
    """A claim that was sent and not read back. `at` is loop time, seconds."""

    id: ResponseId
    attempt: int
    at: float


class Claims:
    """The claims that were sent in one partition."""

    def __init__(self) -> None:
        self.latest: dict[ResponseId, Sent] = {}
        """The last claim sent for a response, until it is read back or outdated: a slot is kept for it."""
        self._sent: dict[ClaimId, Sent] = {}
        self._uncalled: dict[ResponseId, int] = {}
        """The last attempt of responses whose attempts were all this executor's and called no upstream."""

    def __repr__(self) -> str:
        return f"<Claims {len(self.latest)} under way>"

    def send(self, claim: ClaimId, sent: Sent) -> None:
        """Note that a claim was sent."""
        self._sent[claim] = sent
        self.latest[sent.id] = sent

    def read_back(self, claim: ClaimId) -> Sent | None:
        """Note that a claim was read back. Returns what was sent if it is one of ours."""
        sent = self._sent.pop(claim, None)
        if sent is not None and self.latest.get(sent.id) == sent:
            del self.latest[sent.id]
        return sent

    def lost(self, claim: ClaimId) -> None:
        """Note that the append of a claim failed: no slot is kept for it. It may still be in the log."""
        sent = self._sent.get(claim)
        if sent is not None and self.latest.get(sent.id) == sent:
            del self.latest[sent.id]

    def expire(self, before: float) -> None:
        """Forget claims sent before loop time `before`: they are lost."""
        self._sent = {claim: sent for claim, sent in self._sent.items() if sent.at >= before}

    def claimed(self, id: ResponseId) -> None:
        """Note that a claim of the response won: another one that is under way comes too late."""
        self.latest.pop(id, None)

    def closed(self, id: ResponseId) -> None:
        """Note that the response closed."""
        self.latest.pop(id, None)
        self._uncalled.pop(id, None)

    def not_called(self, state: State) -> None:
        """Note that none of the response's attempts so far, all of this executor, called its upstream."""
        self._uncalled[state.id] = state.attempt

    def first_call(self, id: ResponseId, attempt: int) -> bool:
        """Whether no attempt before `attempt` can have called the response's upstream."""
        return attempt == 1 or self._uncalled.get(id) == attempt - 1
