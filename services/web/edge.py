"""Surrounds the routes of every HTTP app with request ids, CORS, error envelopes and refusals.

request → its id → refused? (head, host, drain, secret, origin) → preflight, or route
the route raises → an error envelope, if no answer has begun; else the connection is reset
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import NO_RETRY, ApiError, unavailable
from schemas.trace_context import TRACEPARENT, parse_traceparent
from services.traces.port import OFF, Span, SpanSide, Tracer, here
from services.web.answers import error_answer
from services.web.connection import connection
from services.web.cors import Cors, RawHeaders
from services.web.hosts import Hosts
from services.web.metrics import SECONDS, TENANT_REFUSED, TENANTS
from services.web.paths import refused
from services.web.request_log import RequestLog
from services.web.secret import check_secret, uncertified
from services.web.served import EXTENSION, Served
from services.web.stream import Disconnected

log = structlog.get_logger()

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
"""The paths that are served in a drain too, and without a secret and a certificate."""
METHODS = "GET, POST, DELETE"
PREFLIGHT_S = 600
"""Seconds for which a browser may remember a preflight."""
_ONCE = ("Host", "Authorization", "Idempotency-Key", "Content-Encoding")
"""Headers that may come once: two proxies may each read another one of two."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_KNOWN = _READS | {"POST", "DELETE"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Edge:
    """The app: `routes`, and what surrounds them.

    `public`: the routes are a part of the API that clients see. `secret`: callers must show it, unless it is
    empty. `certified`: callers must have shown a certificate. `request_log` hears of each request when it is
    over, `tracer` makes a span of it. `draining`: the code of a refusal in a drain.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        cors_origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
        *,
        public: bool = False,
        secret: str = "",
        certified: bool = False,
        request_log: RequestLog | None = None,
        tracer: Tracer = OFF,
        draining: str = "service_unavailable",
    ) -> None:
        self._known = routes
        self._public = public
        self._secret = secret
        self._certified = certified
        self._request_log = request_log
        self._tracer = tracer
        self._draining = draining
        self._routes: ASGIApp = Router(routes, redirect_slashes=False)
        self._hosts = Hosts(hosts)
        self.cors = Cors(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. If a route raises, the answer is an error, or the connection is reset."""
        headers = Headers(scope=scope)
        served = Served(time.monotonic(), scope["method"])
        scope["extensions"][EXTENSION]["served"] = served
        request_id = _identify(headers)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        cors = self.cors.headers(headers.get("origin", ""))
        span = self._begin_span(headers, scope)
        here.set(span.context)
        reply = _Reply(send, [(b"x-request-id", request_id.encode()), *cors], served)
        # Starlette's routes raise HTTPException, which has an envelope, only when there is an `app`.
        scope["app"] = self
        try:
            app = self._refusal(scope, headers) or self._routes
            await app(scope, receive, reply)
        except (ClientDisconnect, Disconnected, asyncio.CancelledError):
            # A drain cancels what it gives up. That ends here: uvicorn would log a traceback for each.
            connection(scope).abort()
        except HTTPException as error:
            await _answer_error(self._unrouted(error, scope), scope, receive, reply)
        except Exception as error:
            await _answer_error(error, scope, receive, reply)
        finally:
            self._tell(served, scope)
            if self._tracer.tells:
                _end_span(span, served)

    def _begin_span(self, headers: Headers, scope: Scope) -> Span:
        """The span of a request. At an internal port only what is asked for a request of a client has one."""
        parent = parse_traceparent(headers.get(TRACEPARENT, ""))
        if scope["path"] in OPEN_PATHS or not (parent or self._public):
            return OFF.span("", SpanSide.SERVER, parent, {})
        return self._tracer.span(scope["method"], SpanSide.SERVER, parent, {})

    def _tell(self, served: Served, scope: Scope) -> None:
        """Tell metrics and logs what became of a request."""
        endpoint = scope.get("endpoint")
        if isinstance(endpoint, _Endpoint):
            served.route = endpoint.path
        if served.status:
            SECONDS.labels(*_labels(served)).observe(served.answered - served.began)
        tenant = structlog.contextvars.get_contextvars().get("tenant")
        if served.status == HTTPStatus.TOO_MANY_REQUESTS and tenant and self._public:
            TENANT_REFUSED.labels(TENANTS.shown(tenant)).inc()
        if self._request_log is not None and scope["path"] not in OPEN_PATHS:
            served.body_bytes += connection(scope).pushed_bytes
            self._request_log.tell(served, time.monotonic() - served.began)

    def _unrouted(self, error: HTTPException, scope: Scope) -> ApiError:
        """The refusal of a request for which starlette found no route (404, 405), or that it cannot read."""
        method, path = scope["method"], scope["path"]
        if error.status_code not in (404, 405):
            return ApiError(error.status_code, "The request is not understood.", code="invalid_request")
        fitting = [known for known in self._known if known.matches(scope)[0] is not Match.NONE]
        here = {one for known in fitting if isinstance(known, Route) for one in known.methods or ()}
        if self._public:
            return refused(method, path, here)
        if here:
            headers = {"allow": ", ".join(sorted(here))}
            what = f"{method} is not allowed on {path}."
            return ApiError(405, what, code="method_not_allowed", headers=headers)
        return ApiError(404, f"There is no route {method} {path}.", code="not_found")

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        if not scope["raw_path"].startswith(b"/"):
            raise ApiError(400, "The request's target must be a path: /v1/responses, say.", code="bad_target")
        _check_head(scope, headers)
        if scope["path"] not in OPEN_PATHS:
            self._check_host(headers)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return self._preflight(headers)
        if connection(scope).draining and scope["path"] not in OPEN_PATHS:
            # An EventSource gives up for good on any answer but 200, and reconnects after a reset.
            if "text/event-stream" in headers.get("accept", ""):
                raise Disconnected("draining")
            refusal = unavailable("The server is shutting down.", retry_after=1, reason="draining")
            refusal.code = self._draining
            raise refusal
        if scope["path"] not in OPEN_PATHS:
            if self._certified and not connection(scope).certified:
                raise uncertified()
            if self._secret:
                check_secret(headers, self._secret)
        self._check_writer(scope, headers)
        return None

    def _check_host(self, headers: Headers) -> None:
        """Refuse a request for another host name: the owner of a page may have pointed it here (A-18)."""
        for host in headers.getlist("host"):
            if host not in self._hosts:
                what = f"This server is not called '{host}': its operator can add that to REJOINDER_HOSTS."
                raise ApiError(421, what, param="host", code="host_not_allowed", headers=NO_RETRY)

    def _check_writer(self, scope: Scope, headers: Headers) -> None:
        """Refuse a write by another origin's page: a browser sends no preflight for a plain POST (A-18)."""
        origin = headers.get("origin")
        if origin is None or scope["method"] in _READS:
            return
        own = origin.partition("://")[2].lower() == headers.get("host", "").lower()
        if not own and origin not in self.cors:
            raise ApiError(403, "This origin may not call the API.", code="origin_not_allowed")

    def _preflight(self, headers: Headers) -> Response:
        if headers.get("origin") not in self.cors:
            raise ApiError(403, "This origin may not call the API.", code="origin_not_allowed")
        allowed = {
            "access-control-allow-methods": METHODS,
            "access-control-allow-headers": headers.get("access-control-request-headers", ""),
            "access-control-max-age": str(PREFLIGHT_S),
        }
        return Response(status_code=204, headers=allowed)


def _check_head(scope: Scope, headers: Headers) -> None:
    """Refuse a head that names no host (RFC 9112 3.2), or has a header of `_ONCE` twice (A-16)."""
    if scope["http_version"] == "1.1" and "host" not in headers:
        raise ApiError(400, "The header 'Host' is missing.", param="host", code="invalid_request")
    for name in _ONCE:
        if len(headers.getlist(name)) > 1:
            what = f"The header '{name}' is sent more than once: send it once."
            raise ApiError(400, what, param=name.lower(), code="invalid_request")


Handler = Callable[[Request], Awaitable[ASGIApp]]


def route(method: str, path: str, handler: Handler) -> Route:
    """A route whose handler returns an ASGI app as its answer: a starlette Response or a Stream.

    Starlette's wrapper around a plain function would add two awaits to every chunk that is sent.
    """
    return Route(path, _Endpoint(handler, path), methods=[method])


class _Endpoint:
    def __init__(self, handler: Handler, path: str) -> None:
        self._handler = handler
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._handler(Request(scope, receive))
        await answer(scope, receive, send)


class _Reply:
    """`send`, which adds our headers and notes what goes out. It adds no await to a chunk."""

    def __init__(self, send: Send, headers: RawHeaders, served: Served) -> None:
        self._send = send
        self._headers = headers
        self._served = served
        self.begun = False
        """Whether an answer has begun."""

    def __call__(self, event: Message) -> Any:
        if self.begun:
            self._served.body_bytes += len(event.get("body", b""))
        else:
            self.begun = True
            self._served.status, self._served.answered = event["status"], time.monotonic()
            names = {name for name, _ in self._headers}
            kept = [header for header in event.get("headers", ()) if header[0].lower() not in names]
            event["headers"] = [*kept, *self._headers]
        return self._send(event)


async def _answer_error(error: Exception, scope: Scope, receive: Receive, reply: _Reply) -> None:
    told = error if isinstance(error, ApiError) else None
    if told is None:
        log.error("request failed", method=scope["method"], path=scope["path"], exc_info=error)
        told = ApiError(500, "The server had an error.", type="server_error", code="server_error")
    if reply.begun:
        connection(scope).abort()
    else:
        await error_answer(told)(scope, receive, reply)


def _end_span(span: Span, served: Served) -> None:
    """Say of a span what became of its request: the route is known only now."""
    method, route, _ = _labels(served)
    span.name(f"{method} {route}")
    tenant = structlog.contextvars.get_contextvars().get("tenant")
    span.note(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": served.status,
            "gen_ai.response.id": served.response,
            "rejoinder.tenant": tenant or "",
            "rejoinder.stream.end": served.end,
        }
    )
    span.end(error=str(served.status) if served.status >= 500 else "")


def _labels(served: Served) -> tuple[str, str, str]:
    """Method, route and class of the status, each one of few."""
    return served.method if served.method in _KNOWN else "other", served.route, f"{served.status // 100}xx"


def _identify(headers: Headers) -> str:
    """The request's id: the client's, if logs and headers can carry it, else `req_` and 32 hex digits."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{os.urandom(16).hex()}"
