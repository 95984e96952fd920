"""PromQL as the dashboards and the rules have it: what an expression reads, and which labels it names."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import promql_parser as promql

from tests.shown import Shown

OF_TARGETS = frozenset({"instance", "job", "pod", "namespace"})
"""Labels that Prometheus gives to all that it scrapes."""
OF_PROCESSES = re.compile(r"process_\w+|python_\w+|up")
"""What prometheus_client and Prometheus itself show."""
_GRAFANA = re.compile(r"\$__rate_interval|\$__interval")


class Read(NamedTuple):
    """A time series that an expression reads, and the labels by which it is chosen."""

    name: str
    chosen_by: frozenset[str]


def parsed(expression: str) -> Any:
    """The expression, with Grafana's variables filled in. Raises ValueError."""
    return promql.parse(_GRAFANA.sub("5m", expression))


def reads(node: Any) -> Iterator[Read]:
    """All that an expression reads."""
    for inner in _within(node):
        if isinstance(inner, promql.VectorSelector):
            yield Read(inner.name or "", frozenset(matcher.name for matcher in inner.matchers.matchers))


def wrong(expression: str, shown: dict[str, Shown]) -> list[str]:
    """What of an expression the code does not show: series, labels by which they are chosen, or grouped."""
    node = parsed(expression)
    known = {name: one for one in shown.values() for name in one.samples}
    found = []
    for read in reads(node):
        if OF_PROCESSES.fullmatch(read.name):
            continue
        if read.name not in known:
            found.append(f"no metric {read.name}")
        elif strange := read.chosen_by - labels_of_series(read.name, known) - OF_TARGETS:
            found.append(f"{read.name} has no {sorted(strange)}")
    for grouped in _within(node):
        named = _grouping(grouped)
        if (
            strange := named
            - OF_TARGETS
            - {one for read in reads(grouped) for one in labels_of_series(read.name, known)}
        ):
            found.append(f"{sorted(strange)} are no labels of what is grouped: {expression}")
    return found


def labels_of_series(name: str, known: dict[str, Shown]) -> frozenset[str]:
    """The labels of a time series: a bucket has its bound as well."""
    found = known.get(name)
    own = found.labels if found is not None else frozenset()
    return own | {"le"} if name.endswith("_bucket") else own


def result_labels(node: Any, known: dict[str, Shown]) -> frozenset[str]:
    """The labels that the result of an expression may have."""
    if isinstance(node, promql.AggregateExpr) and str(node.op) not in ("topk", "bottomk"):
        return _grouping(node)
    if isinstance(node, promql.VectorSelector):
        return labels_of_series(node.name or "", known) | OF_TARGETS
    return frozenset().union(*(result_labels(child, known) for child in _children(node)))


def _grouping(node: Any) -> frozenset[str]:
    modifier = getattr(node, "modifier", None)
    if modifier is None:
        return frozenset()
    if isinstance(node, promql.AggregateExpr):
        return frozenset(modifier.labels)
    return frozenset(modifier.matching.labels) if modifier.matching is not None else frozenset()


def _children(node: Any) -> Iterable[Any]:
    match node:
        case promql.BinaryExpr():
            return node.lhs, node.rhs
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return (node.expr,)
        case promql.Call():
            return node.args
        case promql.MatrixSelector():
            return (node.vector_selector,)
    return ()


def _within(node: Any) -> Iterator[Any]:
    yield node
    for child in _children(node):
        yield from _within(child)
