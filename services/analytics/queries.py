"""Questions about usage, as OpenAI's API has them, and what is wrong with one. Pure (A-30 to A-33)."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from schemas.errors import invalid
from schemas.ids import Tenant
from services.analytics.index import UsageGroup
from services.web.forwarded import Caller

MINUTE = 60
"""Seconds."""
LATEST = 1 << 36
"""A time (s) after all that is asked for."""
_PAGE = re.compile(r"page_([0-9]{1,12})")
_NUMBER = re.compile(r"[0-9]{1,12}")


class Width(NamedTuple):
    """A width of buckets (s), and how many of them an answer has: if nothing is said, and at most."""

    seconds: int
    usual: int
    most: int


WIDTHS: Mapping[str, Width] = {
    "1m": Width(60, 60, 1440),
    "1h": Width(3600, 24, 168),
    "1d": Width(86_400, 7, 31),
}
COST_WIDTHS: Mapping[str, Width] = {"1d": Width(86_400, 7, 180)}

FIELDS: Mapping[str, Callable[[UsageGroup], str | None]] = {
    "project_id": lambda group: group.tenant,
    "model": lambda group: group.model or group.agent,
    "agent": lambda group: group.agent,
}
"""What results can be grouped by, and what each is of a group of rows."""
NOT_KNOWN = ("api_key_id", "api_source", "batch", "service_tier", "user_id")
"""What OpenAI groups by, and nobody here knows of a response that has ended."""


class UsageQuestion(NamedTuple):
    """A question's groups by their names, its filters by the field they are of, and its widths."""

    groups: Mapping[str, str]
    filters: Mapping[str, str]
    widths: Mapping[str, Width]


USAGE = UsageQuestion(
    {"project_id": "project_id", "model": "model", "agent": "agent"},
    {"project_ids": "project_id", "models": "model"},
    WIDTHS,
)
COSTS = UsageQuestion(
    {"project_id": "project_id", "line_item": "model"},
    {"project_ids": "project_id", "line_items": "model"},
    COST_WIDTHS,
)
_NO_FILTERS = ("api_key_ids", "user_ids")
_OTHERS = ("start_time", "end_time", "bucket_width", "group_by", "limit", "page", "batch")


class Query(NamedTuple):
    """A question: buckets of `width` seconds from `start` to before `end`, and how results are grouped."""

    start: int
    end: int
    width: int
    limit: int
    groups: Mapping[str, str]
    """By the name in a result, the field of `FIELDS`."""
    only: Mapping[str, frozenset[str]]
    """By field, the values that count."""

    @property
    def buckets(self) -> Iterator[tuple[int, int]]:
        """Beginning and end (s) of each bucket of this page. They begin at whole minutes, hours, days (UTC);
        the first and the last are cut to what was asked for, which is whole minutes.
        """
        edge = self.start - self.start % self.width
        for _ in range(self.limit):
            if max(edge, self.start) >= self.end:
                return
            yield max(edge, self.start), min(edge + self.width, self.end)
            edge += self.width

    @property
    def next_page(self) -> str | None:
        """The cursor of the page behind this one; None if this is the last."""
        edge = self.start - self.start % self.width + self.limit * self.width
        return f"page_{edge}" if edge < self.end else None

    def counts(self, group: UsageGroup) -> bool:
        """Whether rows of a group count."""
        return all(FIELDS[field](group) in values for field, values in self.only.items())

    def named(self, group: UsageGroup) -> tuple[str | None, ...]:
        """By what a group's rows are told apart."""
        return tuple(FIELDS[field](group) for field in self.groups.values())


def asked(given: Iterable[tuple[str, str]], kind: UsageQuestion, caller: Caller, now: int) -> Query:
    """The question of a query string, for whoever calls. Raises ApiError (400), which names the field.

    `now` is in seconds. A tenant that is no admin sees its own rows only.
    """
    fields: dict[str, list[str]] = {}
    for name, value in given:
        fields.setdefault(name.removesuffix("[]"), []).append(value)
    _check_names(fields, kind)
    width_name = _one(fields, "bucket_width") or "1d"
    width = kind.widths.get(width_name)
    if width is None:
        raise invalid(
            f"bucket_width must be {_either(kind.widths)}, not '{width_name[:20]}'.", "bucket_width"
        )
    start, end = _range(fields, width, now)
    query = Query(
        start=_page(fields, start, end, width),
        end=end,
        width=width.seconds,
        limit=_limit(fields, width),
        groups=_groups(fields, kind),
        only=_only(fields, kind),
    )
    return query if caller.admin else query._replace(only=_own(query.only, caller.tenant))


def _check_names(fields: Iterable[str], kind: UsageQuestion) -> None:
    """A filter that nobody knows would be passed over, and the answer would count too much."""
    known = (*_OTHERS, *kind.filters)
    for name in fields:
        if name not in known and name not in _NO_FILTERS:
            raise invalid(f"{name[:40]}: there is no such field here; there are {_listed(known)}.", name[:40])


def _own(only: Mapping[str, frozenset[str]], tenant: Tenant | None) -> Mapping[str, frozenset[str]]:
    own = frozenset([] if tenant is None else [tenant])
    return {**only, "project_id": only.get("project_id", own) & own}


def _range(fields: Mapping[str, Sequence[str]], width: Width, now: int) -> tuple[int, int]:
    start, end = _time(fields, "start_time"), _time(fields, "end_time")
    if start is None:
        raise invalid("start_time is missing: Unix seconds.", "start_time")
    ends = now - now % width.seconds + width.seconds
    if start >= ends:
        raise invalid("start_time lies in the future.", "start_time")
    if end is None:
        end = ends
    if end <= start:
        raise invalid(f"end_time must be after start_time ({start}).", "end_time")
    return start - start % MINUTE, end - end % MINUTE


def _page(fields: Mapping[str, Sequence[str]], start: int, end: int, width: Width) -> int:
    given = _one(fields, "page")
    if given is None:
        return start
    found = _PAGE.fullmatch(given)
    edge = int(found[1]) if found else -1
    if not start <= edge < end or edge % width.seconds:
        raise invalid("page must be the next_page of the answer before, to the same question.", "page")
    return edge


def _limit(fields: Mapping[str, Sequence[str]], width: Width) -> int:
    given = _one(fields, "limit")
    if given is None:
        return width.usual
    if not _NUMBER.fullmatch(given) or not 1 <= int(given) <= width.most:
        raise invalid(f"limit must be 1 to {width.most} with this bucket_width.", "limit")
    return int(given)


def _groups(fields: Mapping[str, Sequence[str]], kind: UsageQuestion) -> Mapping[str, str]:
    names = [name for given in fields.get("group_by", ()) for name in given.split(",") if name]
    for name in names:
        if name not in kind.groups:
            why = "is not known of what has ended" if name in NOT_KNOWN else "is no group"
            what = f"group_by: '{name[:40]}' {why}; it takes {_either(kind.groups)}."
            raise invalid(what, "group_by")
    return {name: kind.groups[name] for name in dict.fromkeys(names)}


def _only(fields: Mapping[str, Sequence[str]], kind: UsageQuestion) -> Mapping[str, frozenset[str]]:
    for name in _NO_FILTERS:
        if name in fields:
            raise invalid(f"{name}: that is not known of what has ended; leave it out.", name)
    if _one(fields, "batch") == "true":
        raise invalid("batch: there are no batches; leave it out.", "batch")
    return {field: frozenset(fields[name]) for name, field in kind.filters.items() if name in fields}


def _time(fields: Mapping[str, Sequence[str]], name: str) -> int | None:
    given = _one(fields, name)
    if given is None:
        return None
    if not _NUMBER.fullmatch(given) or int(given) > LATEST:
        raise invalid(f"{name} must be Unix seconds.", name)
    return int(given)


def _one(fields: Mapping[str, Sequence[str]], name: str) -> str | None:
    given = fields.get(name, ())
    if len(given) > 1:
        raise invalid(f"{name} may be given once.", name)
    return given[0] if given else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)
