"""What protects browsers and what they show: headers on every answer, other origins, encrypted connections."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from engram_api.settings import ServeSettings
from engram_contracts.errors import Rejected

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "engram",
}
HSTS = "max-age=31536000; includeSubDomains"
"""Browsers that once came encrypted come in no other way for a year."""

ALLOWED = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Type, X-API-Key, X-Engram-Tenant, X-Correlation-ID, Idempotency-Key, Prefer, "
        "Engram-Deadline, Last-Event-ID"
    ),
    "Access-Control-Max-Age": "600",
}
_ORIGIN = web.RequestKey("origin", str)
EXPOSED = "X-Request-ID, X-Correlation-ID, Retry-After, Location, Idempotency-Replayed, RateLimit, RateLimit-Policy"


def crossing(origins: Sequence[str]) -> Middleware:
    """Lets pages of these origins read answers; those of others, and without this of all, cannot."""
    known = frozenset(origins)

    @web.middleware
    async def cross(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or origin not in known:
            return await handler(request)
        request[_ORIGIN] = origin
        if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            return web.Response(status=HTTPStatus.NO_CONTENT, headers={**ALWAYS, **ALLOWED})
        return await handler(request)

    return cross


async def tell_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Name the origin that may read an answer, in the answer."""
    if (origin := request.get(_ORIGIN)) is not None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)


async def insist_on_encryption(_: web.Request, response: web.StreamResponse) -> None:
    """Tell browsers to come encrypted from now on."""
    response.headers["Strict-Transport-Security"] = HSTS


def protect(app: web.Application, settings: ServeSettings) -> None:
    """Have an application do as the settings say."""
    if settings.cors_origins:
        app.middlewares.insert(0, crossing(settings.cors_origins))
        app.on_response_prepare.append(tell_origin)
    if settings.tls_certificate is not None:
        app.on_response_prepare.append(insist_on_encryption)


def encryption(settings: ServeSettings) -> ssl.SSLContext | None:
    """TLS 1.2 or later with the certificate of the settings, or `None` without one. Raises `Rejected` for a bad one."""
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        files = f"ENGRAM_SERVE_TLS_CERTIFICATE ({str(settings.tls_certificate)!r}) and ENGRAM_SERVE_TLS_KEY"
        raise Rejected(f"{files} are no certificate and its key: {error}") from error
    return context
