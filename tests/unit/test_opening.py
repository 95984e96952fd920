"""Added partitions get new responses when an executor owns them, and not before (P-145)."""

import asyncio
from collections.abc import Collection, Mapping

import pytest

from schemas.errors import LogUnavailable
from services.replay import opening
from services.replay.opening import Opening
from tests.conftest import eventually


async def test_p145_an_added_partition_opens_when_its_first_owner_has_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "LOOK_S", 0.001)
    owned, asked, away = dict[int, int | None](), list[list[int]](), True

    async def committed(partitions: Collection[int]) -> Mapping[int, int | None]:
        asked.append(list(partitions))
        if away:
            raise LogUnavailable("the log is away")
        return {partition: owned.get(partition) for partition in partitions}

    opens = Opening([0, 1], committed)
    task = asyncio.create_task(opens.run())
    try:
        assert [number in opens for number in range(3)] == [True, True, False]
        opens.add([2, 3])
        await eventually(lambda: len(asked) > 2)
        away = False
        await eventually(lambda: len(asked) > 4)
        assert 2 not in opens
        owned[3] = 0
        await eventually(lambda: 3 in opens)
        assert 2 not in opens
        opens.add([4])
        owned.update({2: 7, 4: 0})
        await eventually(lambda: 2 in opens and 4 in opens)
        looks = len(asked)
        await asyncio.sleep(0.01)
        assert len(asked) == looks, "nothing waits, so nobody asks"
    finally:
        task.cancel()
