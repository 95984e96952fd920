"""The window's pages: what a reader gets from them, and that their memory is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import frame
from schemas.fold import State
from schemas.ids import ClaimId, ResponseId, Tenant
from services.replay.window import PAGE_BYTES, PAGE_EVENTS, Memory, Window

ONE, TWO = ClaimId("c1"), ClaimId("c2")
sizes = st.lists(st.sampled_from([1, 10, 200, 5000, 20_000]), min_size=1, max_size=200)


def frames_of(lengths: list[int]) -> list[bytes]:
    return [frame("t", number, b'{"x":"%b"}' % (b"x" * length)) for number, length in enumerate(lengths)]


def window_of(frames: list[bytes], memory: Memory | None = None, id: str = "resp_0") -> Window:
    window = Window(State(ResponseId(id), Tenant("t"), 0, 0), memory or Memory(1 << 30))
    for offset, each in enumerate(frames):
        window.append(each, offset, ONE)
    return window


def read(window: Window, cursor: int) -> bytes:
    """What a reader gets that takes page by page."""
    parts, number = [], cursor + 1
    while number <= window.last:
        page = window.page(number)
        data = page.read(number)
        assert data is not None
        parts.append(data)
        number = page.last + 1
    return b"".join(parts)


@given(sizes, st.data())
def test_every_cursor_gets_exactly_what_comes_after_it(lengths: list[int], data: st.DataObject) -> None:
    frames = frames_of(lengths)
    window = window_of(frames)
    cursor = data.draw(st.integers(-1, len(frames)))

    assert read(window, cursor) == b"".join(frames[cursor + 1 :])


@given(sizes)
def test_pages_are_short_runs_without_a_gap(lengths: list[int]) -> None:
    frames = frames_of(lengths)
    window = window_of(frames)

    assert window.pages[0].first == 0
    assert all(a.last + 1 == b.first for a, b in zip(window.pages, window.pages[1:], strict=False))
    assert window.pages[-1].last == window.last == len(frames) - 1
    for page in window.pages:
        count = page.last - page.first + 1
        assert count <= PAGE_EVENTS
        assert count == 1 or page.size - len(frames[page.last]) < PAGE_BYTES
        assert (page.offset, page.end) == (page.first, page.last)


def test_a_new_claim_begins_a_new_page_and_derived_events_do_not() -> None:
    window = window_of([])
    frames = frames_of([1] * 6)
    for number, claim in enumerate([None, None, ONE, ONE, TWO, None]):
        window.append(frames[number], number, claim)

    assert [(page.claim, page.first, page.last) for page in window.pages] == [(ONE, 0, 3), (TWO, 4, 5)]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([10, 3000])), max_size=300), st.integers(0, 60_000)
)
def test_memory_is_bounded_and_counts_what_it_holds(steps: list[tuple[int, int]], bound: int) -> None:
    memory = Memory(bound)
    windows = [window_of([], memory, f"resp_{n}") for n in range(4)]
    for offset, (which, length) in enumerate(steps):
        windows[which].append(frames_of([length])[0], offset, ONE)
        memory.shed()
        assert memory.used <= bound
    held = [page for window in windows for page in window.pages if not page.evicted]

    assert memory.used == sum(page.size for page in held)
    for window in windows:
        window.drop()
    assert memory.used == 0


def test_the_oldest_page_that_nobody_reads_goes_first() -> None:
    memory = Memory(1 << 30)
    frames = frames_of([100] * 200)
    watched, idle, newer = (window_of(frames, memory, f"resp_{n}") for n in range(3))
    watched.readers = 1

    memory.bound = memory.used - 1
    memory.shed()
    assert [page.evicted for page in idle.pages] == [True, False, False, False]

    memory.bound = sum(page.size for page in watched.pages)
    memory.shed()
    assert not any(page.evicted for page in watched.pages)
    assert all(page.evicted for page in (*idle.pages, *newer.pages))

    memory.bound = 0
    memory.shed()
    assert all(page.evicted for page in watched.pages)


def test_a_page_evicted_while_it_fills_is_followed_by_a_new_one() -> None:
    memory = Memory(0)
    window = window_of(frames_of([10, 10]), memory)
    memory.shed()
    memory.bound = 1 << 20
    later = frames_of([10, 10, 10])[2]
    window.append(later, 2, ONE)

    assert [page.evicted for page in window.pages] == [True, False]
    assert window.page(2).read(2) == later


def test_a_refilled_page_is_the_newest_and_counts_again() -> None:
    memory = Memory(0)
    frames = frames_of([10, 20])
    window = window_of(frames, memory)
    memory.shed()
    page = window.page(0)
    memory.bound = 1 << 20
    window.refill(page, b"".join(frames))

    assert memory.used == len(b"".join(frames))
    assert page.read(1) == frames[1]


def test_readers_at_the_same_place_share_one_object() -> None:
    window = window_of(frames_of([10] * 20))
    page = window.page(3)

    assert page.read(3) is page.read(3)
    full = window_of(frames_of([10] * 200)).page(0)
    assert full.read(0) is full.read(0)
