"""A test that hangs fails; it does not hold up the others for ever."""

import asyncio

import pytest

from tests.conftest import bounded


async def test_a_test_that_hangs_fails_and_cleans_up() -> None:
    over: list[object] = []

    async def hangs(what: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            over.append(what)

    with pytest.raises(TimeoutError):
        await bounded(hangs, 0.01)("cleaned up")
    assert over == ["cleaned up"]
