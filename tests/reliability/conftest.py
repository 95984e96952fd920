"""The loop and the deployments of the tests of failure."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from tests.reliability import rig
from tests.reliability.rig import Rig
from tests.reliability.upstream import Upstream, served

Deploy = Callable[..., Rig]
"""`deploy(kafka, **settings)` makes a deployment, nothing of it started yet."""


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """A loop of these tests' own, in a thread: the tests themselves block."""
    with rig.portal() as loop:
        yield loop


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """The model server behind all deployments: each test must name its cases differently."""
    with served() as running:
        yield running


@pytest.fixture(scope="session")
def deploy(portal: BlockingPortal, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Makes deployments that know the upstream's models, each in a folder and under topics of its own."""

    def made(kafka: str, **settings: Any) -> Rig:
        folder = tmp_path_factory.mktemp("rig")
        config = folder / "rejoinder.toml"
        config.write_text(upstream.config)
        return Rig(kafka, folder, portal, config=str(config), **settings)

    return made
