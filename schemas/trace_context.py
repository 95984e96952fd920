"""The W3C's trace context: the header `traceparent`, by which spans of several processes become one trace.

    00-{trace id: 32 hex digits}-{span id: 16 hex digits}-{flags: 2 hex digits}

A header of a later version is read as far as this version knows it, as the W3C asks for. What cannot be read
is no context: nobody is refused for it.
"""

import re

TRACEPARENT = "traceparent"
_READ = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<ids>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


def parse_traceparent(text: str) -> str:
    """The context in a header, as a header of version 00; "" if there is none that can be read."""
    found = _READ.fullmatch(text)
    if found is None or (found["version"] == "00" and found["more"]):
        return ""
    return f"00-{found['ids']}-{found['flags']}"
