"""What is mended in Faust, and only if it is as we know it.

`Consumer._drain_messages` notes the offset of a message after it has handed the message on. Handing on may
wait, and a rebalance may meanwhile seek back: then the note overwrites the seek, and what is read again is
dropped as known (docs/decisions). The two lines change places.
"""

import inspect
import textwrap

from faust.transport import consumer

from schemas.errors import RejoinderError

_CALL = """\
                            await self.wait_first(
                                callback(message), self.suspend_flow.wait()
                            )
"""
_NOTE = """\
                            set_read_offset(tp, offset)
"""
METHOD = "_drain_messages"
_MENDED = "rejoinder_mended"


class FaustUnknown(RejoinderError):
    """The installed Faust is not the one that is mended here: what to install instead."""


def mend_faust(kind: type = consumer.Consumer) -> None:
    """Mend a class, once. Raises FaustUnknown if its source is not as expected."""
    function = getattr(kind, METHOD)
    if hasattr(function, _MENDED):
        return
    source = inspect.getsource(function)
    if source.count(_CALL + _NOTE) != 1:
        raise FaustUnknown("this Faust is not the one that analytics mends: install faust-streaming==0.15.3")
    found: dict[str, object] = {}
    text = textwrap.dedent(source.replace(_CALL + _NOTE, _NOTE + _CALL))
    exec(compile(text, consumer.__file__, "exec"), vars(consumer), found)  # noqa: S102  # its own source
    setattr(found[METHOD], _MENDED, True)
    setattr(kind, METHOD, found[METHOD])
