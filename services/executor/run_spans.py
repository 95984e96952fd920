"""The spans of a run, for traces: what its response waited for, and what was done with it.

    POST /v1/responses              the front door's, and ingest's below it: their context is in `accepted`
      rejoinder.queue               from the acceptance until the first claim was sent; times are log time
      rejoinder.claim               from the sending of a claim until it was read back
      rejoinder.run                 from then until the run is over
        chat {model}                the call of the upstream, as `gen_ai` conventions name it

A run of a later attempt goes on in the same trace, and links to the context in `accepted`, from which the
first attempt's spans come.
"""

from typing import Any
from urllib.parse import urlsplit

from services.config import Agent, Route, label_of
from services.executor.run import Job
from services.traces.port import Attributes, Span, SpanSide, Tracer

OPENAI = "openai"
"""`gen_ai.provider.name` of whoever speaks OpenAI's protocols, as the convention has it."""


class RunSpans:
    """The spans of one run. `now` is the wall clock (seconds) when its claim was read back, which took
    `claimed_s`.
    """

    def __init__(self, tracer: Tracer, job: Job, *, now: float, claimed_s: float) -> None:
        self._tracer = tracer
        state, attempt = job.state, job.run.attempt
        accepted = state.accepted
        self._parent = accepted.traceparent if accepted is not None else ""
        self._about: Attributes = {
            "gen_ai.response.id": state.id,
            "rejoinder.tenant": state.tenant,
            "rejoinder.attempt": attempt,
        }
        sent = now - claimed_s
        if tracer.tells:
            if attempt == 1:
                self._past("rejoinder.queue", min(state.accepted_at / 1000, sent), sent)
            self._past("rejoinder.claim", sent, now)
        first = self._parent if attempt > 1 else ""
        begun = "rejoinder.run", SpanSide.INTERNAL, self._parent, self._about
        self.run = tracer.span(*begun, since=now, link=first)

    def over(self, job: Job) -> None:
        """The run is over."""
        end, status = job.run.ended, job.state.status
        self.run.note({"rejoinder.run.end": end.name.lower() if end else "", "rejoinder.status": status})
        self.run.end(error=status if status == "failed" else "")

    def _past(self, name: str, since: float, until: float) -> None:
        """A span that is over."""
        self._tracer.span(name, SpanSide.INTERNAL, self._parent, self._about, since=since).end(until)

    def call(self, route: Route | None, model: str) -> Span:
        """The span of the call of the upstream of `route`. Its context goes with each request."""
        return self._tracer.span(_name(route, model), SpanSide.CLIENT, self.run.context, _call(route, model))


def end_call(span: Span, response: Any, *, error: str = "") -> None:
    """End the span of a call with what the upstream's last object says, if there is one."""
    if isinstance(response, dict):
        names = {"gen_ai.response.id": response.get("id"), "gen_ai.response.model": response.get("model")}
        span.note({name: value for name, value in names.items() if isinstance(value, str)})
        span.note(_usage(response.get("usage")))
    span.end(error=error)


def _usage(usage: Any) -> Attributes:
    """What an upstream says of tokens."""
    if not isinstance(usage, dict):
        return {}
    read, written = usage.get("input_tokens_details"), usage.get("output_tokens_details")
    told = {
        "gen_ai.usage.input_tokens": usage.get("input_tokens"),
        "gen_ai.usage.output_tokens": usage.get("output_tokens"),
        "gen_ai.usage.cache_read.input_tokens": read.get("cached_tokens") if isinstance(read, dict) else None,
        "gen_ai.usage.reasoning.output_tokens": (
            written.get("reasoning_tokens") if isinstance(written, dict) else None
        ),
    }
    return {name: value for name, value in told.items() if isinstance(value, int)}


def _name(route: Route | None, model: str) -> str:
    return f"invoke_agent {route.name}" if isinstance(route, Agent) else f"chat {model}"


def _call(route: Route | None, model: str) -> Attributes:
    is_agent = isinstance(route, Agent)
    url = "" if route is None else route.url if isinstance(route, Agent) else route.base_url
    where = urlsplit(url)
    about: dict[str, str | int] = {
        "gen_ai.operation.name": "invoke_agent" if is_agent else "chat",
        "gen_ai.provider.name": OPENAI if url else "rejoinder",
        "gen_ai.request.model": model,
        "gen_ai.agent.name": label_of(route) if is_agent else "",
        "server.address": where.hostname or "",
        "rejoinder.route": label_of(route),
    }
    return about | ({"server.port": where.port} if where.port else {})
