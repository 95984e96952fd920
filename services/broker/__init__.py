"""A real Kafka broker as a child process, for a machine with neither a cluster nor Docker nor Java.

data         the directory that it keeps, with its cluster's id
properties   the broker's configuration, a pure text
jars         Kafka's jars, pinned by `jgo.lock.toml`, fetched once into the user's cache
probe        asks a port whether a Kafka answers there
guard        the process between us and the broker: no orphan, however we die
tcp          free ports of this machine
embedded     `EmbeddedKafka`: start, stop, kill, pause, resume
"""

from services.broker.embedded import EmbeddedKafka
from services.broker.errors import BrokerError
from services.broker.properties import ClusterNode

__all__ = ["BrokerError", "ClusterNode", "EmbeddedKafka"]
