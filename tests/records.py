"""The log of a system from the inside."""

from schemas.records import LogRecord
from services.eventlog.kafka import KafkaLog
from services.eventlog.port import TopicPartition
from services.eventlog.topics import topics
from tests.system import System


async def records_of(system: System) -> list[LogRecord]:
    """All records of the events topic, partition by partition."""
    topic = topics(system.prefix).events
    log = KafkaLog(system.kafka, "rejoinder-test")
    found: list[LogRecord] = []
    try:
        for partition, (start, end) in (await log.bounds(topic, range(await log.partitions(topic)))).items():
            source, at = TopicPartition(topic, partition), start
            while at < end:
                for batch in await log.fetch({source: at}):
                    found += batch.records
                    at = batch.next_offset
    finally:
        await log.close()
    return found
