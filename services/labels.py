"""Bounds the values of a metric's label that others choose: each value is a time series, which stays."""

OTHER = "other"
"""What a name is shown as when there are too many."""
NAMES = 100
"""Names that a label has, beside OTHER."""


class Names:
    """The names that one label shows: the first `most` that came since the start of the process."""

    def __init__(self, most: int = NAMES) -> None:
        self._most = most
        self._shown: set[str] = set()

    def shown(self, name: str) -> str:
        """`name`, or OTHER if it is one too many."""
        if name in self._shown:
            return name
        if len(self._shown) >= self._most:
            return OTHER
        self._shown.add(name)
        return name
