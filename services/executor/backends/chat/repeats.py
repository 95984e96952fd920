"""Finds the new text in pieces from a server that may repeat the whole text. Pure.

    delta.content → `piece`      message.content → `snapshot`      → the new text

Some servers send the whole text so far in every chunk, or in the last one. Told as pieces it would be
doubled. A model may repeat itself as well, and then no text may be lost (U-47). These tell them apart:

- A server that sends the whole text each time does so from its second chunk on. The first piece that does not
  begin with the whole text before shows that the stream has pieces. Most streams show that at once.
- Whole texts grow. `ha`, `ha` is a model that laughs; `He`, `Hello` is a text that grows.
- A piece that begins with the whole text before is that text again if it comes at the end of the stream, or
  is too long for chance.

If two pieces do not decide it, the text waits for the next piece, and no longer.
"""

_LONG = 32
"""From so many characters on, no model repeats a text in one piece by chance."""
_MARGIN = 16
"""Characters of white space that a repetition may lack at its ends."""
_UNDECIDED = 3
"""After so many equal pieces the stream has pieces: no server sends a whole text that does not grow so
often."""


class Repeats:
    """One kind of text of one stream."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._size = 0
        self._count = 0
        self._whole: bool | None = None
        """Whether each piece is the whole text so far; None while that is unknown."""
        self._held: list[str] = []

    @property
    def holding(self) -> bool:
        """Whether a text waits for the next piece."""
        return bool(self._held)

    def piece(self, text: str, *, last: bool = False) -> str:
        """Take a further piece; `last`: no other follows. Returns the text to tell now."""
        if not text:
            return ""
        self._count += 1
        if self._whole:
            return self._rest(text)
        if self._whole is None:
            return self._first(text, last)
        return self._later(text, last)

    def snapshot(self, text: str, *, alone: bool) -> str:
        """Take a message's text. Returns the new text in it. `alone`: the server sends no pieces beside
        messages, so a message that repeats nothing is a piece itself.
        """
        out = ""
        if self._held:
            pieces = "".join((*self._told, *self._held))
            if text.startswith(pieces):
                out = self._release("")
            elif text.startswith(self._held[-1]):
                self._held.clear()
            else:
                out = self.flush()
        said = self.said()
        if text.startswith(said):
            return out + self._tell(text[len(said) :])
        return out + (self._tell(text) if alone and not said.startswith(text) else "")

    def flush(self) -> str:
        """The text that waits: no further piece of it comes now."""
        held, self._held = self._held, []
        if not held:
            return ""
        said = self.said()
        if self._whole is None and not _grows(said, held[-1]):
            return self._tell("".join(held))
        return self._tell(held[-1][len(said) :])

    def said(self) -> str:
        """The text that was told."""
        if len(self._told) > 1:
            self._told = ["".join(self._told)]
        return self._told[0] if self._told else ""

    def _first(self, text: str, last: bool) -> str:
        """Take a piece while it is unknown whether pieces repeat."""
        if not self._told:
            return self._tell(text)
        before = self._held[-1] if self._held else self.said()
        if not text.startswith(before):
            self._whole = False
            return self._release(text)
        if len(before) >= _LONG and not self._held:
            self._whole = True
            return self._rest(text)
        if last and not self._held and text == before:
            return ""
        self._held.append(text)
        said = self.said()
        grows = len(said) < len(before) < len(text) and any(map(str.isalnum, before))
        if grows and not _is_times(said, text):
            self._whole = True
            self._held.clear()
            return self._rest(text)
        if len(self._held) >= _UNDECIDED:
            self._whole = False
            return self._release("")
        return self.flush() if last else ""

    def _later(self, text: str, last: bool) -> str:
        """Take a piece of a stream that has pieces: one that repeats the whole text is no piece."""
        if (
            self._count < 3 or len(text) < self._size - _MARGIN
        ):  # the usual case, decided before the text is joined
            return self._release(text)
        said = self.said()
        repeats = text.startswith(said) or (last and text.strip() == said.strip())
        if not repeats or _is_periodic(said):
            return self._release(text)
        if last or self._size >= _LONG:
            self._held.clear()
            return self._tell(text[len(said) :])
        if self._held and not text.startswith(self._held[-1]):
            return self._release(text)
        self._held = [text]
        return ""

    def _rest(self, text: str) -> str:
        """The part of a whole text that was not told yet."""
        said = self.said()
        if text.startswith(said):
            return self._tell(text[len(said) :])
        if said.startswith(text) and 2 * len(text) >= len(said):
            return ""  # an earlier text comes late
        self._whole = False  # so the pieces before were no whole texts either
        return self._tell(text)

    def _release(self, text: str) -> str:
        held, self._held = self._held, []
        return self._tell("".join((*held, text)))

    def _tell(self, text: str) -> str:
        if text:
            self._told.append(text)
            self._size += len(text)
        return text


def _grows(said: str, text: str) -> bool:
    """Whether `text` is `said` and more, and not only repetitions of `said`."""
    return len(text) > len(said) and not _is_times(said, text) and any(map(str.isalnum, said))


def _is_times(unit: str, text: str) -> bool:
    times, rest = divmod(len(text), len(unit))
    return not rest and unit * times == text


def _is_periodic(text: str) -> bool:
    """Whether `text` is a shorter text repeated: then the model repeats itself."""
    return text in (text + text)[1:-1]
