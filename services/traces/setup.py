"""The tracer that the settings ask for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.errors import SettingsError
from services.settings import PREFIX, Settings
from services.traces.port import OFF, Tracer

MEND = "pip install 'rejoinder[traces]'"


def tracer_of(settings: Settings, service: str) -> Tracer:
    """The tracer of `service`. Nothing of OpenTelemetry is imported if no URL is set.

    Raises SettingsError if OpenTelemetry is not installed.
    """
    if not settings.traces_url:
        return OFF
    try:
        from services.traces.otlp import Otlp
    except ImportError as error:
        raise SettingsError(f"{PREFIX}TRACES_URL: traces need OpenTelemetry: {MEND}") from error
    return Otlp(settings.traces_url, settings.traces_ratio, service)


@asynccontextmanager
async def tracing(settings: Settings, service: str) -> AsyncIterator[Tracer]:
    """The tracer while the block runs; then what was not sent yet is sent. Raises as `tracer_of`."""
    tracer = tracer_of(settings, service)
    try:
        yield tracer
    finally:
        if tracer.tells:
            await asyncio.to_thread(tracer.close)
