"""When waiting for a service is given up, and when never."""

import asyncio
from collections.abc import Callable, Iterable

import pytest

from services.web import pulse
from services.web.pulse import LOOKS, Pulse
from tests.conftest import eventually


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "SILENCE_S", 0)


class Service:
    """Answers looks as told, and then always."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)
        self.looks = 0

    async def look(self) -> None:
        self.looks += 1
        if self._answers and not self._answers.pop(0):
            raise ConnectionError


def having(answers: Iterable[bool]) -> Callable[[], bool]:
    """Whether the service has the whole request, each time that it is asked."""
    return iter(answers).__next__


async def test_a_service_that_misses_looks_in_a_row_is_silent() -> None:
    service = Service(*[False] * LOOKS)
    await Pulse(service.look).silence(lambda: True)
    assert service.looks == LOOKS


@pytest.mark.parametrize(
    ("answers", "whole", "looks"),
    [
        ([True], [True], 1),
        ([False] * (LOOKS - 1), [True], LOOKS),
        ([], [False, False, True], 3),
        ([False, True] * LOOKS, [*[False] * (LOOKS - 1), True], 2 * LOOKS),
    ],
    ids=["answers", "answers again", "has not all of it yet", "misses now and then"],
)
async def test_a_service_that_lives_and_has_the_request_may_take_for_ever(
    answers: list[bool], whole: list[bool], looks: int
) -> None:
    service = Service(*answers)
    waiting = asyncio.create_task(Pulse(service.look).silence(having(whole)))
    await eventually(lambda: service.looks == looks)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (service.looks, waiting.done()) == (looks, False)
    waiting.cancel()


async def test_a_service_that_is_known_to_be_silent_is_looked_at_once() -> None:
    service = Service(*[False] * (LOOKS + 1))
    known = Pulse(service.look)
    await known.silence(lambda: True)
    await known.silence(lambda: True)
    assert service.looks == LOOKS + 1


async def test_all_who_wait_share_a_look() -> None:
    service = Service(*[False] * LOOKS)
    shared = Pulse(service.look)
    await asyncio.gather(*(shared.silence(lambda: True) for _ in range(10)))
    assert service.looks <= LOOKS + 1


async def test_a_look_takes_no_longer_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "LOOK_S", 0.01)

    async def never() -> None:
        await asyncio.Event().wait()

    await Pulse(never).silence(lambda: True)
