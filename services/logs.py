"""Logs: one line an event, on standard error, for people or for machines.

Our code logs through structlog, libraries through the standard library's `logging`; both end in the same
lines.
"""

import logging
import os
import sys
from typing import Literal

import msgspec
import structlog
from structlog.typing import Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup(level: str, style: Literal["auto", "console", "json"]) -> None:
    """Log from `level` on; `auto` is for people on a terminal, for machines elsewhere. Call once, first."""
    people = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
    ]
    last = _for_people() if people else _for_machines()
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _route_libraries(shared, last, LEVELS[level])


def _for_people() -> list[Processor]:
    colors = sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))
    plain = structlog.dev.plain_traceback  # the pretty ones read source files while the loop waits
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def _for_machines() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]


def _json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _route_libraries(shared: list[Processor], last: list[Processor], level: int) -> None:
    """Their warnings and errors only: aiokafka and others tell much that concerns nobody."""
    handler = logging.StreamHandler(sys.stderr)
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    own = [structlog.stdlib.add_logger_name, *shared]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[strip, *last], foreign_pre_chain=own)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, level))
    # Reports every failed try at a broker, once a second or more often, some as errors; the port reports an
    # outage once, and raises what ends a command.
    kafka = logging.getLogger("aiokafka")
    kafka.setLevel(logging.ERROR)
    kafka.addFilter(lambda record: not str(record.msg).startswith("Unable "))
    # Warns of what clients send, such as an upgrade that is not there: their affair, and theirs to repeat.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
