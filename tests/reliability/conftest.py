"""The loop and the deployments of the tests of failure."""

from collections.abc import Iterator

import pytest
from anyio.from_thread import BlockingPortal

from tests.reliability import rig


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """A loop of these tests' own, in a thread: the tests themselves block."""
    with rig.portal() as loop:
        yield loop
