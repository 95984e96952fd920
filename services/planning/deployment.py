"""How many processes of each service there are, on how many brokers, with how many partitions."""

from collections.abc import Mapping

from msgspec import Struct

LEAST = 2
"""Processes of a service, so that one may die."""


class Deployment(Struct, frozen=True, kw_only=True):
    """An installation's processes. A shard is a set of partitions that `replicas` replays follow each."""

    executors: int = LEAST
    shards: int = 1
    replicas: int = LEAST
    projectors: int = LEAST
    ingests: int = LEAST
    analytics: int = LEAST
    webhooks: int = LEAST
    brokers: int = 3
    replication: int = 3
    partitions: int = 8

    @property
    def replays(self) -> int:
        """Processes of replay."""
        return self.shards * self.replicas

    @property
    def processes(self) -> Mapping[str, int]:
        """How many there are, by service."""
        return {
            "ingest": self.ingests,
            "replay": self.replays,
            "executor": self.executors,
            "projector": self.projectors,
            "analytics": self.analytics,
            "webhooks": self.webhooks,
            "broker": self.brokers,
        }

    def links(self, processes: int, copies: int = 1) -> int:
        """Pairs of a process and a broker that talk all the time.

        `copies` times over, the partitions are shared out among the processes. The partitions of one process
        have at most as many leaders as there are brokers.
        """
        together = max(1, processes // copies)
        return copies * min(together * self.brokers, max(self.partitions, together))
