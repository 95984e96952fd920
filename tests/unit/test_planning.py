"""How large an installation must be: the model's edges, the command, and what it assumes of the services."""

import json

import msgspec
import pytest
import yaml

from schemas.errors import SettingsError
from services.cli import run
from services.eventlog import kafka_writer
from services.eventlog.topics import DAY, RETENTION, USAGE_RETENTION, specs, topics
from services.executor import executor
from services.planning import room, sizing, work
from services.planning.costs import MEANINGS, Costs, measured_costs
from services.planning.demand import DAY_S, DEFAULTS, STORED_DAYS, TAKES, Demand, demand_of
from services.planning.deployment import Deployment
from services.planning.figures import Figures, figures_of
from services.planning.room import WINDOW_MIB
from services.planning.sizing import LIMIT, plan
from services.projector import projector
from services.settings import Settings, load
from services.terminal.plan import in_bits, in_bytes, plan_lines
from tests.chart import CHART

COSTS = measured_costs()


def planned(**load: object) -> Figures:
    return figures_of(plan(Demand(**{"streams": 1_000, **load}), COSTS), COSTS)  # type: ignore[arg-type]


def test_what_it_assumes_of_the_services_is_so() -> None:
    settings = Settings()
    assert work.SHORTEST_PACE_S == kafka_writer.LEAST_PACE_S
    assert work.LONGEST_PACE_S == kafka_writer.LONGEST_PACE_S
    assert work.BUSY == kafka_writer.BUSY
    assert 1 / work.CYCLES == kafka_writer.LONGEST_PACE_S
    assert 1 / work.OWN_READS == executor.LONGEST_PACE_S
    assert 1 / work.PROJECTOR_READS == projector.PACE_S
    assert settings.replay_memory_bytes >> 20 == room.WINDOW_MIB
    assert settings.closings_days == room.CLOSINGS_DAYS
    assert settings.usage_days == room.USAGE_DAYS
    assert STORED_DAYS * DAY == RETENTION
    assert room.USAGE_DAYS * DAY == USAGE_RETENTION
    assert sum(spec.partitions is None for spec in specs(topics())) == sizing.TOPICS
    load({"REJOINDER_PARTITIONS": str(sizing.MOST_PARTITIONS)})
    with pytest.raises(SettingsError):
        load({"REJOINDER_PARTITIONS": str(sizing.MOST_PARTITIONS + 1)})


def test_nothing_at_all_takes_what_may_lose_one_of_each() -> None:
    found = planned(streams=0)
    assert found.deployment == Deployment(brokers=3, replication=3, replicas=2, shards=1, partitions=8)
    assert {share.processes for share in found.services.values()} == {2, 3}
    assert found.network.written == found.network.clients == found.replicated == found.store == 0


def test_a_lone_stream_with_many_readers_is_one_shard_with_many_replicas() -> None:
    deployment = planned(streams=1, readers=100_000).deployment
    assert deployment.shards == 1
    assert deployment.replicas * sizing.CONNECTIONS * LIMIT >= 100_000


def test_what_nothing_carries_is_said() -> None:
    with pytest.raises(SettingsError, match="fewer --readers"):
        planned(streams=1, events_per_s=1_000, readers=100_000)
    with pytest.raises(SettingsError, match=r"--readers: 1000 for each of 1,000,000 streams .* up to 100"):
        demand_of({"streams": "1000000", "readers": "1000"})


def test_many_streams_are_shared_out_and_no_shard_has_one_replica() -> None:
    deployment = planned(streams=100_000).deployment
    assert deployment.shards > 1
    assert deployment.replicas >= 2
    assert deployment.partitions >= 2 * deployment.executors >= 2 * deployment.shards


def test_slow_streams_are_bound_by_slots() -> None:
    found = planned(streams=100_000, events_per_s=0.1, response_s=3_600)
    assert found.services["executor"].decided_by == "slots, one away"
    assert (found.deployment.executors - 1) * sizing.SLOTS >= 100_000


def test_long_retention_is_bound_by_disks_and_a_slow_network_by_the_network() -> None:
    assert planned(events_days=3_650).services["broker"].decided_by == "disk"
    assert planned(events_days=1, stored=0, broker_gbit=0.1).services["broker"].decided_by == "network"


def test_beyond_what_one_kafka_holds_there_are_several() -> None:
    found = planned(streams=10_000_000)
    assert found.installations > 1
    assert found.installations * found.demand.streams >= 10_000_000
    held = found.deployment.partitions * sizing.TOPICS * found.deployment.replication
    assert held <= sizing.CLUSTER_PARTITIONS
    assert "installations" in "".join(plan_lines(found))


def test_stored_responses_are_those_of_thirty_days_unless_named() -> None:
    assert Demand(streams=10, response_s=10).kept == STORED_DAYS * DAY_S
    assert Demand(streams=10, stored=7).kept == 7


def test_more_executors_at_one_load_ask_more_often() -> None:
    """Each leaves its own time between two requests."""
    demand = Demand(streams=100, events_per_s=100)
    few, many = (Deployment(executors=n, brokers=1, replication=1, partitions=32) for n in (1, 8))
    assert work.work_of(demand, few).appends == 1 / work.LONGEST_PACE_S
    assert work.work_of(demand, many).appends > work.work_of(demand, few).appends
    assert work.cores(demand, many, COSTS)["broker"] > work.cores(demand, few, COSTS)["broker"]


def test_every_cost_is_measured_and_has_a_unit() -> None:
    assert set(MEANINGS) == {name for name in Costs.__struct_fields__ if name != "machine"}
    for name, meaning in MEANINGS.items():
        assert getattr(COSTS, name) >= 0, name
        unit = name.rpartition("_")[2]
        word = {"us": "µs", "mib": "MiB", "kib": "KiB"}.get(unit, unit)
        assert meaning.description.startswith(word), name


@pytest.mark.parametrize("name", TAKES)
def test_a_bad_value_names_the_flag_and_what_it_takes(name: str) -> None:
    for bad in ("-1", "x", "1e300"):
        with pytest.raises(SettingsError) as caught:
            demand_of({"streams": "1", name: bad})
        assert str(caught.value).startswith(f"--{name.replace('_', '-')}: {bad!r} does not fit; it takes ")


@pytest.mark.parametrize("arguments", [[], ["--streams", "-1"], ["--streams", "9", "--replication", "2"]])
def test_the_command_says_in_a_line_what_is_wrong(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", *arguments]) == 2
    said = capfd.readouterr()
    assert said.err.startswith("rejoinder: --") or said.err.startswith("rejoinder: '--")
    assert said.err.count("\n") == 1
    assert not said.out


def test_the_command_prints_a_table_or_all_figures(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--streams", "100_000", "--events-per-s", "20", "--stored", "10000000"]
    assert run(arguments) == 0
    table = capfd.readouterr().out
    found = planned(streams=100_000, stored=10_000_000)
    assert table.splitlines() == list(plan_lines(found))
    assert run([*arguments, "--json"]) == 0
    assert msgspec.convert(json.loads(capfd.readouterr().out), Figures) == found
    for service, share in found.services.items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"{service} ") and "%" in line)
        assert f" {share.processes:,} " in row


def test_the_flags_are_the_fields() -> None:
    defaults = Demand(streams=0)
    assert {name: text for name, text in DEFAULTS.items() if text} == {
        name: str(getattr(defaults, name)) for name in TAKES if name not in {"streams", "stored"}
    }


@pytest.mark.parametrize(
    "count, text",
    [(0, "0 bytes"), (999, "999 bytes"), (1_000, "0.977 KiB"), (3 << 40, "3 TiB"), (1 << 70, "1.02e+03 EiB")],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert in_bytes(count) == text


def test_rates_are_in_bits() -> None:
    assert in_bits(0) == "0 kbit/s"
    assert in_bits(125_000) == "1 Mbit/s"
    assert in_bits(1.25e9) == "10 Gbit/s"
    assert in_bits(1.25e12) == "10 Tbit/s"


def test_the_chart_asks_for_what_the_plan_says() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    found = planned(events_days=1)
    for service, share in found.services.items():
        if service == "broker":
            continue
        asked = values[service]["resources"]["requests"]
        assert cores_in(asked["cpu"]) >= share.cores / share.processes, service
        assert share.memory_mib is not None
        assert mib_in(asked["memory"]) >= share.memory_mib, service
        assert values[service]["replicas"] >= 2
    full = COSTS.replay_base_mib + WINDOW_MIB + sizing.CONNECTIONS * COSTS.reader_kib / 1024
    assert mib_in(values["replay"]["resources"]["requests"]["memory"]) >= full
    assert values["autoscaling"]["cpuPercent"] == 100 * found.demand.utilisation
    brokers = values["kafka"]["strimzi"]["brokers"]
    assert cores_in(brokers["resources"]["requests"]["cpu"]) >= found.services["broker"].cores / 3
    assert mib_in(brokers["size"]) << 20 >= planned(streams=5).broker_disk


def cores_in(quantity: str) -> float:
    return float(quantity.removesuffix("m")) / (1000 if quantity.endswith("m") else 1)


def mib_in(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]
