"""The window: holds the frames of a response in memory while there is room, and knows where to find them.

The frames are kept in *pages*, runs of consecutive frames up to `PAGE_BYTES` or `PAGE_EVENTS`. The last page
is filling: its list grows by one frame an event, O(1). A full page is joined into one bytes object, which all
readers share. A page remembers its claim and the offsets of its first and last record, so the pages are the
offset index as well (P-83). When memory is short a page's bytes are evicted; its place in the log stays
known, and a seek brings them back.

`Memory` bounds the bytes of all windows together. The oldest pages without a reader are evicted first.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from operator import attrgetter

from schemas.fold import State
from schemas.ids import ClaimId, ResponseId, Tenant
from services.loops import wake

PAGE_BYTES = 16 << 10
PAGE_EVENTS = 64
SPARED = 1024
"""How many pages with readers `shed` spares in one go; after that it evicts such pages as well."""

Push = Callable[[bytes], bool]
"""Writes frames to a client at once. False, and nothing is written, if the client's task must do it."""

_first = attrgetter("first")


class Page:
    """A run of frames. Filling (`frames`), full (`data`), or evicted (neither; the offsets remain)."""

    __slots__ = ("claim", "data", "end", "first", "frames", "joined", "last", "offset", "size", "window")

    def __init__(self, window: "Window", first: int, offset: int, claim: ClaimId | None) -> None:
        self.window = window
        self.first = first
        """The sequence_number of the first frame."""
        self.last = first - 1
        self.offset = offset
        """The offset of the first record; `end` is that of the last."""
        self.end = offset
        self.claim = claim
        """The claim of the events; None while there are only derived ones."""
        self.size = 0
        self.frames: list[bytes] | None = []
        self.data: bytes | None = None
        self.joined: tuple[int, int, bytes] | None = None

    def __repr__(self) -> str:
        kind = "evicted" if self.evicted else "full" if self.frames is None else "filling"
        return f"<Page {self.first}..{self.last} {kind} {self.size} B at {self.offset}..{self.end}>"

    @property
    def evicted(self) -> bool:
        """Whether the page's bytes are not in memory."""
        return self.frames is None and self.data is None

    def read(self, number: int) -> bytes | None:
        """The frames from `number` on, one object for all readers at that place; None if evicted."""
        if self.frames is None:
            return self.data if number == self.first or self.data is None else cut(self.data, number)
        if self.joined is None or self.joined[:2] != (number, self.last):
            self.joined = (number, self.last, b"".join(self.frames[number - self.first :]))
        return self.joined[2]

    def seal(self) -> None:
        """Make the page full: no frame is added any more."""
        if self.frames is not None:
            self.data, self.frames, self.joined = b"".join(self.frames), None, None


def cut(data: bytes, number: int) -> bytes:
    """The frames in `data` from `number` on. Raises ValueError if that frame is not there."""
    before = data.rfind(b"\n\n", 0, data.index(b"\nid: %d\n" % number))
    return data[before + 2 :] if before >= 0 else data


class Memory:
    """The bytes that all windows hold, bounded."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.used = 0
        self.evicted = 0
        """How many pages were evicted so far."""
        self._pages: OrderedDict[Page, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Memory {self.used} of {self.bound} B in {len(self._pages)} pages>"

    def keep(self, page: Page) -> None:
        """Add `page` as the newest. The caller counts its bytes in `used`."""
        self._pages[page] = None

    def drop(self, page: Page) -> None:
        """Free the page's bytes, if they are in memory."""
        if page in self._pages:
            del self._pages[page]
            self.used -= page.size
            page.frames = page.data = page.joined = None

    def shed(self) -> None:
        """Evict pages until the bound is kept: the oldest first, those with readers last."""
        spare = SPARED
        while self.used > self.bound and self._pages:
            page = next(iter(self._pages))
            if spare and page.window.readers:
                spare -= 1
                self._pages.move_to_end(page)
            else:
                self.evicted += 1
                self.drop(page)


class Live:
    """A reader that has got every frame so far: the next ones are pushed, without a turn of its task."""

    __slots__ = ("number", "over", "push")

    def __init__(self, number: int, push: Push, over: asyncio.Future[None]) -> None:
        self.number = number
        """The frame that it gets next."""
        self.push = push
        self.over = over
        """Done when its task must look what is in the way."""

    def go_on(self, window: "Window") -> bool:
        """Push the next page. Returns whether there is another one to push.

        What raises is raised in the reader's own task: it is the fault of one stream, not of the feed.
        """
        try:
            taken = self.number <= window.last and self._push(window)
        except Exception as error:
            if not self.over.done():
                self.over.set_exception(error)
            return False
        left = self.number <= window.last
        if (left and not taken) or window.state.closed or window.dropped:
            wake(self.over)
        return left and taken

    def _push(self, window: "Window") -> bool:
        page = window.page(self.number)
        data, last = page.read(self.number), page.last
        if data is None or not self.push(data):
            return False
        self.number = last + 1
        return True


class Window:
    """The frames of one response from event 0 on, and the readers that wait for the next."""

    __slots__ = (
        "_filling",
        "_future",
        "_lives",
        "_memory",
        "_waiting",
        "dropped",
        "last",
        "pages",
        "readers",
        "state",
    )

    def __init__(self, state: State, memory: Memory) -> None:
        self.state = state
        """The fold's state of the response, for as long as the window lives."""
        self.last = -1
        """The number of the last frame."""
        self.pages: list[Page] = []
        self.readers = 0
        self.dropped = False
        """Whether the window serves no more: the response was deleted or forgotten, or the fold was lost."""
        self._memory = memory
        self._filling: Page | None = None
        self._lives: dict[Live, None] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._future: Callable[[], asyncio.Future[None]] | None = None
        """Makes a future of the loop, which is asked for once: on Python 3.11 that is a system call."""

    def __repr__(self) -> str:
        return f"<Window {self.state!r} pages={len(self.pages)} readers={self.readers}>"

    @property
    def id(self) -> ResponseId:
        """The response's id."""
        return self.state.id

    @property
    def tenant(self) -> Tenant:
        """The response's tenant."""
        return self.state.tenant

    @property
    def stored(self) -> bool:
        """Whether the response is kept for good."""
        return self.state.accepted is not None and self.state.accepted.store

    @property
    def visible(self) -> bool:
        """Whether its tenant may see it on any connection while it is kept, not only its creator (P-78)."""
        return self.stored or self.state.ephemeral

    @property
    def lasting(self) -> bool:
        """Whether `transcripts` must get a record of it: its transcript, or that it is gone (P-79)."""
        accepted = self.state.accepted
        return accepted is not None and (accepted.store or accepted.keyed)

    def append(self, frame: bytes, offset: int, claim: ClaimId | None) -> None:
        """Add the next frame, of the record at `offset`; `claim` is None for a derived one."""
        page = self._filling
        if page is None or page.frames is None or claim is not page.claim or page.size >= PAGE_BYTES:
            page = self._page_for(offset, claim)
        frames = page.frames
        assert frames is not None
        frames.append(frame)
        page.end = offset
        self.last = page.last = page.last + 1
        size = len(frame)
        page.size += size
        self._memory.used += size
        if len(frames) >= PAGE_EVENTS:
            page.seal()

    def page(self, number: int) -> Page:
        """The page that holds frame `number`, which must be 0..last."""
        pages = self.pages
        if number >= pages[-1].first:
            return pages[-1]
        return pages[bisect_right(pages, number, key=_first) - 1]

    def refill(self, page: Page, data: bytes) -> None:
        """Put the bytes of an evicted page back."""
        if page.evicted and not self.dropped:
            page.data, page.size = data, len(data)
            self._memory.used += page.size
            self._memory.keep(page)

    def drop(self) -> None:
        """Free everything, and end the waiting of all readers."""
        self.dropped = True
        for page in self.pages:
            self._memory.drop(page)
        for _ in self.tell():
            pass

    def tell(self) -> Iterator[None]:
        """Wake those that wait in `changed`, and push to each reader at the end what it has not got. Yields
        after each page. Readers that came meanwhile have seen what there is.
        """
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            wake(future)
        for live in list(self._lives):
            while live in self._lives and live.go_on(self):
                yield
            yield

    async def changed(self) -> None:
        """Wait until something is told."""
        future = self._made()
        self._waiting[future] = None
        try:
            await future
        finally:
            self._waiting.pop(future, None)

    async def pushed(self, number: int, push: Push) -> int:
        """Push the frames from `number` on as they come, while `push` takes them and they are in memory.

        Returns the number of the next frame, which is there and was not taken, unless the window is closed or
        dropped.
        """
        live = Live(number, push, self._made())
        self._lives[live] = None
        try:
            await live.over
        finally:
            del self._lives[live]
        return live.number

    def _made(self) -> asyncio.Future[None]:
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future
        return self._future()

    def _page_for(self, offset: int, claim: ClaimId | None) -> Page:
        """The filling page if a frame of `claim` fits, else a new one."""
        page = self._filling
        if page is not None and page.frames is not None:
            if page.size < PAGE_BYTES and (claim is None or page.claim is None):
                page.claim = page.claim or claim
                return page
            page.seal()
        page = self._filling = Page(self, self.last + 1, offset, claim)
        self.pages.append(page)
        self._memory.keep(page)
        return page
