"""Mends the annotations of a text, which name its sources, for strict clients. Pure.

Upstreams leave out required fields, nest an annotation under its type as Chat Completions does, or count
places in a text that they cut into other parts.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

Annotation = dict[str, Any]

URLS = ("url", "link", "uri", "source_url")
"""Fields in which servers have the URL of a source."""
_REQUIRED: dict[str, dict[str, Any]] = {
    "url_citation": {"url": "", "title": "", "start_index": 0, "end_index": 0},
    "file_citation": {"file_id": "", "filename": "", "index": 0},
    "container_file_citation": {
        "container_id": "",
        "file_id": "",
        "filename": "",
        "start_index": 0,
        "end_index": 0,
    },
    "file_path": {"file_id": "", "index": 0},
}
"""By type of annotation, the fields that it must have."""
_PLACES = ("start_index", "end_index", "index")


def url_of(source: Any) -> str:
    """The URL of a source, which may be a mere URL; "" without one."""
    if isinstance(source, str):
        return source
    found = [source[name] for name in URLS if source.get(name)] if isinstance(source, dict) else []
    return found[0] if found and isinstance(found[0], str) else ""


def annotation_of(given: Any) -> Annotation | None:
    """The annotation as the Responses API has it: flat, with every required field. One of an unknown type is
    returned as it is. None if it names no source.
    """
    if not isinstance(given, dict):
        return None
    kind = given.get("type")
    nested = given.get(kind) if isinstance(kind, str) else None
    flat = {**nested, "type": kind} if isinstance(nested, dict) else dict(given)
    if not isinstance(kind, str) or kind not in _REQUIRED:
        if not url_of(flat):
            return flat if isinstance(kind, str) and kind not in ("", *_REQUIRED) else None
        flat |= {"type": "url_citation", "url": url_of(flat)}
    for name, empty in _REQUIRED[flat["type"]].items():
        value = flat.get(name)
        if isinstance(value, float) and isinstance(empty, int):
            flat[name] = int(value)
        elif type(value) is not type(empty):
            flat[name] = empty
    return flat if flat.get("url") or flat.get("file_id") else None


def is_known(annotation: Annotation) -> bool:
    """Whether the annotation is of a type that the API has."""
    return annotation["type"] in _REQUIRED


def annotations_of(given: Any) -> list[Annotation]:
    """The annotations in a list; anything else in it is left out."""
    listed = given if isinstance(given, list) else ()
    return [annotation for one in listed if (annotation := annotation_of(one)) is not None]


def recut(told: Sequence[tuple[str, Any]], texts: Sequence[str]) -> list[list[Annotation]]:
    """The annotations of each of `texts`. `told` are the same words cut otherwise, with their annotations."""
    begins = list(accumulate((len(text) for text in texts[:-1]), initial=0))
    cut: list[list[Annotation]] = [[] for _ in texts]
    begin = 0
    for text, given in told:
        for annotation in annotations_of(given):
            places = [annotation[name] for name in _PLACES if type(annotation.get(name)) is int]
            at = begin + max(places[0] if places else 0, 0)
            number = max(number for number, start in enumerate(begins) if start <= at)
            cut[number].append(_moved(annotation, begin - begins[number]))
        begin += len(text)
    return cut


def _moved(annotation: Annotation, by: int) -> Annotation:
    moves = {name: value + by for name, value in annotation.items() if name in _PLACES and type(value) is int}
    return {**annotation, **moves}
