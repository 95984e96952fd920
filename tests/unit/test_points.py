"""The named points: each is somewhere, and each is listed."""

import re
from pathlib import Path

from services import points
from tests.points import when

SERVICES = Path(points.__file__).parent
USED = re.compile(r"points\.(?:at|watch)\(\s*\"([^\"]+)\"")


def test_every_point_is_listed_and_somewhere() -> None:
    used = {name for path in SERVICES.rglob("*.py") for name in USED.findall(path.read_text())}
    used -= {"…"}
    assert used == set(points.POINTS)


def test_every_point_says_what_it_is_about() -> None:
    told = re.findall(r"^    ([a-z ]+?)(?:  |$)", points.__doc__ or "", flags=re.MULTILINE)
    assert told == list(points.POINTS)


def test_who_watches_is_told_and_others_with_it() -> None:
    seen: list[object] = []
    with when("run over", seen.append), when("run over", seen.append), when("beat due", seen.clear):
        points.at("run over", 1)
    points.at("run over", 2)
    assert seen == [1, 1]
    assert points.watch is None
