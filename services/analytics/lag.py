"""A lag that does not move is a process that does not work, whatever its library thinks of itself. Pure."""

from schemas.errors import RejoinderError

STUCK_S = 120.0
"""Seconds without anything counted, though there is something: longer than a group takes to form anew."""


class Stuck(RejoinderError):
    """Nothing was counted for a while, though closings wait: the process is to be started again."""


class LagWatch:
    """Looks at the lag now and then."""

    def __init__(self) -> None:
        self._counted = -1
        self._moved_at = 0.0

    def look(self, lag: int, counted: int, now: float, *, reading: bool = False) -> None:
        """`counted` only grows; `now` is in seconds. As long as `usage` is still being read, nothing can be
        counted. Raises Stuck.
        """
        if not lag or reading or counted != self._counted:
            self._counted, self._moved_at = counted, now
        elif now - self._moved_at > STUCK_S:
            what = f"{lag} closings wait and none was counted for {now - self._moved_at:.0f} s"
            raise Stuck(f"{what}: starting again")
