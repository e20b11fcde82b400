"""Who may ask: Host, Origin and token of every request; what an answer may do in a browser."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from megasim.errors import MegasimError, printable
from megasim.serve.metrics import Metrics
from megasim.serve.problems import problem
from megasim.serve.refusals import Refusal
from megasim.serve.service import Service

COOKIE = "megasim"
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
# What a process that watches over the service asks, without a token: it says nothing of the models.
_OPEN_PATHS = ("/healthz",)
_STATIC = "/static/"
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")

server_log = logging.getLogger("megasim.serve")
access_log = logging.getLogger("megasim.serve.access")


class Security:
    """The outermost layer: lets a request in or refuses it, and writes the access log."""

    def __init__(self, app: ASGIApp, service: Service, metrics: Metrics) -> None:
        self.app, self.service, self.metrics = app, service, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._set_headers(message, scope)
            await send(message)

        scope.setdefault("state", {})
        request = Request(scope)
        try:
            refused = self._refused(request)
            await (refused or self.app)(scope, receive, send_with_headers)
        except MegasimError as error:
            await problem(request, error)(scope, receive, send_with_headers)
        except Exception:
            if status != 500:  # the answer has begun, and cannot be taken back
                raise
            server_log.exception("%s failed", printable(scope["path"], 200))
            failed = MegasimError("megasim failed", "the log of the service says where")
            await problem(request, failed)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.note(method, route, status, seconds)
            _log(scope, status, seconds)

    def _refused(self, request: Request) -> Response | None:
        """Return the answer to a request that is not let in; None for one that is."""
        headers = request.headers
        host = headers.get("host", "")
        settings = self.service.settings
        if not settings.is_own_host(host):
            return problem(
                request,
                Refusal(
                    421,
                    f"this service is not {printable(host, 100)!r}",
                    "open it under its own address, or start it with --host-name",
                ),
            )
        if _is_foreign(request, host):
            return problem(
                request,
                Refusal(403, "pages of other sites may not use this service", "open it directly"),
            )
        return self._without_token(request)

    def _without_token(self, request: Request) -> Response | None:
        bearer = _bearer(request.headers)
        if bearer is not None and self.service.is_token(bearer):
            request.state.is_owner = self.service.is_owner(bearer)
            return None
        request.state.is_owner = False
        open_to_all = request.scope["path"] in _OPEN_PATHS or request.scope["path"].startswith(
            _STATIC
        )
        if bearer is None and (not self.service.settings.token or open_to_all):
            return None
        if bearer is None and self.service.is_cookie(_cookie(request.headers)):
            return None
        given = request.query_params.get("token")
        if bearer is None and request.method == "GET" and given and self.service.is_token(given):
            return _with_cookie(request, self.service.cookie)
        remedy = (
            "open the address with ?token=… that was printed when the service was started, or "
            "send the token as `Authorization: Bearer …`"
        )
        what = "no token" if bearer is None and not given else "a wrong token"
        headers = {"www-authenticate": "Bearer"}
        return problem(request, Refusal(401, f"{what} was given", remedy, headers=headers))

    def _set_headers(self, message: Message, scope: Scope) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        etag = scope["state"].get("etag")
        if etag and message["status"] == 200:
            headers["etag"] = etag
        age = scope["state"].get("age")
        if age is not None:
            headers["age"] = str(round(age))
        if scope["path"].startswith(_STATIC):
            headers["cache-control"] = "no-cache"
        else:
            # kept by the browser alone, and asked for again each time: 304 where nothing changed
            headers["cache-control"] = "private, no-cache" if etag else "no-store"
            headers["vary"] = "Accept, Cookie, Authorization"


def _is_foreign(request: Request, host: str) -> bool:
    """Whether a page of another site made a browser send a request."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return True
    site = request.headers.get("sec-fetch-site", "none")
    if site in ("none", "same-origin"):
        return False
    # a link that a person followed is all that another site may do
    followed = request.headers.get("sec-fetch-mode") == "navigate"
    return request.method in _CHANGING or not followed


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _with_cookie(request: Request, cookie: str) -> Response:
    """Return the way to the same page without the token, which stays in no history or log."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    path = "/" + request.scope["path"].lstrip("/")
    response = RedirectResponse(path + (f"?{urlencode(kept)}" if kept else ""), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="lax", secure=secure)
    return response


def _log(scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
    """Write a line of the access log: never a token, nothing that a terminal might obey."""
    query = [
        (name, "hidden" if name == "token" else value)
        for name, value in parse_qsl(scope.get("query_string", b"").decode("latin-1"))
    ]
    where = scope["path"] + (f"?{urlencode(query)}" if query else "")
    client = scope.get("client") or ("-", 0)
    access_log.info(
        "%s %s %s %d %.1f ms",
        client[0],
        scope["method"],
        printable(where, 500),
        status,
        1000 * seconds,
    )
