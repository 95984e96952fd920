"""Finds an upstream's own words in an error of any form: JSON of any shape, a list, an event, a page. Pure.

The upstream's words are worth more than ours (U-9). Nearly every server has an envelope of its own, and
proxies in between have none.
"""

import html
import re
from collections.abc import Mapping
from typing import Any

import msgspec

_KEYS = (
    *("message", "msg", "error", "errors", "detail", "details", "error_description", "description"),
    *("reason", "title", "fault", "faultstring", "text", "Message", "errorMessage", "error_message"),
    *("errorMsg", "error_msg", "err_msg", "errmsg", "status_msg", "base_resp"),
)
"""Fields in which servers have their words, the likeliest first."""
_FINE = (None, "", 0, "0", 200, "200", "ok", "OK", "success", "Success")
"""Codes of a success."""
_DEPTH = 6
_SEVERAL = 3
"""How many errors of a list are told."""
_PAGE_WORDS = 300
"""How many characters of a page or a text are told."""
_UNSEEN = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_DATA = re.compile(rb"^data:(.*)$", re.MULTILINE)


def words_in(body: bytes) -> tuple[str, object]:
    """Message ("" without one) and code in the body of an error."""
    event = _DATA.search(body) if body.lstrip().startswith((b"data:", b"event:")) else None
    try:
        decoded = msgspec.json.decode(event[1] if event else body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return page_words(body), None
    return told_in(decoded), code_in(decoded)


def told_in(value: Any) -> str:
    """The words in a decoded error; a list that has none is told as it is."""
    said = _told(value, _DEPTH)
    if said or not isinstance(value, Mapping):
        return said
    listed = next((value[key] for key in ("error", "detail") if isinstance(value.get(key), list)), None)
    return msgspec.json.encode(listed).decode() if listed else ""


def refuses(value: Mapping[str, Any]) -> bool:
    """Whether an object without an `error` says that the call failed: `{"success": false, "msg": …}`,
    `{"code": "1113", "message": …}`, `{"base_resp": {"status_code": 1004, …}}`.
    """
    held = value.get("base_resp")
    status = held.get("status_code") if isinstance(held, Mapping) else value.get("code")
    failed = value.get("success") is False or (status not in _FINE and isinstance(status, str | int))
    return failed and told_in(value) != ""


def code_in(value: Any) -> object:
    """The error's own code; None without one."""
    if isinstance(value, list):
        return code_in(value[0]) if value else None
    if not isinstance(value, Mapping):
        return None
    inner = code_in(value.get("error")) if isinstance(value.get("error"), Mapping | list) else None
    return value.get("code") if inner is None else inner


def page_words(body: bytes) -> str:
    """The readable words of a page or a text: a page's title, else its text."""
    text = body.decode(errors="replace")
    if "<" in text:
        title = _TITLE.search(text)
        text = html.unescape(
            title[1] if title and title[1].strip() else _TAG.sub(" ", _UNSEEN.sub(" ", text))
        )
    text = " ".join(text.split())
    return text[:_PAGE_WORDS] if text.isprintable() else ""


def _told(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and depth:
        said = [words for one in value[:_SEVERAL] if (words := _told(one, depth - 1))]
        return "; ".join(dict.fromkeys(said))
    if not isinstance(value, Mapping) or not depth:
        return ""
    words = next((words for key in _KEYS if (words := _told(value.get(key), depth - 1))), "")
    where = value.get("loc")
    if words and isinstance(where, list) and where:
        return f"{'.'.join(map(str, where))}: {words}"
    return words
