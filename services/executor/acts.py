"""What there is to do: the engine and the steward return it, the executor does it, in order."""

from msgspec import Struct

from schemas.ids import ResponseId
from schemas.records import NewRecord
from services.executor.run import Job, Run


class Claim(Struct, frozen=True):
    """Append a claim of `attempt`."""

    id: ResponseId
    attempt: int
    partition: int
    record: NewRecord


class Post(Struct, frozen=True):
    """Append again, under its new claim, what a run has said and the fold has not shown yet."""

    partition: int
    records: list[NewRecord]


class Start(Struct, frozen=True):
    """Begin to work a job off, in a task of its own."""

    job: Job


class Stop(Struct, frozen=True):
    """Cancel the task of a run, which stops its upstream unless the run is handed over."""

    run: Run


Act = Claim | Post | Start | Stop
