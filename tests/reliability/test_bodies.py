"""The largest bodies of every shape, one after the other, through real processes: none of them dies of one,
and all of them answer afterwards.

What a step of each costs is in `tests/property/test_bodies*.py`; here it is the same interpreter, stack and
memory that an operator has.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from services.settings import Settings
from tests.api import Api
from tests.bodies import FITTING, REFUSED, sorted_members
from tests.long import SOAK
from tests.reliability.rig import Rig, Service
from tests.upstreams import Call, served

LARGEST = Settings().max_body_bytes
GROWTH = 30
"""How many times the largest body a process may grow by, at most."""
MODELS = ("echo", "chat-1", "responses-1")


async def answer(call: Call) -> None:
    await call.head()
    if call.path.endswith("/chat/completions"):
        await call.write(
            b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
        )
        await call.write(b"data: [DONE]\n\n")
    else:
        whole: dict[str, Any] = {"id": "resp_1", "status": "completed", "output": []}
        await call.events({"type": "response.completed", "response": whole})


@pytest.fixture(scope="module")
def rig(kafka: str, portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("bodies")
    with served(answer) as upstream:
        toml = folder / "rejoinder.toml"
        toml.write_text(
            f'[[models]]\nmatch = "chat-*"\nbackend = "chat"\nbase_url = "{upstream.url}/v1"\n'
            f'[[models]]\nmatch = "responses-*"\nbase_url = "{upstream.url}/v1"\n'
        )
        with Rig(kafka, folder, portal, partitions=1, config=str(toml)) as running:
            running.start_all()
            yield running


@pytest.fixture
def services(rig: Rig) -> Iterator[list[Service]]:
    """The services: those that run before a test run after it, are ready, and have grown within bounds."""
    running = list(rig.alive)
    before = {service.pid: service.rss_mib for service in running}
    yield running
    assert rig.alive == running, [service.log[-2000:] for service in running if not service.alive]
    rig.ready(running)
    grown = {service.name: service.rss_mib - before[service.pid] for service in running}
    assert max(grown.values()) < GROWTH * LARGEST / (1 << 20), grown
    assert works(rig.api)


def works(api: Api) -> bool:
    return bool(api.response(api.closed("one two"))["status"] == "completed")


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("count", [20_000, 49_000, 60_000, 300_000])
@pytest.mark.usefixtures("services")
def test_sorted_members_kill_nobody(rig: Rig, count: int, nested: bool) -> None:
    posted = rig.api.post(sorted_members(count, nested=nested))
    assert posted.status == (200 if count < 50_000 else 413)
    if posted.status == 413 and nested:
        assert posted.json["error"]["param"] == "x"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("services")
def test_bodies_that_fit_are_taken_and_end_whatever_their_shape(rig: Rig, model: str) -> None:
    ends: dict[str, int] = {}
    shapes = list(FITTING.items())
    if not SOAK:
        shapes = shapes[MODELS.index(model) :: len(MODELS)]
    for name, shape in shapes:
        raw = shape(LARGEST // 2).replace(b'"model":"echo"', f'"model":"{model}"'.encode(), 1)
        raw = raw if b'"background":true' in raw[:60] else raw.replace(b"{", b'{"background":true,', 1)
        posted = rig.api.post(raw)
        if name == "references":
            assert posted.status == 400  # there is nothing that they refer to
            continue
        assert posted.status == 200, (name, posted.body[:300])
        id = posted.json["id"]
        status = rig.api.eventually(id, lambda found: found["completed_at"] or found["error"])["status"]
        assert status in ("completed", "failed"), name
        assert rig.api.input_items(id, "?limit=100").status == 200, name
        ends[status] = ends.get(status, 0) + 1
    assert ends["completed"] > len(shapes) / 2, ends


@pytest.mark.usefixtures("services")
def test_bodies_that_do_not_fit_are_refused_whatever_their_shape(rig: Rig) -> None:
    for name, shape in REFUSED.items():
        posted = rig.api.post(shape(LARGEST - 200))
        assert posted.status in (400, 413), (name, posted.body[:300])


@pytest.mark.usefixtures("services")
def test_a_chain_of_the_largest_bodies_goes_on(rig: Rig) -> None:
    previous = None
    for name in ("picture", "bare messages", "letters of any size"):
        raw = FITTING[name](LARGEST // 2).replace(b'"model":"echo"', b'"model":"responses-1"', 1)
        if previous:
            raw = raw.replace(b"{", b'{"previous_response_id":"%b",' % previous.encode(), 1)
        posted = rig.api.post(raw)
        assert posted.status == 200, posted.body[:300]
        previous = posted.json["id"]
        assert rig.api.eventually(
            previous, lambda found: found["status"] != "queued" and found["completed_at"]
        )
