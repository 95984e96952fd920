"""The conformance suite: HTTP only, against any base URL.

    pytest tests/conformance --base-url http://127.0.0.1:8000

Without `--base-url` the whole system is started for the session (tests/system.py). Tests cite the rules of
docs/api.md (A-n). They need model `echo`; the tenant header and the CORS origin are options, too.
"""

import pytest

from tests.api import Api


@pytest.fixture(scope="session")
def api(base_url: str) -> Api:
    return Api(base_url)


@pytest.fixture(scope="session")
def stranger(base_url: str, tenant_header: str) -> Api:
    """Another tenant at the same server."""
    return Api(base_url, {tenant_header: "somebody-else"})
