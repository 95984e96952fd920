"""The openai JavaScript SDK: the cases are in node/openai.test.mjs and node/webhooks.test.mjs."""

import pytest

from tests.clients.conftest import NodeCases


@pytest.mark.slow
def test_every_case_passes(node_cases: NodeCases, base_url: str, keepalive_s: float) -> None:
    keepalive = str(int(keepalive_s * 1000))
    assert node_cases("openai.test.mjs", REJOINDER_URL=base_url, KEEPALIVE_MS=keepalive) > 20


@pytest.mark.slow
def test_every_case_of_webhooks_passes(node_cases: NodeCases, base_url: str) -> None:
    assert node_cases("webhooks.test.mjs", REJOINDER_URL=base_url) == 3
