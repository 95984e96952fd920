"""How long Kafka is tried for, and whom a time-out speaks of."""

import time

import pytest

from schemas.errors import LogUnavailable
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_brokers import Brokers
from services.eventlog.kafka_link import KafkaLink

PATIENCE_S = 0.1


class Asleep:
    """An attempt during which this process stands still `times` times, for longer than twice the patience."""

    def __init__(self, times: int) -> None:
        self._times = times

    async def __call__(self) -> str:
        if self._times:
            self._times -= 1
            until = time.monotonic() + 3 * PATIENCE_S
            while time.monotonic() < until:
                pass
            raise TimeoutError
        return "an answer"


def link() -> KafkaLink:
    return KafkaLink(Brokers(KafkaAddress("127.0.0.1:1")), 1)


async def test_a_process_that_stood_still_does_not_blame_kafka() -> None:
    assert await link().retrying(Asleep(2), PATIENCE_S) == "an answer"


async def test_a_kafka_that_answers_nothing_is_away() -> None:
    async def refused() -> str:
        raise ConnectionError("refused")

    with pytest.raises(LogUnavailable, match=r"^Kafka at 127\.0\.0\.1:1 is away \(refused\): is it running"):
        await link().retrying(refused, PATIENCE_S)
