"""What the commands for people print, whatever it says and whoever reads."""

import io
import json
import os
import sys

import pytest

from services.terminal.printing import Enough, say, say_json, until_enough


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    """Standard output of that encoding from here on."""
    found = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(found, encoding=encoding))
    return found


@pytest.mark.parametrize(
    "encoding, said",
    [
        ("utf-8", "é 你 😀\n".encode()),
        ("latin-1", b"\xe9 \\u4f60 \\U0001f600\n"),
        ("ascii", b"\\xe9 \\u4f60 \\U0001f600\n"),
    ],
)
def test_a_character_that_the_encoding_lacks_is_an_escape(
    monkeypatch: pytest.MonkeyPatch, encoding: str, said: bytes
) -> None:
    found = printed(monkeypatch, encoding)
    say("é 你 😀\n")
    assert found.getvalue() == said


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize(
    "text, value",
    [
        ('{"model": "你😀"}'.encode(), {"model": "你😀"}),
        (b'{\n "a":\r\n [1,\n2]}\n', {"a": [1, 2]}),
        (b'{"of a later version": "\xff"}', {"of a later version": "\ufffd"}),
    ],
)
def test_json_is_one_line_of_utf8(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: bytes, value: object
) -> None:
    found = printed(monkeypatch, encoding)
    say_json(text)
    assert found.getvalue().endswith(b"\n")
    assert found.getvalue().count(b"\n") == 1
    assert json.loads(found.getvalue().decode()) == value


def test_nobody_who_reads_is_the_end_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(Enough):
            say("to nobody")
        until_enough(lambda: say("to nobody"))
        say("and nobody hears of it")
        assert until_enough(lambda: 7) == 7
