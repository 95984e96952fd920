"""Whatever the load, a plan carries it, also while one process of each kind is away, and is no larger."""

from math import isfinite

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.errors import SettingsError
from services.planning.costs import measured_costs
from services.planning.demand import MOST_READERS, Demand
from services.planning.figures import figures_of
from services.planning.room import network, topic_bytes
from services.planning.sizing import MOST_PARTITIONS, SLOTS, Sized, plan
from services.planning.work import cores

COSTS = measured_costs()


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    """Any demand. Its numbers are as often small as large."""
    streams = draw(_sizes(0, 10_000_000))
    return Demand(
        streams=streams,
        events_per_s=draw(_sizes(1, 100_000)) / 100,
        response_s=draw(_sizes(1, 216_000)) / 10,
        stored=draw(st.none() | _sizes(0, 10**12)),
        readers=min(draw(st.sampled_from([0, 0.5, 1, 3, 100, 100_000])), MOST_READERS / max(1, streams)),
        upstream=draw(st.sampled_from(["responses", "chat", "echo"])),
        event_bytes=draw(_sizes(1, 1 << 20)),
        request_bytes=draw(_sizes(1, 64 << 20)),
        webhooks=draw(_sizes(0, 100)),
        groups=draw(_sizes(1, 1_000_000)),
        events_days=draw(_sizes(1, 36_500)),
        replication=draw(st.integers(3, 9)),
        utilisation=draw(st.integers(30, 90)) / 100,
        broker_cores=draw(_sizes(1, 256)),
        broker_tib=draw(_sizes(1, 10_000)) / 10,
        broker_gbit=draw(_sizes(1, 10_000)) / 10,
    )


def _sizes(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(0, 40).flatmap(
        lambda bits: st.integers(least, max(least, min(most, least + (1 << bits))))
    )


DEMANDS = demands()
GROWING = ("streams", "events_per_s", "stored", "readers", "event_bytes", "events_days")


def planned(demand: Demand) -> Sized:
    """The plan; the example is dropped if there is none."""
    try:
        return plan(demand, COSTS)
    except SettingsError:
        assume(False)
        raise


def processes(sized: Sized) -> int:
    return sized.installations * sum(sized.deployment.processes.values())


@given(DEMANDS)
def test_a_plan_carries_its_load(demand: Demand) -> None:
    sized = planned(demand)
    deployment = sized.deployment
    assert sized.installations * sized.demand.streams >= demand.streams
    assert sized.installations * sized.demand.kept >= demand.kept
    assert all(count >= 2 for count in deployment.processes.values())
    assert deployment.brokers >= deployment.replication >= 3
    assert deployment.replicas >= 2
    assert deployment.shards <= deployment.partitions
    assert deployment.executors < deployment.partitions
    assert all(full <= 1 for bounds in sized.bounds.values() for full in bounds.values())
    assert sized.first in deployment.processes


@given(DEMANDS)
def test_a_plan_has_no_process_too_many(demand: Demand) -> None:
    """With one executor or broker less something is over its bound, unless there are as few as may be."""
    sized = planned(demand)
    for service, least in {"executor": 2, "broker": sized.deployment.replication}.items():
        if sized.deployment.processes[service] > least + 1:
            assert max(sized.bounds[service].values()) > 0.5, service


@given(DEMANDS)
def test_every_figure_is_one(demand: Demand) -> None:
    found = figures_of(planned(demand), COSTS)
    figures = [
        found.replicated,
        found.broker_disk,
        found.store,
        found.rebuild_s,
        found.cores,
        *found.disk.values(),
    ]
    figures += [getattr(found.network, name) for name in found.network.__struct_fields__]
    figures += [share.memory_mib or 0 for share in found.services.values()]
    assert all(isfinite(figure) and figure >= 0 for figure in figures)
    assert found.deployment.partitions <= MOST_PARTITIONS


@given(st.integers(0, 10_000_000), st.integers(1, 100))
def test_every_number_of_usual_streams_has_a_plan(streams: int, events_per_s: int) -> None:
    found = figures_of(plan(Demand(streams=streams, events_per_s=events_per_s), COSTS), COSTS)
    assert found.services["executor"].processes * found.installations * SLOTS >= streams


@given(DEMANDS, st.sampled_from(GROWING), st.floats(1.0, 4.0))
def test_more_of_anything_never_takes_fewer_processes(demand: Demand, name: str, times: float) -> None:
    more = getattr(demand, name)
    if more is None:
        return
    most = {"streams": 10_000_000, "events_per_s": 1_000, "readers": 100_000}.get(name, 1 << 62)
    larger = replace(demand, **{name: min(most, type(more)(more * times))})
    if name == "streams" and demand.stored is None:
        larger = replace(larger, stored=max(larger.kept, demand.kept))
    before, after = planned(demand), planned(larger)
    assert after.installations >= before.installations
    if after.installations == before.installations:
        assert processes(after) >= processes(before)


@given(DEMANDS)
def test_bytes_and_cores_grow_in_proportion(demand: Demand) -> None:
    """Twice the streams on the same processes take twice the bytes. What paces no requests takes no fewer
    cores, and no more than twice as many.
    """
    sized = planned(replace(demand, streams=min(demand.streams, 5_000_000)))
    one, deployment = sized.demand, sized.deployment
    two = replace(one, streams=2 * one.streams, stored=2 * one.kept)
    for name, count in topic_bytes(two, COSTS, deployment.partitions).items():
        assert count <= 2 * topic_bytes(one, COSTS, deployment.partitions)[name] * (1 + 1e-9)
    assert network(two, COSTS, 2).written == 2 * network(one, COSTS, 2).written
    before, after = (cores(load, deployment, COSTS) for load in (one, two))
    for service in ("ingest", "projector", "analytics", "webhooks"):
        assert before[service] <= after[service] <= 2 * before[service] * (1 + 1e-9)
