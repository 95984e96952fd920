"""The command line where it cannot do what it is asked: one line, a status, no traceback."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from services.eventlog.installation import freeze_key_partitions
from services.eventlog.kafka import KafkaLog
from services.eventlog.topics import topics
from services.settings import environment
from tests.process import REJOINDER
from tests.serving import HOST

NOBODY = f"{HOST}:9"
"""The discard port: nothing listens there."""
SERVICES = ["ingest", "executor", "replay", "projector", "webhooks"]
COMMANDS = [*SERVICES, "dev", "topics"]
Said = tuple[int | None, str, str]
"""A command's status, standard output and standard error."""


async def rejoinder(*arguments: str, **settings: object) -> Said:
    process = await asyncio.create_subprocess_exec(
        REJOINDER,
        *arguments,
        env={**os.environ, **environment(settings)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def each(commands: Sequence[str], **settings: object) -> dict[str, Said]:
    """What each command says; all at once, for they wait for what does not come."""
    said = await asyncio.gather(*(rejoinder(command, **settings) for command in commands))
    return dict(zip(commands, said, strict=True))


async def test_the_version_is_printed() -> None:
    assert await rejoinder("version") == (0, "rejoinder 0.1.0\n", "")


async def test_a_bad_setting_is_one_line() -> None:
    for command, (status, out, err) in (await each(COMMANDS, lease_s="soon")).items():
        assert (status, out) == (2, ""), command
        assert err.startswith("rejoinder: REJOINDER_LEASE_S: 'soon' does not fit; it takes seconds")
        assert err.count("\n") == 1


async def test_a_cluster_that_is_away_is_one_line() -> None:
    said = await each(COMMANDS, port=0, internal_port=0, kafka=NOBODY)
    for command, (status, out, err) in said.items():
        assert (status, out) == (1, ""), command
        assert err.startswith("rejoinder: ")
        assert NOBODY in err
        assert err.count("\n") == 1


async def test_a_missing_topic_is_one_line(kafka: str, topic_prefix: str) -> None:
    said = await each(SERVICES, port=0, internal_port=0, kafka=kafka, topic_prefix=topic_prefix)
    for command, (status, _, err) in said.items():
        assert status == 1, command
        last = err.splitlines()[-1]
        assert last.startswith(f"rejoinder: topic {topic_prefix}")
        assert "rejoinder topics --create" in last
        assert "Traceback" not in err


async def test_topics_are_checked_and_created(kafka: str, topic_prefix: str) -> None:
    chosen = {"kafka": kafka, "topic_prefix": topic_prefix, "partitions": 2}
    status, out, _ = await rejoinder("topics", **chosen)
    assert status == 1
    assert f"topic {topic_prefix}responses.events: does not exist: rejoinder topics --create\n" in out
    status, out, _ = await rejoinder("topics", "--create", **chosen)
    assert status == 0
    assert out.startswith(f"created topic {topic_prefix}responses.events with 2 partitions\n")
    assert out.endswith("the topics are as they must be\n")
    assert await rejoinder("topics", **chosen) == (0, "the topics are as they must be\n", "")


async def test_p142_partitions_are_added_once_it_is_known_where_keys_lead(
    kafka: str, topic_prefix: str
) -> None:
    chosen = {"kafka": kafka, "topic_prefix": topic_prefix}
    assert (await rejoinder("topics", "--create", "--partitions", "2", **chosen))[0] == 0
    status, out, err = await rejoinder("topics", "--partitions", "3", **chosen)
    assert (status, out) == (1, "")
    assert "start an ingest of this version on these topics once" in err
    log = KafkaLog(kafka)
    try:
        assert await freeze_key_partitions(log, topics(topic_prefix), lambda: "0" * 16) == 2
        status, out, err = await rejoinder("topics", "--partitions", "3", **chosen)
        assert (status, err) == (0, "")
        said = out.splitlines()
        assert said[6] == f"raised topic {topic_prefix}responses.events to 3 partitions"
        assert said[7:] == [
            "services follow by themselves, but for analytics and shards of replay, which are started again; "
            "keys stay in the first 2 partitions",
            "the topics are as they must be",
        ]
        again = await rejoinder("topics", "--partitions", "3", **chosen)
        assert again == (0, "the topics are as they must be\n", "")
        status, out, err = await rejoinder("topics", "--partitions", "2", **chosen)
        assert (status, out) == (1, "")
        assert "has 3 partitions: none can be taken away" in err
        assert await freeze_key_partitions(log, topics(topic_prefix), lambda: "1" * 16) == 2
    finally:
        await log.close()


async def test_topics_that_cannot_hold_the_largest_record_stop_a_service(
    kafka: str, topic_prefix: str
) -> None:
    chosen = {"kafka": kafka, "topic_prefix": topic_prefix}
    assert (await rejoinder("topics", "--create", **chosen))[0] == 0
    larger = {**chosen, "max_record_bytes": 48 << 20}
    status, _, err = await rejoinder("ingest", port=0, **larger)
    assert status == 1
    last = err.splitlines()[-1]
    assert last.startswith(f"rejoinder: topic {topic_prefix}responses.events: max.message.bytes is ")
    assert "rejoinder topics --fix" in last
    assert "set REJOINDER_MAX_RECORD_BYTES" in last
    assert (await rejoinder("topics", "--create", "--fix", **larger))[0] == 0


async def test_a_public_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, err = await rejoinder("dev", "--port", str(port), "--data", str(tmp_path))
    assert (status, out) == (1, "")
    line = f"rejoinder: port {port} on {HOST} is in use: stop what listens there, or choose another port\n"
    assert err == line
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_a_broken_configuration_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "rejoinder.toml"
    file.write_text("[[models]]\nmatch = 1\n")
    status, _, err = await rejoinder("dev", "--port", "0", "--data", str(tmp_path / "data"), config=file)
    assert status == 2
    assert err.startswith(f"rejoinder: {file}: models[0].match:")
    assert err.count("\n") == 1
    assert not (tmp_path / "data").exists()


async def test_a_missing_api_key_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "rejoinder.toml"
    file.write_text('[[models]]\nmatch = "m"\nbase_url = "http://127.0.0.1:9"\napi_key_env = "NOT_SET"\n')
    status, _, err = await rejoinder("dev", "--port", "0", "--data", str(tmp_path / "data"), config=file)
    assert (status, err) == (
        2,
        "rejoinder: NOT_SET: <model 'm' responses> needs an API key in this variable; set it\n",
    )
    assert not (tmp_path / "data").exists()


async def test_nothing_of_the_working_directory_is_imported(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text("raise SystemExit('the wrong services')")
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-P", "-m", "services.cli", "version"], cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out == b"rejoinder 0.1.0\n"
