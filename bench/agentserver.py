"""A peer: the server in memory that PyPI's `azure-ai-agentserver-responses` makes of an agent.

Its agent says what model echo says: words, `echo.tokens` of them, `echo.interval_ms` apart.

    python -m bench.agentserver --port 8001
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import cycle, islice
from typing import Any

from azure.ai.agentserver.responses import ResponsesAgentServerHost, TextResponse

HOST = "127.0.0.1"


async def words(text: str, count: int, pause: float) -> AsyncIterator[str]:
    """Words of `text`, round and round, `pause` seconds apart."""
    for word in islice(cycle(text.split()), count):
        if pause:
            await asyncio.sleep(pause)
        yield f"{word} "


def app() -> ResponsesAgentServerHost:
    """The server with its agent. Neither logs nor traces, which would only cost it."""
    host = ResponsesAgentServerHost(configure_observability=None, access_log=None)

    @host.response_handler
    async def say(request: Any, context: Any, _: asyncio.Event) -> TextResponse:
        asked = request.get("metadata") or {}
        text = await context.get_input_text()
        pause = int(asked.get("echo.interval_ms", 0)) / 1000
        return TextResponse(context, request, text=words(text, int(asked["echo.tokens"]), pause))

    return host


async def serve(port: int) -> None:
    """Serve, and print `ready URL` once connections are taken."""
    serving = asyncio.create_task(app().run_async(HOST, port))
    while not serving.done():
        with suppress(OSError):
            _, writing = await asyncio.open_connection(HOST, port)
            writing.close()
            break
        await asyncio.sleep(0.05)
    print(f"ready http://{HOST}:{port}", flush=True)
    await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
