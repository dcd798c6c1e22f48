"""The one form of every answer: `{"data", "meta", "error"}`, and of every error. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json

from engram_contracts.errors import EngramError
from engram_contracts.messages import Message

JSON = "application/json; charset=utf-8"
PROBLEM = "application/problem+json"


def success(data: Message | Mapping[str, Any], meta: Mapping[str, Any]) -> bytes:
    """The envelope around what was asked for."""
    body = data.encode() if isinstance(data, Message) else to_json(data)
    return b'{"data":%b,"meta":%b,"error":null}' % (body, to_json(meta))


def failure(error: EngramError, request_id: str, *, as_problem: bool) -> bytes:
    """The envelope around an error; `as_problem` adds the members of problem details (RFC 9457) beside it."""
    envelope = {"data": None, "meta": {"request_id": request_id}, "error": describe(error, request_id)}
    return to_json({**problem(error), **envelope} if as_problem else envelope)


def describe(error: EngramError, request_id: str) -> dict[str, Any]:
    """The error as clients read it: `code`, `message`, `request_id`, and `field` and `details` where there are any."""
    described: dict[str, Any] = {"code": error.code, "message": error.message, "request_id": request_id}
    if error.field is not None:
        described["field"] = error.field
    if error.retry == "later":
        described["retry_after"] = retry_after(error)
    if error.details:
        described["details"] = error.details
    return described


def problem(error: EngramError) -> dict[str, Any]:
    """The error as problem details: `type`, `title`, `status`, `detail`."""
    return {
        "type": f"urn:engram:error:{error.code.lower().replace('_', '-')}",
        "title": HTTPStatus(error.http_status).phrase,
        "status": error.http_status,
        "detail": error.message,
    }


def retry_after(error: EngramError) -> int:
    """Whole seconds after which to try again."""
    return max(1, math.ceil(error.retry_after or 0))


def error_headers(error: EngramError) -> dict[str, str]:
    """Headers that belong to an error: `Retry-After` where trying again helps, how to authenticate on 401."""
    headers: dict[str, str] = {}
    if error.http_status in (429, 503) or (error.http_status == HTTPStatus.CONFLICT and error.retry == "later"):
        headers["Retry-After"] = str(retry_after(error))
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="engram"'
    return headers
