"""Watch a named point of the services' work (services/points.py)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from services import points
from services.points import Point


@contextmanager
def when(name: Point, act: Callable[..., object]) -> Iterator[None]:
    """Call `act` with the point's subjects whenever the work comes there."""
    others = points.watch

    def watch(point: Point, *subjects: Any) -> None:
        if others is not None:
            others(point, *subjects)
        if point == name:
            act(*subjects)

    points.watch = watch
    try:
        yield
    finally:
        points.watch = others
