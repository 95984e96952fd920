"""Clients written elsewhere, unmodified, against the whole system (tests/system.py) or `--base-url`."""

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI


@pytest.fixture(scope="session")
def openai(base_url: str) -> Iterator[OpenAI]:
    """The SDK, its answers checked against its own types."""
    with OpenAI(base_url=f"{base_url}/v1", api_key="unused", _strict_response_validation=True) as client:
        yield client


@pytest.fixture
async def async_openai(base_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{base_url}/v1", api_key="unused", _strict_response_validation=True
    ) as client:
        yield client
