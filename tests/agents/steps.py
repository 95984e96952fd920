"""A real hosted agent: thinks, calls a tool, talks, word by word. `tests.agents.hosted` runs it.

    python -m tests.agents.steps PORT JOURNAL

The last input text steers it: `steps N` puts out N words, `wait` goes on until it is stopped, `die` takes
the whole process down in mid-stream, `raise` lets the handler fail. JOURNAL gets a line when a run begins
and when one is stopped.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from azure.ai.agentserver.responses import (
    ResponseContext,
    ResponseEventStream,
    ResponsesAgentServerHost,
)

INTERVAL = 0.02
"""Seconds between words."""

app = ResponsesAgentServerHost(configure_observability=None)
journal = Path(sys.argv[2])


def note(line: str) -> None:
    """Add a line to the journal."""
    with journal.open("a") as file:
        file.write(line + "\n")


@app.response_handler
async def handle(
    request: Any, context: ResponseContext, cancellation_signal: asyncio.Event
) -> AsyncIterator[Any]:
    """One run."""
    texts = (await context.get_input_text()).splitlines()  # of the whole conversation
    said = texts[-1].split() if texts else ["steps"]
    note(f"begun {context.response_id}")
    stream = ResponseEventStream(response_id=context.response_id, request=request)
    ended = False
    try:
        yield stream.emit_created()
        yield stream.emit_in_progress()
        for event in stream.output_item_reasoning_item("I shall look that up."):
            yield event
        for event in stream.output_item_function_call("look_up", "call_1", '{"what": "weather"}'):
            yield event
        async for event in talk(stream, said, cancellation_signal):
            yield event
        ended = not cancellation_signal.is_set()
        yield stream.emit_completed()
    finally:
        note(f"{'ended' if ended else 'stopped'} {context.response_id}")


async def talk(stream: Any, said: list[str], stop: asyncio.Event) -> AsyncIterator[Any]:
    """A text, word by word."""
    count = int(said[1]) if said[0] == "steps" and len(said) > 1 else 5
    text_item = stream.add_output_item_message()
    yield text_item.emit_added()
    part = text_item.add_text_content()
    yield part.emit_added()
    number = 0
    while not stop.is_set() and (said[0] == "wait" or number < count):
        yield part.emit_delta(f"word{number} ")
        number += 1
        await asyncio.sleep(INTERVAL)
        if said[0] == "die" and number == count:
            os._exit(1)
        if said[0] == "raise" and number == count:
            raise RuntimeError("the agent broke")
    yield part.emit_text_done()
    yield part.emit_done()
    yield text_item.emit_done()


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[1]))
