"""A closing as a line for people: when, whose, which model, how it ended, how long it took, its tokens.

    11-30 17:45:02  acme          gpt-5             failed executor_lost        7.1 s  first 431 ms   …

Pure. A client chooses the model's name, so nothing of a closing may steer the terminal.
"""

from datetime import datetime, tzinfo

from schemas.closings import ClosingRecord

PLAIN = "\x1b[0m"
COLOURS = {
    "completed": "\x1b[32m",  # green
    "incomplete": "\x1b[33m",  # yellow
    "failed": "\x1b[31m",  # red
    "cancelled": "\x1b[35m",  # magenta
    "deleted": "\x1b[90m",  # grey
}
"""By status, what colours a terminal's text. Another status has none."""
NOTHING = "-"
LATEST_MS = 253_370_764_800_000
"""The year 9999. A later time, which any writer may write, is shown as this one."""


def line_of(closing: ClosingRecord, zone: tzinfo | None = None, *, coloured: bool = False) -> str:
    """The line, without its end. `zone` None: the machine's own time zone."""
    moment = datetime.fromtimestamp(min(closing.closed_at, LATEST_MS) / 1000, zone)
    why = closing.error_type or closing.incomplete_reason
    ended = printable(f"{closing.status} {why}" if why else closing.status).ljust(24)
    if coloured and closing.status in COLOURS:
        ended = f"{COLOURS[closing.status]}{ended}{PLAIN}"
    columns = [
        f"{moment:%m-%d %H:%M:%S}",
        printable(closing.tenant).ljust(12),
        printable(closing.model or closing.agent or NOTHING).ljust(16),
        ended,
        span(closing.closed_at - closing.accepted_at).rjust(7),
        _first(closing).ljust(13),
        _tokens(closing),
    ]
    return "  ".join(columns)


def _first(closing: ClosingRecord) -> str:
    """Time from the `accepted` to the first output."""
    if closing.first_output_at is None:
        return "no output"
    return f"first {span(closing.first_output_at - closing.accepted_at)}"


def _tokens(closing: ClosingRecord) -> str:
    usage = closing.usage
    return NOTHING if usage is None else f"{usage.input_tokens:>6} in {usage.output_tokens:>6} out"


def span(ms: int) -> str:
    """Milliseconds in the unit that people read. A negative span is 0: another leader's clock was behind."""
    ms = max(0, ms)
    if ms < 1000:
        return f"{ms} ms"
    seconds = ms // 1000
    if seconds < 60:
        return f"{seconds}.{ms % 1000 // 100} s"
    minutes = seconds // 60
    return f"{minutes}m{seconds % 60:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def printable(text: str) -> str:
    """`text` with `?` for every character that a terminal would obey, or not show."""
    return "".join(character if character.isprintable() else "?" for character in text)
