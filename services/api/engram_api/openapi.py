"""The OpenAPI 3.1 document of the door, made from the route table and the models that serve requests. Pure.

Nothing of it is written by hand but words: a new line in the route table is a new operation here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, get_args

from openapi_pydantic.v3.v3_1 import (
    Example,
    Info,
    License,
    MediaType,
    OpenAPI,
    PathItem,
    Reference,
    RequestBody,
    Response,
    Schema,
    Server,
    Tag,
)  # fmt: skip
from openapi_pydantic.v3.v3_1 import Operation as Documented
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from engram_api.access import OPEN
from engram_api.bodies import OneOrMany
from engram_api.openapi_parameters import parameters
from engram_api.openapi_parts import JSON, REF, REQUEST, components, headers
from engram_api.routes import Operation
from engram_contracts.sampling import sampled

STREAM = "text/event-stream"
Json = dict[str, Any]
Definitions = Mapping[str, Json]
Schemas = Mapping[tuple[Any, Any], Json]

WORDS = """\
Durable memory for AI agents: remember, recall, think, and a graph of what was said.

Every answer is `{"data", "meta", "error"}`. With `Accept: application/problem+json` an error is also a problem
(RFC 9457).
"""
TAGS = {
    "memories": "Keep, read, change and forget memories.",
    "recall": "Find memories.",
    "context": "Memories for a prompt of your own.",
    "events": "What happens, as it happens.",
    "think": "Answers from memories, with citations.",
    "graph": "People, places and things that memories speak of.",
    "jobs": "How far what was accepted has come.",
    "dead-letters": "What could not be handled, and another try for it.",
    "usage": "What was used.",
    "service": "How this door does.",
}


def document(operations: tuple[Operation, ...], *, version: str) -> bytes:
    """The document as JSON. The same operations always give the same bytes."""
    schemas, definitions = _schemas(operations)
    made = OpenAPI(
        openapi="3.1.0",
        info=Info(
            title="Engram", version=version, description=WORDS,
            license=License(name="Apache-2.0", identifier="Apache-2.0"),
        ),
        servers=[Server(url="/", description="The door that served this document")],
        security=[{"bearer": []}, {"key": []}],
        tags=[Tag(name=name, description=TAGS.get(name)) for name in dict.fromkeys(map(_tag, operations))],
        paths=_paths(operations, schemas, definitions),
        components=components(definitions),
    )  # fmt: skip
    return made.model_dump_json(by_alias=True, exclude_none=True, exclude_unset=True).encode()


def _paths(operations: tuple[Operation, ...], schemas: Schemas, definitions: Definitions) -> dict[str, PathItem]:
    paths: dict[str, Json] = {}
    for operation in operations:
        made = _operation(operation, schemas, definitions)
        paths.setdefault(operation.path, {})[operation.method.lower()] = made
    return {path: PathItem(**methods) for path, methods in paths.items()}


def _operation(operation: Operation, schemas: Schemas, definitions: Definitions) -> Documented:
    return Documented(
        operationId=operation.name,
        summary=operation.summary,
        tags=[_tag(operation)],
        security=_security(operation),
        parameters=list(parameters(operation)),
        requestBody=_body(operation, schemas, definitions),
        responses={
            str(status): response for status, response in sorted(_responses(operation, schemas, definitions).items())
        },
        **{"x-permission": operation.permission, "x-counters": dict(operation.counters)},
    )


def _tag(operation: Operation) -> str:
    return operation.path.split("/")[2] if operation.path.startswith("/v1/") else "service"


def _security(operation: Operation) -> list[dict[str, list[str]]] | None:
    """`None` where the document's own rule holds."""
    if operation.permission == "metrics":
        return [{}, {"bearer": []}, {"key": []}]
    return [] if operation.permission in OPEN else None


# --- schemas ------------------------------------------------------------------------------------------------


def _schemas(operations: tuple[Operation, ...]) -> tuple[Schemas, Definitions]:
    """The schema of each model in each mode, and the definitions they refer to."""
    wanted = [(kind, mode) for operation in operations for kind, mode in _models(operation)]
    unique = list(dict.fromkeys(wanted))
    made, whole = models_json_schema(unique, ref_template=REF)  # type: ignore[arg-type]  # modes are literals
    return {asked: dict(schema) for asked, schema in made.items()}, whole.get("$defs", {})


def _models(operation: Operation) -> Iterator[tuple[type[BaseModel], str]]:
    for body in _bodies(operation):
        yield body, "validation"
    for answer in (operation.answer, *operation.also.values(), *operation.events.values()):
        for kind in _choices(answer):
            yield kind, "serialization"


def _bodies(operation: Operation) -> tuple[type[BaseModel], ...]:
    if operation.body is None:
        return ()
    return (operation.body.one, operation.body.many) if isinstance(operation.body, OneOrMany) else (operation.body,)


def _choices(answer: Any) -> tuple[type[BaseModel], ...]:
    if answer is None:
        return ()
    return get_args(answer) or (answer,)


def _one_of(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _body(operation: Operation, schemas: Schemas, definitions: Definitions) -> RequestBody | None:
    if operation.body is None:
        return None
    every = [schemas[kind, "validation"] for kind in _bodies(operation)]
    media = MediaType(
        media_type_schema=Schema.model_validate(_one_of(every)),
        examples={
            kind.__name__: Example(value=sampled(schema, definitions))
            for kind, schema in zip(_bodies(operation), every, strict=True)
        },
    )
    kinds = (JSON, "application/merge-patch+json") if operation.method == "PATCH" else (JSON,)
    return RequestBody(required=True, content=dict.fromkeys(kinds, media))


# --- what goes out ------------------------------------------------------------------------------------------


def _responses(operation: Operation, schemas: Schemas, definitions: Definitions) -> dict[int, Response | Reference]:
    statuses = {status: operation.answer for status in (operation.status, operation.settled) if status}
    made: dict[int, Response | Reference] = {status: _failure(status) for status in failures(operation)}
    for status, answer in {**statuses, **operation.also}.items():
        made[status] = _success(operation, status, answer, schemas, definitions)
    return made


def failures(operation: Operation) -> set[int]:
    """The statuses of errors that an operation may answer with."""
    found = {400, 408, 413, 500, 503}
    if operation.permission not in OPEN:
        found |= {401, 402, 403, 404, 429}
    if operation.permission == "metrics":
        found.add(401)
    if operation.body is not None:
        found.add(415)
    if operation.writes or operation.method != "GET":
        found |= {409, 422}
    return found


def _success(operation: Operation, status: int, answer: Any, schemas: Schemas, definitions: Definitions) -> Response:
    content = {} if answer is None else {JSON: _enveloped(answer, schemas, definitions)}
    if operation.events and status == operation.status:
        content[STREAM] = _streamed(operation.events, schemas, definitions)
    names = ["X-Request-ID", "X-Correlation-ID"]
    names += ["Idempotency-Replayed", "Location"] if operation.writes else []
    return Response(
        description=HTTPStatus(status).phrase,
        headers=headers(*names),
        content=content or {operation.media: _plain(operation.media)},
    )


def _enveloped(answer: Any, schemas: Schemas, definitions: Definitions) -> MediaType:
    data = _one_of([schemas[kind, "serialization"] for kind in _choices(answer)])
    envelope = {
        "type": "object",
        "properties": {"data": data, "meta": {"$ref": REF.format(model="Meta")}, "error": {"type": "null"}},
        "required": ["data", "meta", "error"],
    }
    example = {"data": sampled(data, definitions), "meta": {"request_id": REQUEST}, "error": None}
    return MediaType(media_type_schema=Schema.model_validate(envelope), example=example)


def _streamed(events: Mapping[str, type[BaseModel]], schemas: Schemas, definitions: Definitions) -> MediaType:
    """Server-sent events; `x-events` names the models of their data."""
    kinds = {name: schemas[kind, "serialization"] for name, kind in events.items()}
    said = [f"event: {name}\ndata: {json.dumps(sampled(schema, definitions))}\n\n" for name, schema in kinds.items()]
    schema = Schema.model_validate({"type": "string"})
    return MediaType(media_type_schema=schema, example="".join(said), **{"x-events": kinds})


def _plain(media: str) -> MediaType:
    schema = Schema.model_validate({"type": "object"} if media == JSON else {"type": "string"})
    return MediaType(media_type_schema=schema, example=_SHOWN.get(media, ""))


def _failure(status: int) -> Reference:
    return Reference.model_validate({"$ref": f"#/components/responses/{status}"})


_SHOWN = {
    JSON: {"openapi": "3.1.0"},
    "text/plain": 'engram_requests_total{method="GET",route="/health",status="200"} 1.0',
    "text/html": "<!doctype html>",
    "text/javascript": "export {};",
}
"""What answers of other types look like."""
