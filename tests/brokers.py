"""The Kafka that the tests run on: one for each process that runs tests, chosen by REJOINDER_TEST_KAFKA.

embedded         the project's own child process; the default on a machine without a Docker engine
testcontainers   a container; the default where a Docker engine answers
HOST:PORT        a cluster that runs already; the tests leave their topics in it
none             no broker: tests that need one are skipped
"""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import pytest

from services.broker import EmbeddedKafka

VARIABLE = "REJOINDER_TEST_KAFKA"
IMAGE = "confluentinc/cp-kafka:8.1.0"
"""Carries Kafka 4.1, the oldest that Rejoinder supports."""
QUICK = "-XX:TieredStopAtLevel=1"
"""Java's quick compiler alone: the tests' dozens of brokers live too briefly for the other compiler to pay,
which takes 2.8 of the 6.9 s of CPU of a broker's start.
"""
CACHE = Path(sys.prefix, "kafka.aot")
"""Kafka's classes, loaded and linked beforehand. `make test` runs `python -m tests.brokers` for it.
Java takes 2.5 s of CPU with it for a broker's format and first start, 4.8 s without.
"""
os.environ.setdefault("JDK_JAVA_OPTIONS", f'{QUICK} -XX:AOTCache="{CACHE}"' if CACHE.exists() else QUICK)
ENGINE = "/var/run/docker.sock"


def chosen() -> str:
    """The kind of broker that the tests run on."""
    return os.environ.get(VARIABLE) or ("testcontainers" if docker_answers() else "embedded")


def docker_answers() -> bool:
    """Whether there is a Docker engine: DOCKER_HOST names one, or one listens at the usual socket."""
    if "DOCKER_HOST" in os.environ:
        return True
    with socket.socket(socket.AF_UNIX) as engine:
        return engine.connect_ex(ENGINE) == 0


@asynccontextmanager
async def broker(choice: str, folder: Path) -> AsyncIterator[str]:
    """A broker's HOST:PORT; the broker keeps its data in `folder`."""
    if choice == "none":
        pytest.skip(f"{VARIABLE} is none")
    if choice == "embedded":
        embedded = EmbeddedKafka(folder)
        try:
            yield await embedded.start()
        finally:
            await embedded.stop()
    elif choice == "testcontainers":
        from testcontainers.community.kafka import KafkaContainer

        container = KafkaContainer(IMAGE).with_kraft()
        container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        try:
            await anyio.to_thread.run_sync(container.start, 120)
            yield container.get_bootstrap_server()
        finally:
            await anyio.to_thread.run_sync(container.stop)
    else:
        yield choice


async def write_cache(cache: Path) -> None:
    """Start and stop a broker whose Java writes down at its end, as `cache`, which classes it has loaded."""
    os.environ["JDK_JAVA_OPTIONS"] = f'{QUICK} -XX:AOTCacheOutput="{cache}"'
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedKafka(Path(folder))
        try:
            await embedded.start()
        finally:
            await embedded.stop(timeout=60)


if __name__ == "__main__":
    asyncio.run(write_cache(CACHE))
