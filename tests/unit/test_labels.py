"""Labels that others choose are bounded."""

from services.labels import NAMES, OTHER, Names


def test_the_first_names_are_shown_and_all_later_ones_are_one() -> None:
    names = Names(2)
    shown = [names.shown(name) for name in ("a", "b", "a", "c", "d", "b")]
    assert shown == ["a", "b", "a", OTHER, OTHER, "b"]


def test_a_name_that_is_shown_as_other_anyway_takes_one_place() -> None:
    names = Names()
    shown = {names.shown(str(number)) for number in range(2 * NAMES)} | {names.shown(OTHER)}
    assert len(shown) == NAMES + 1
