"""Compares two versions of the published documents: what breaks whoever reads a topic or calls the API.

Pure: documents in, changes out, and the least version that the later documents may have.
"""

from collections.abc import Iterator, Sequence

from services.published.comparison import NONE, Change, Comparison, Object, Side
from services.published.documents import ASYNCAPI, OPENAPI, RECORDS, Documents


def changes(before: Documents, after: Documents) -> list[Change]:
    """What has changed from `before` to `after`, without what is said for people and the version itself."""
    found: list[Change] = []
    for name in before.keys() | after.keys():
        if name not in after:
            found.append(Change(name, "is gone", breaks=True))
        elif name not in before:
            found.append(Change(name, "is new"))
        elif name == ASYNCAPI:
            found += _topics(before[name], after[name])
        elif name == OPENAPI:
            found += _api(before[name], after[name])
        elif name.startswith(RECORDS):
            found += Comparison(before[name], after[name], Side.RECORD).of(name, before[name], after[name])
    return sorted(set(found))


def wanted_version(before: str, found: list[Change]) -> str:
    """The least version that documents with these changes may have, after `before`."""
    major, minor, patch = _numbers(before)
    if any(change.breaks for change in found):
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if found else f"{major}.{minor}.{patch}"


def too_low(version: str, least: str) -> bool:
    """Whether `version` is below the `least` that is wanted."""
    return _numbers(version) < _numbers(least)


def _numbers(version: str) -> tuple[int, int, int]:
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


def _topics(before: Object, after: Object) -> Iterator[Change]:
    """The changes of an AsyncAPI document. Records have documents of their own: theirs are compared there."""
    old, new = before["channels"], after["channels"]
    for topic in sorted(old.keys() | new.keys()):
        where = f"{ASYNCAPI} {topic}"
        if topic not in new:
            yield Change(where, "is gone", breaks=True)
        elif topic not in old:
            yield Change(where, "is new")
        else:
            yield from _topic(where, old[topic], new[topic])
    messages, now = before["components"]["messages"], after["components"]["messages"]
    for name in sorted(messages.keys() & now.keys()):
        packed, packed_now = (part[name].get("contentType") for part in (messages, now))
        if packed != packed_now:
            yield Change(f"{ASYNCAPI} {name}", f"is {packed_now}, was {packed}", breaks=True)


def _topic(where: str, old: Object, new: Object) -> Iterator[Change]:
    if old["address"] != new["address"]:
        yield Change(where, f"is called {new['address']}", breaks=True)
    for kind in sorted(old["messages"].keys() - new["messages"].keys()):
        yield Change(f"{where} {kind}", "is gone", breaks=True)
    for kind in sorted(new["messages"].keys() - old["messages"].keys()):
        yield Change(f"{where} {kind}", "is new")
    before, after = _settings(old), _settings(new)
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was != now:
            breaks = key == "cleanup.policy" or (key in _KEPT and int(now or 0) < int(was or 0))
            yield Change(where, f"{key} is {now}, was {was}", breaks=breaks)


_KEPT = ("retention.ms", "delete.retention.ms")
"""For how long a reader may be away."""


def _settings(channel: Object) -> Object:
    """What is set of a topic. The number of partitions is each installation's own."""
    return {**channel["bindings"]["kafka"]["topicConfiguration"], **channel["x-settings"]}


def _api(before: Object, after: Object) -> Iterator[Change]:
    """The changes of an OpenAPI document."""
    if before.get("servers") != after.get("servers"):
        yield Change(f"{OPENAPI} servers", "are others: a caller joins the paths to them", breaks=True)
    yield from _schemes(before["components"].get("securitySchemes", NONE), after["components"])
    old, new = _operations(before), _operations(after)
    asked, answered = Comparison(before, after, Side.REQUEST), Comparison(before, after, Side.ANSWER)
    for name in sorted(old.keys() | new.keys()):
        where = f"{OPENAPI} {name}"
        if name not in new:
            yield Change(where, "is gone", breaks=True)
        elif name not in old:
            yield Change(where, "is new")
        else:
            yield from _parameters(where, old[name], new[name], asked)
            yield from _body(where, old[name].get("requestBody"), new[name].get("requestBody"), asked)
            yield from _answers(where, old[name]["responses"], new[name]["responses"], answered)
            if any(way not in _ways(new[name]) for way in _ways(old[name])):
                yield Change(where, "asks for another key, or for one at all", breaks=True)
            if old[name].get("operationId") != new[name].get("operationId"):
                what = f"is called {new[name].get('operationId')}: generated clients have its name"
                yield Change(where, what, breaks=True)
    yield from _sent(before, after, answered)


def _sent(before: Object, after: Object, answered: Comparison) -> Iterator[Change]:
    """The changes of what Rejoinder sends: its receivers read it, as a caller reads an answer."""
    old, new = _operations(before, "webhooks"), _operations(after, "webhooks")
    for name in sorted(old.keys() | new.keys()):
        where = f"{OPENAPI} webhook {name}"
        if name not in new:
            yield Change(where, "is gone", breaks=True)
        elif name not in old:
            yield Change(where, "is new")
        else:
            yield from _parameters(where, old[name], new[name], answered)
            was, now = (said["requestBody"]["content"] for said in (old[name], new[name]))
            yield from _contents(where, was, now, answered)


def _operations(document: Object, within: str = "paths") -> Object:
    return {
        f"{method.upper()} {path}": said
        for path, found in document.get(within, NONE).items()
        for method, said in found.items()
    }


def _schemes(before: Object, components: Object) -> Iterator[Change]:
    """The changes of the ways to show a key. A new one breaks nobody who goes on with another."""
    after = components.get("securitySchemes", NONE)
    for name, scheme in before.items():
        now = after.get(name, NONE)
        if {**scheme, "description": None} != {**now, "description": None}:
            yield Change(f"{OPENAPI} security {name}", "is another way to show a key", breaks=True)


def _ways(operation: Object) -> Sequence[Object]:
    """The ways to call an operation: each is what has to be shown; without one, nothing has."""
    found: Sequence[Object] = operation["security"]
    return found or [NONE]


def _parameters(where: str, old: Object, new: Object, asked: Comparison) -> Iterator[Change]:
    before, after = (
        {f"{one['in']} {one['name']}": one for one in operation.get("parameters", ())}
        for operation in (old, new)
    )
    for name in sorted(before.keys() | after.keys()):
        place = f"{where} {name}"
        if name not in after:
            yield Change(place, "is gone", breaks=True)
        elif name not in before:
            yield Change(place, "is new", breaks=after[name]["required"])
        else:
            if after[name]["required"] and not before[name]["required"]:
                yield Change(place, "is required now", breaks=True)
            yield from asked.of(place, before[name]["schema"], after[name]["schema"])


def _body(where: str, before: Object | None, after: Object | None, asked: Comparison) -> Iterator[Change]:
    place = f"{where} body"
    if before is None or after is None:
        if after is not None:
            yield Change(place, "is new", breaks=after["required"])
        elif before is not None:
            yield Change(place, "is gone", breaks=True)
        return
    if after["required"] and not before["required"]:
        yield Change(place, "is required now", breaks=True)
    for type in sorted(before["content"].keys() | after["content"].keys()):
        if type not in after["content"]:
            yield Change(f"{place} {type}", "is gone", breaks=True)
        elif type not in before["content"]:
            yield Change(f"{place} {type}", "is new")
        else:
            yield from asked.of(place, before["content"][type]["schema"], after["content"][type]["schema"])


def _answers(where: str, before: Object, after: Object, answered: Comparison) -> Iterator[Change]:
    for status in sorted(before.keys() | after.keys()):
        place, good = f"{where} {status}", status < "400"
        if status not in after:
            yield Change(place, "is gone", breaks=good)
        elif status not in before:
            # A client knows an error by its class; what it has to do with another success it cannot know.
            yield Change(place, "is new", breaks=good)
        else:
            yield from _headers(place, before[status], after[status], answered)
            yield from _contents(
                place, before[status].get("content", NONE), after[status].get("content", NONE), answered
            )


def _headers(where: str, before: Object, after: Object, answered: Comparison) -> Iterator[Change]:
    old, new = before["headers"], after["headers"]
    for name in sorted(old.keys() | new.keys()):
        place = f"{where} header {name}"
        if name not in new:
            yield Change(place, "is gone", breaks=True)
        elif name not in old:
            yield Change(place, "is new")
        else:
            yield from answered.header(place, old[name], new[name])


def _contents(where: str, before: Object, after: Object, answered: Comparison) -> Iterator[Change]:
    for type in sorted(before.keys() | after.keys()):
        if type not in after:
            yield Change(f"{where} {type}", "is gone", breaks=True)
        elif type not in before:
            yield Change(f"{where} {type}", "is new", breaks=True)
        else:
            yield from answered.of(where, before[type]["schema"], after[type]["schema"])
