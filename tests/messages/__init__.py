"""Anthropic's Messages API as a kind of upstream: a test double of the backend that it would be.

    MessagesBackend → `asked`: the request's body → POST {base_url}/messages
                    → `Told`: what its events stand for, as few as it tells, for `mending` to make whole

It shows what the seam for a new kind of upstream takes: this folder, beside those in
`services/executor/backends`; the line of `KINDS` there; the name in `services.config.Kind`. Text, thinking,
calls, usage, ends and errors are here; pictures, files and the vendor's own tools are not.
"""

from tests.messages.backend import MessagesBackend

__all__ = ["MessagesBackend"]
