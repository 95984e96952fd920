"""Makes the Responses API's annotations from the sources that Chat Completions servers name. Pure.

    annotations of a delta or message   → annotations, as they come
    a list of sources beside the answer → annotations of the text, once it is whole

OpenAI and OpenRouter send annotations with places. Perplexity and others send a list of sources with each
chunk, and the text refers to the nth of them as `[n]` (U-53).
"""

from typing import Any

from services.executor.mending.annotations import Annotation, annotation_of, is_known, url_of

_LISTS = ("citations", "search_results", "web_search", "references", "sources")
"""Fields of a chunk, choice, delta or message in which servers have a list of sources."""
CITING = frozenset({*_LISTS, "annotations", "context"})
"""Fields in which a chunk, choice, delta or message names sources."""


class Citations:
    """The citations of one stream."""

    def __init__(self) -> None:
        self._waiting: list[Annotation] = []
        self._known: list[Annotation] = []
        self._sources: dict[str, str] = {}
        """URL to title, in the order of their numbers."""
        self._cited: set[str] = set()

    def take(self, holder: dict[str, Any]) -> None:
        """Take the sources that a chunk, a choice, a delta or a message names. Anything else is ignored."""
        if CITING.isdisjoint(holder):
            return
        annotations = holder.get("annotations")
        for given in annotations if isinstance(annotations, list) else ():
            annotation = annotation_of(given)
            if (
                annotation and is_known(annotation) and annotation not in self._known
            ):  # a whole message repeats those of its pieces
                self._known.append(annotation)
                self._waiting.append(annotation)
                self._cited.add(annotation.get("url", ""))
        context = holder.get("context")
        for held in (holder, context if isinstance(context, dict) else {}):
            for name in _LISTS:
                self._list(held.get(name))

    @property
    def wait(self) -> bool:
        """Whether annotations wait for a text."""
        return bool(self._waiting)

    def waiting(self) -> list[Annotation]:
        """The annotations that came since the last call."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def of(self, text: str) -> list[Annotation]:
        """The annotations of a whole `text`: those that wait, and one for each source that none names."""
        annotations = self.waiting()
        for number, (url, title) in enumerate(self._sources.items(), 1):
            if url not in self._cited:
                self._cited.add(url)
                annotations.append(_source(text, number, url, title))
        return annotations

    def _list(self, given: Any) -> None:
        for source in given if isinstance(given, list) else ():
            url, title = url_of(source), source.get("title") if isinstance(source, dict) else ""
            if url:
                self._sources[url] = self._sources.get(url) or (title if isinstance(title, str) else "")


def _source(text: str, number: int, url: str, title: str) -> Annotation:
    """The annotation of a source, at the first place in `text` that refers to it, else at the beginning."""
    for mark in (f"[{number}]", f"[doc{number}]", f"【{number}】"):
        at = text.find(mark)
        if at >= 0:
            break
    start, end = (at, at + len(mark)) if at >= 0 else (0, 0)
    return {"type": "url_citation", "url": url, "title": title, "start_index": start, "end_index": end}
