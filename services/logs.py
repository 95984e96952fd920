"""Logs: one line an event, on standard error, for people or for machines.

Our code logs through structlog, libraries through the standard library's `logging`. Both write the same
lines.
"""

import logging
import os
import sys
from typing import Literal

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger, Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

KEEP = True
"""Whether a logger is kept from its first line on. Tests have one made for each, for the output of then."""


def setup(level: str, style: Literal["auto", "console", "json"]) -> None:
    """Log from `level` on. `auto` is `console` on a terminal, else `json`. Call it once, before any log."""
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
        cache_logger_on_first_use=KEEP,
    )
    _route_libraries(shared, last, LEVELS[level])


def unsilenced() -> FilteringBoundLogger:
    """A logger whose lines no level silences: for records of what was done, which somebody asked for."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        None, wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET)
    )
    return logger


def _for_people() -> list[Processor]:
    colors = sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))
    plain = structlog.dev.plain_traceback  # pretty ones would read source files and hold the loop
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def _for_machines() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]


def _json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _route_libraries(shared: list[Processor], last: list[Processor], level: int) -> None:
    """Let libraries log warnings and errors only: aiokafka and others log much that helps no operator."""
    handler = logging.StreamHandler(sys.stderr)
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    own = [structlog.stdlib.add_logger_name, *shared]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[strip, *last], foreign_pre_chain=own)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, level))
    # aiokafka logs every failed try at a broker, once a second or more often, some as errors. The log's port
    # logs an outage once, and raises what ends a command.
    kafka = logging.getLogger("aiokafka")
    kafka.setLevel(logging.ERROR)
    kafka.addFilter(lambda record: not str(record.msg).startswith("Unable "))
    # uvicorn warns of what clients send, such as an upgrade that we do not offer: no operator can mend that.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
