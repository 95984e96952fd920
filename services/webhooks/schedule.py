"""Says which delivery is attempted next. Pure.

    waiting   by the time at which each is due
    ready     due: a queue for each endpoint; the endpoints take turns
    under way so many of an endpoint at once, and so many in all

An endpoint that failed last has one attempt at a time, and all such endpoints together have half of what
there is. So however many are dead, and however long each attempt at them takes, those that live are served
(A-37).
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from msgspec import Struct

from schemas.webhooks import DeliveryId, DeliveryRecord, EndpointId


class _UnderWay(Struct):
    """An attempt. `attempts` is how many the delivery had had before."""

    attempts: int
    wanted: DeliveryRecord | None = None
    """The delivery as it was `put` meanwhile."""


class Schedule:
    """What is due. At most `most` attempts are under way, and `most_each` of one endpoint. `stir` is called
    when there may be more to do.
    """

    def __init__(self, most: int, most_each: int, stir: Callable[[], object] = lambda: None) -> None:
        self._stir = stir
        self._most = most
        self._most_each = most_each
        self._order = count()
        self._waiting: list[tuple[int, int, DeliveryId]] = []
        self._known: dict[DeliveryId, tuple[int, DeliveryRecord]] = {}
        """What waits or is ready, each with its place in the order: an entry with another place is stale."""
        self._ready: dict[EndpointId, deque[tuple[int, DeliveryId]]] = {}
        self._turns: tuple[OrderedDict[EndpointId, None], OrderedDict[EndpointId, None]]
        self._turns = OrderedDict(), OrderedDict()
        """The endpoints that may have another attempt: those that live, and those that failed last."""
        self._under_way: dict[DeliveryId, _UnderWay] = {}
        """Attempts under way, or whose outcome is not read back."""
        self._running: Counter[EndpointId] = Counter()
        self._failing: set[EndpointId] = set()
        """Endpoints whose last attempt failed."""
        self._attempted: set[EndpointId] = set()
        """Endpoints of which this is known. Of others a delivery that failed before says it."""
        self._began_failing = False
        """Whether the attempt before was at one of these: they and the others take turns too."""

    def __repr__(self) -> str:
        return f"<Schedule: {len(self._known)} due, {self._running.total()} under way>"

    def __len__(self) -> int:
        return len(self._known)

    @property
    def running(self) -> int:
        """Attempts under way."""
        return self._running.total()

    def put(self, delivery: DeliveryRecord) -> None:
        """A pending delivery, as the log has it. One that is under way comes again with its outcome."""
        under_way = self._under_way.get(delivery.id)
        if under_way is not None and delivery.attempts <= under_way.attempts:
            under_way.wanted = delivery
            return
        self._under_way.pop(delivery.id, None)
        if delivery.attempts and delivery.endpoint not in self._attempted:
            self._failing.add(delivery.endpoint)
        place = next(self._order)
        self._known[delivery.id] = place, delivery
        heappush(self._waiting, (delivery.next_at, place, delivery.id))
        self._stir()

    def drop(self, id: DeliveryId) -> None:
        """Forget a delivery that is over."""
        self._known.pop(id, None)
        self._under_way.pop(id, None)

    def rest(self, id: DeliveryId) -> None:
        """Forget a delivery that is another worker's for now. An attempt that is under way goes on."""
        self._known.pop(id, None)
        if id in self._under_way:
            self._under_way[id].wanted = None

    def next(self, now_ms: int) -> DeliveryRecord | None:
        """The delivery to attempt now; None: there is none, or no room. Tell when it `ended`."""
        self._make_ready(now_ms)
        if self.running >= self._most:
            return None
        for failing in (not self._began_failing, self._began_failing):
            if failing and not self._has_room_for_failing():
                continue
            while self._turns[failing]:
                if (delivery := self._take(next(iter(self._turns[failing])))) is not None:
                    self._began_failing = failing
                    return delivery
        return None

    def ended(self, delivery: DeliveryRecord, *, ok: bool, recorded: bool) -> None:
        """An attempt is over: there is room for another. `recorded`: its outcome is in the log, and will be
        read; if not, the delivery is due again if it was `put` meanwhile.
        """
        under_way = None if recorded else self._under_way.pop(delivery.id, None)
        if under_way is not None and under_way.wanted is not None:
            self.put(under_way.wanted)
        endpoint = delivery.endpoint
        self._running[endpoint] -= 1
        if not self._running[endpoint]:
            del self._running[endpoint]
        self._leave(endpoint)
        self._attempted.add(endpoint)
        if ok:
            self._failing.discard(endpoint)
        else:
            self._failing.add(endpoint)
        self._enter(endpoint)
        self._stir()

    def due_in(self, now_ms: int) -> int | None:
        """Milliseconds until the next one is due; None: nothing waits."""
        while self._waiting and not self._is_known(*self._waiting[0][1:]):
            heappop(self._waiting)
        return max(0, self._waiting[0][0] - now_ms) if self._waiting else None

    def _take(self, endpoint: EndpointId) -> DeliveryRecord | None:
        """The next delivery of an endpoint whose turn it is, begun; None: it has no more."""
        queue = self._ready[endpoint]
        self._leave(endpoint)
        while queue:
            place, id = queue.popleft()
            if self._is_known(place, id):
                _, delivery = self._known.pop(id)
                self._under_way[id] = _UnderWay(delivery.attempts)
                self._running[endpoint] += 1
                self._enter(endpoint)
                return delivery
        del self._ready[endpoint]
        return None

    def _enter(self, endpoint: EndpointId) -> None:
        """Give an endpoint a turn, after the others, if something is ready and it may have an attempt."""
        failing = endpoint in self._failing
        most = 1 if failing else self._most_each
        if self._ready.get(endpoint) and self._running[endpoint] < most:
            self._turns[failing].setdefault(endpoint)

    def _leave(self, endpoint: EndpointId) -> None:
        for turns in self._turns:
            turns.pop(endpoint, None)

    def _has_room_for_failing(self) -> bool:
        under_way = sum(n for endpoint, n in self._running.items() if endpoint in self._failing)
        return under_way < max(1, self._most // 2)

    def _make_ready(self, now_ms: int) -> None:
        while self._waiting and self._waiting[0][0] <= now_ms:
            _, place, id = heappop(self._waiting)
            if self._is_known(place, id):
                endpoint = self._known[id][1].endpoint
                self._ready.setdefault(endpoint, deque()).append((place, id))
                self._enter(endpoint)

    def _is_known(self, place: int, id: DeliveryId) -> bool:
        return id in self._known and self._known[id][0] == place
