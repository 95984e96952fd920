"""What the services show to Prometheus: every metric of the code, and the samples of this process."""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY

SERVICES = Path(__file__).parents[1] / "services"
_BY_TYPE = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


class Shown(NamedTuple):
    """A metric: `samples` are the names of its time series, `labels` those of each."""

    name: str
    type: str
    samples: tuple[str, ...]
    labels: frozenset[str]


def all_shown() -> dict[str, Shown]:
    """Every metric of Rejoinder, by the name that pages and expressions give it."""
    for module in sorted(SERVICES.rglob("*.py")):
        if "from prometheus_client import" in module.read_text():
            import_module(".".join(module.relative_to(SERVICES.parent).with_suffix("").parts))
    found = {}
    for collector in list(REGISTRY._collector_to_names):
        for family in collector.collect():
            if not family.name.startswith("rejoinder_"):
                continue
            named = [getattr(one, "_labelnames", ()) for one in (collector, family)]
            name = f"{family.name}{'_total' * (family.type == 'counter')}"
            samples = tuple(f"{family.name}{end}" for end in _BY_TYPE.get(family.type, ("",)))
            found[name] = Shown(name, family.type, samples, frozenset(named[0] or named[1]))
    return found


def labels_of(name: str) -> list[dict[str, str]]:
    """The labels of each time series `name` of this process."""
    families = REGISTRY.collect()
    return [one.labels for family in families for one in family.samples if one.name == name]


def sample(name: str, **labels: str) -> float:
    """The value of a time series of this process; 0 if there is none yet."""
    return REGISTRY.get_sample_value(name, labels) or 0
