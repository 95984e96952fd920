"""The openai JavaScript SDK: the cases are in node/openai.test.mjs and node/webhooks.test.mjs."""

from pathlib import Path

import pytest

from tests.clients.conftest import NodeCases
from tests.system import System


@pytest.mark.slow
def test_every_case_passes(node_cases: NodeCases, base_url: str, keepalive_s: float) -> None:
    keepalive = str(int(keepalive_s * 1000))
    assert node_cases("openai.test.mjs", REJOINDER_URL=base_url, KEEPALIVE_MS=keepalive) > 20


@pytest.mark.slow
def test_every_case_of_webhooks_passes(node_cases: NodeCases, kafka: str, tmp_path: Path) -> None:
    with System(kafka, tmp_path, flags=("--without", "analytics")) as system:
        assert node_cases("webhooks.test.mjs", REJOINDER_URL=system.base_url) == 3
