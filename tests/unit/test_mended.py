"""Faust is mended where a rebalance would lose what is read again, and no other Faust is taken."""

import inspect

import pytest

consumer = pytest.importorskip("faust.transport.consumer", reason="analytics is not installed")

from services.analytics.mended import METHOD, FaustUnknown, mend_faust  # noqa: E402  # it needs Faust


def test_the_installed_faust_is_mended_once() -> None:
    kind = type("Fresh", (consumer.Consumer,), {})
    mend_faust(kind)
    mended = vars(kind)[METHOD]
    assert inspect.iscoroutinefunction(mended)
    mend_faust(kind)
    assert vars(kind)[METHOD] is mended


def test_another_faust_is_refused() -> None:
    with pytest.raises(FaustUnknown, match=r"install faust-streaming==0\.15\.3"):
        mend_faust(type("Other", (), {METHOD: test_the_installed_faust_is_mended_once}))
