"""What operations of the OpenAPI document have in common: errors, headers, parameters, ways in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from openapi_pydantic.v3.v3_1 import Components, Header, MediaType, Reference, Response, Schema, SecurityScheme

from engram_api.envelope import PROBLEM
from engram_api.incoming import DEADLINE
from engram_contracts.errors import FAMILY

Json = dict[str, Any]

MAY_ADD = "`additionalProperties` may grow; pass over what you do not know."
ERRORS = {
    400: "The request is wrong: a field, a parameter or a header.",
    401: "No key, or one that does not count.",
    402: "The tenant's plan is used up.",
    403: "The key's role does not carry this, or the tenant is suspended.",
    404: "There is no such thing for this tenant.",
    408: "The body did not arrive in time.",
    409: "Something stands against it: what is stored, or a request under the same key.",
    413: "The body is too large.",
    415: "The body is not JSON, or packed in a way that is not known.",
    422: "The idempotency key was used for another request.",
    429: "This tenant asks too much at once.",
    500: "A fault of the service.",
    503: "The system is full, or a part of it is away.",
}
RETRIED = (409, 429, 503)


JSON = "application/json"
REF = "#/components/schemas/{model}"
REQUEST = "01930000-0000-7000-8000-0000000000f1"


def headers(*names: str) -> dict[str, Header | Reference]:
    """References to headers of answers."""
    return {name: Reference.model_validate({"$ref": f"#/components/headers/{name}"}) for name in names}


def components(definitions: Mapping[str, Json]) -> Components:
    """Everything that operations refer to."""
    return Components.model_validate(
        {
            "schemas": {**definitions, "Meta": _META, "Error": _ERROR, "Failure": _FAILURE, "Problem": _PROBLEM},
            "securitySchemes": _schemes(),
            "headers": _HEADERS,
            "parameters": _PARAMETERS,
            "responses": {str(status): _failure(status) for status in ERRORS},
        }
    )


def _schemes() -> dict[str, SecurityScheme]:
    return {
        "bearer": SecurityScheme(type="http", scheme="bearer", description="`Authorization: Bearer eng_...`"),
        "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
    }


_META: Json = {
    "type": "object",
    "description": f"What helps beside the data. {MAY_ADD}",
    "properties": {
        "request_id": {"type": "string", "description": "Names this request in logs."},
        "next": {"type": "string", "description": "The `cursor` of the next page."},
        "took_ms": {"type": "number"},
        "degraded": {"type": "array", "items": {"type": "string"}, "description": "Parts that could not help."},
        "repeated": {"type": "boolean", "description": "The same command had been accepted before."},
    },
    "required": ["request_id"],
}
_ERROR: Json = {
    "type": "object",
    "properties": {
        "code": {"type": "string", "enum": list(FAMILY)},
        "message": {"type": "string", "description": "What is wrong and what to do."},
        "request_id": {"type": "string"},
        "field": {"type": "string", "description": "The field, parameter or header at fault."},
        "retry_after": {"type": "integer", "minimum": 1, "description": "Seconds after which to try again."},
        "details": {"type": "object", "additionalProperties": True},
    },
    "required": ["code", "message", "request_id"],
}
_FAILURE: Json = {
    "type": "object",
    "description": "An answer that says what went wrong.",
    "properties": {
        "data": {"type": "null"},
        "meta": {"$ref": "#/components/schemas/Meta"},
        "error": {"$ref": "#/components/schemas/Error"},
    },
    "required": ["data", "meta", "error"],
}
_PROBLEM: Json = {
    "description": "The same with the members of problem details (RFC 9457).",
    "allOf": [
        {"$ref": "#/components/schemas/Failure"},
        {
            "type": "object",
            "properties": {
                "type": {"type": "string", "format": "uri"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
            },
            "required": ["type", "title", "status", "detail"],
        },
    ],
}


_TEXT: Json = {"type": "string"}
_PARAMETERS: Json = {
    "correlation": {
        "name": "X-Correlation-ID",
        "in": "header",
        "description": "The client's own name for what this belongs to; it comes back, and goes into logs and events.",
        "schema": {"type": "string", "maxLength": 128, "pattern": "^[A-Za-z0-9._:/+=@-]+$"},
        "example": "chat-7",
    },
    "idempotency": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same request under the same key has one effect and one answer, for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
        "example": "first",
    },
    "deadline": {
        "name": DEADLINE,
        "in": "header",
        "description": "When the effect is of no use any more; what is not begun then ends as `expired`.",
        "schema": {"type": "string", "format": "date-time"},
        "example": "2099-01-31T12:00:00Z",
    },
    "resume": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The id of the last event that was seen; everything behind it follows.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
        "example": "4711",
    },
    "prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`wait=N` waits so many seconds for the effect, `respond-async` not at all (RFC 7240).",
        "schema": {"type": "string", "pattern": "^(wait=[0-9]{1,4}|respond-async)$"},
        "example": "wait=5",
    },
}
_HEADERS: Json = {
    "X-Request-ID": Header(description="Names this request in logs.", param_schema=Schema.model_validate(_TEXT)),
    "X-Correlation-ID": Header(
        description="The client's name for it, else the request's.", param_schema=Schema.model_validate(_TEXT)
    ),
    "Retry-After": Header(
        description="Seconds after which to try again, where that helps.",
        param_schema=Schema.model_validate({"type": "integer", "minimum": 1}),
    ),
    "Idempotency-Replayed": Header(
        description="`true` where this is the answer of an earlier request under the same key.",
        param_schema=Schema.model_validate({"type": "string", "enum": ["true"]}),
    ),
    "WWW-Authenticate": Header(description="How to send a key.", param_schema=Schema.model_validate(_TEXT)),
    "Location": Header(
        description="Where to look for what became of it.",
        param_schema=Schema.model_validate({"type": "string", "format": "uri-reference"}),
    ),
}


def _failure(status: int) -> Response:
    names = ["X-Request-ID", "X-Correlation-ID"]
    names += ["Retry-After"] if status in RETRIED else []
    names += ["WWW-Authenticate"] if status == HTTPStatus.UNAUTHORIZED else []
    example = _failed(status)
    problem = {
        "type": f"urn:engram:error:{example['error']['code'].lower().replace('_', '-')}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": example["error"]["message"],
        **example,
    }
    return Response(
        description=ERRORS[status],
        headers=headers(*names),
        content={
            JSON: MediaType(media_type_schema=_ref("Failure"), example=example),
            PROBLEM: MediaType(media_type_schema=_ref("Problem"), example=problem),
        },
    )


def _ref(name: str) -> Reference:
    return Reference.model_validate({"$ref": REF.format(model=name)})


_CODES = {kind.status: code for code, kind in reversed(FAMILY.items())}


def _failed(status: int) -> Json:
    error: Json = {"code": _CODES.get(status, "INVALID_REQUEST"), "message": ERRORS[status], "request_id": REQUEST}
    if status in RETRIED[1:]:
        error["retry_after"] = 3
    return {"data": None, "meta": {"request_id": REQUEST}, "error": error}
