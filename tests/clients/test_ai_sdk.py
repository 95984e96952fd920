"""Vercel's AI SDK (`ai`, `@ai-sdk/openai`): the cases are in node/ai-sdk.test.mjs."""

import pytest

from tests.clients.conftest import NodeCases


@pytest.mark.slow
def test_every_case_passes(node_cases: NodeCases, models: str) -> None:
    assert node_cases("ai-sdk.test.mjs", REJOINDER_URL=models.removesuffix("/v1")) > 40
