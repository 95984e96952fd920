"""services/executor/backends/chat/custom.py: a custom tool's text out of JSON that comes in pieces."""

import json
import random

import pytest

from services.executor.backends.chat.custom import CustomInput, PlainInput

TEXT = '*** Begin Patch\n+a "b" \\ \t é 😀 \\u0041 /x\n'


def read(*pieces: str) -> tuple[list[str], str]:
    reader = CustomInput()
    told = [reader.add(piece) for piece in pieces]
    told.append(reader.end())
    assert "".join(told) == reader.said
    return told, reader.said


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_the_text_comes_whole_in_whatever_pieces(ascii: bool, size: int) -> None:
    given = json.dumps({"input": TEXT}, ensure_ascii=ascii)
    _, said = read(*(given[at : at + size] for at in range(0, len(given), size)))
    assert said == TEXT


@pytest.mark.parametrize("seed", range(200))
def test_any_text_in_any_pieces(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choices('ab\\"u0dD8/\n\x01é😀', k=chance.randrange(40)))
    given = json.dumps({"input": text, "more": 1}, ensure_ascii=chance.random() < 0.5)
    cuts = sorted(chance.choices(range(len(given)), k=chance.randrange(10)))
    _, said = read(*(given[a:b] for a, b in zip([0, *cuts], [*cuts, len(given)], strict=True)))
    assert said == text


def test_the_text_is_told_while_it_comes() -> None:
    told, _ = read('{"inp', 'ut": "one ', "two\\", 'n"', "}")
    assert told == ["", "one ", "two", "\n", "", ""]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("*** Begin Patch", "*** Begin Patch"),
        ('{"patch": "x"}', "x"),
        ('"x"', "x"),
        ("{}", ""),
        ("", ""),
        ('{"a": "x", "b": "y"}', '{"a": "x", "b": "y"}'),
        ('{"input": 5}', '{"input": 5}'),
        ('{"other": 1, "input": "x"}', "x"),
        ('{"input": "broken off', "broken off"),
        ('{"input": "a\\', "a\\"),
        ('{"input": "a\\u00', "a\\u00"),
        ('{"input": "\\d+ \\\'q\\\'"}', "\\d+ 'q'"),
        ('{"input": "raw\nline"}', "raw\nline"),
        ('{"input": "\\ud83d!"}', "�!"),
        ('{"input": "\\ude00"}', "�"),
        (" " * 2000 + '{"input": "far"}', "far"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_what_models_make_of_it_is_never_lost(arguments: str, text: str) -> None:
    assert read(arguments)[1] == text
    assert read(*arguments)[1] == text
    text.encode()


def test_plain_arguments_are_told_as_they_come_and_none_are_an_object() -> None:
    reader = PlainInput()
    assert [reader.add('{"a"'), reader.add(": 1}"), reader.end(), reader.said] == [
        '{"a"',
        ": 1}",
        "",
        '{"a": 1}',
    ]
    assert (PlainInput().end(), PlainInput().said) == ("{}", "")
