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
        """The last attempt of responses whose attempts were all mine, and none called its upstream (P-42)."""

    def __repr__(self) -> str:
        return f"<Claims {len(self.latest)} under way>"

    def send(self, claim: ClaimId, sent: Sent) -> None:
        """A claim was sent."""
        self._sent[claim] = sent
        self.latest[sent.id] = sent

    def read_back(self, claim: ClaimId) -> Sent | None:
        """A claim was read back: when it was sent, if it is one of ours."""
        sent = self._sent.pop(claim, None)
        if sent is not None and self.latest.get(sent.id) == sent:
            del self.latest[sent.id]
        return sent

    def lost(self, claim: ClaimId) -> None:
        """An append of a claim failed: nothing is kept free for it. It may be in the log all the same."""
        sent = self._sent.get(claim)
        if sent is not None and self.latest.get(sent.id) == sent:
            del self.latest[sent.id]

    def expire(self, before: float) -> None:
        """Forget claims sent before loop time `before`: they are lost."""
        self._sent = {claim: sent for claim, sent in self._sent.items() if sent.at >= before}

    def claimed(self, id: ResponseId) -> None:
        """Somebody's claim won: mine, if one is under way, comes too late."""
        self.latest.pop(id, None)

    def closed(self, id: ResponseId) -> None:
        """The response closed."""
        self.latest.pop(id, None)
        self._uncalled.pop(id, None)

    def not_called(self, state: State) -> None:
        """Under none of its attempts, which are mine, the upstream of the response was called."""
        self._uncalled[state.id] = state.attempt

    def first_call(self, id: ResponseId, attempt: int) -> bool:
        """Whether nobody can have called the upstream of the response under a claim before `attempt`."""
        return attempt == 1 or self._uncalled.get(id) == attempt - 1
