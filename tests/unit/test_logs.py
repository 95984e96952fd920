"""services/logs.py: one line an event on standard error, ours and the libraries' alike."""

import json
import subprocess
import sys

SAY = """
import logging, structlog
from services.logs import setup
setup({level!r}, {style!r})
log = structlog.get_logger()
with structlog.contextvars.bound_contextvars(request_id="req_1"):
    log.info("told", count=3, odd={{1}}, text="ä\\nb")
log.debug("hidden")
logging.getLogger("library").warning("beware of %s", "it")
logging.getLogger("library").info("chatter")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


def said(level: str = "info", style: str = "json") -> list[str]:
    code = SAY.format(level=level, style=style)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_machines_get_a_json_object_a_line() -> None:
    told, library, failed = [json.loads(line) for line in said()]
    assert {key: told[key] for key in ["event", "level", "request_id", "count", "odd", "text"]} == {
        "event": "told",
        "level": "info",
        "request_id": "req_1",
        "count": 3,
        "odd": [1],
        "text": "ä\nb",
    }
    assert told["timestamp"].endswith("Z")
    assert (library["event"], library["level"], library["logger"]) == ("beware of it", "warning", "library")
    assert failed["level"] == "error"
    assert "ZeroDivisionError" in failed["exception"]


def test_auto_is_for_machines_where_there_is_no_terminal() -> None:
    assert [json.loads(line)["event"] for line in said(style="auto")] == ["told", "beware of it", "failed"]


def test_people_get_plain_lines_and_tracebacks() -> None:
    lines = said(style="console")
    assert "told" in lines[0]
    assert "request_id=req_1" in lines[0]
    assert lines[-1] == "ZeroDivisionError: division by zero"


UNSILENCED = """
from services.logs import setup, unsilenced
log = unsilenced()
setup("error", "json")
log.info("done", who="me")
"""


def test_what_is_asked_for_is_said_at_any_level() -> None:
    done = subprocess.run([sys.executable, "-c", UNSILENCED], capture_output=True, text=True, check=True)
    line = json.loads(done.stderr)
    assert (line["event"], line["level"], line["who"]) == ("done", "info", "me")


def test_the_level_bounds_what_is_said() -> None:
    assert len(said(level="debug")) == 4
    assert [json.loads(line)["event"] for line in said(level="error")] == ["failed"]
