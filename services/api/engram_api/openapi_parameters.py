"""What requests of an operation carry beside a body, as parameters of the OpenAPI document. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from openapi_pydantic.v3.v3_1 import Parameter, Reference
from pydantic import BaseModel, TypeAdapter

from engram_api.models import JobName, MemoryId
from engram_api.routes import Operation
from engram_contracts.commands import CommandId, NodeId
from engram_contracts.control import KeyId, MemberId, PlanName
from engram_contracts.messages import Tenant
from engram_contracts.recovery import DeadSequence
from engram_contracts.sampling import JOB, resolved, sampled

Json = dict[str, Any]
JSON = "application/json"

PATHS: tuple[tuple[str, Any, Any], ...] = (
    ("/v1/memories/{id}", MemoryId, None),
    ("/v1/graph/nodes/{id}", NodeId, "person:Joel"),
    ("/v1/jobs/{id}", JobName, JOB),
    ("/v1/erasures/{id}", CommandId, None),
    ("/v1/dead-letters/replays/{id}", CommandId, None),
    ("/v1/dead-letters/{id}", DeadSequence, 7),
    ("/v1/tenants/{id}", Tenant, "acme"),
    ("/v1/plans/{id}", PlanName, "standard"),
    ("/v1/keys/{id}", KeyId, "abcdefgh2345"),
    ("/v1/members/{id}", MemberId, "abcdefghijklmnopqrstuvwxyz"),
)
"""What `{id}` is in paths that begin so, and an example of it."""


def parameters(operation: Operation) -> Iterator[Parameter | Reference]:
    """Those of the path, of the query and of the headers."""
    for name in re.findall(r"{(\w+)}", operation.path):
        yield _in_path(operation.path, name)
    yield from _in_query(operation.query)
    yield _parameter("correlation")
    if operation.writes:
        yield _parameter("idempotency")
        yield _parameter("deadline")
    if "wait" in operation.query.model_fields or operation.name == "think":
        yield _parameter("prefer")
    if operation.events and "after" in operation.query.model_fields:
        yield _parameter("resume")


def _parameter(name: str) -> Reference:
    return Reference.model_validate({"$ref": f"#/components/parameters/{name}"})


def _in_path(path: str, name: str) -> Parameter:
    known = next(((kind, said) for begins, kind, said in PATHS if path.startswith(begins)), (str, None))
    schema = TypeAdapter(known[0]).json_schema()
    example = known[1] or sampled(schema, {}, name=name)
    return Parameter.model_validate(
        {"name": name, "in": "path", "required": True, "schema": schema, "example": example}
    )


def _in_query(query: type[BaseModel]) -> Iterator[Parameter]:
    whole = query.model_json_schema()
    definitions = whole.get("$defs", {})
    for name, schema in whole.get("properties", {}).items():
        plain = _inlined(schema, definitions)
        made: Json = {"name": name, "in": "query", "required": name in whole.get("required", ())}
        if _is_object(plain):
            yield Parameter.model_validate({**made, "content": {JSON: {"schema": plain}}})
        else:
            yield Parameter.model_validate({**made, "schema": _as_texts(plain), "style": "form", "explode": True})


def _is_object(schema: Json) -> bool:
    return schema.get("type") == "object"


def _as_texts(schema: Json) -> Json:
    """A list of objects is repeated with an object in JSON each."""
    items = schema.get("items", {})
    if schema.get("type") != "array" or not _is_object(items):
        return _without_null(schema)
    return {**schema, "items": {"type": "string", "contentMediaType": JSON, "contentSchema": items}}


def _without_null(schema: Json) -> Json:
    """A parameter is left out where it is nothing; no text of it says so."""
    said = {name: value for name, value in schema.items() if name != "default" or value is not None}
    left = [one for one in said.get("anyOf", ()) if one.get("type") != "null"]
    if not left:
        return said
    rest = {name: value for name, value in said.items() if name != "anyOf"}
    return {**rest, **left[0]} if len(left) == 1 else {**rest, "anyOf": left}


def _inlined(schema: Any, definitions: Mapping[str, Json], depth: int = 0) -> Any:
    """A schema without references; what refers to itself ends after some steps as any object."""
    if isinstance(schema, list):
        return [_inlined(one, definitions, depth) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema and depth >= _INLINED:
        return {"type": "object"}
    deeper = depth + ("$ref" in schema)
    return {name: _inlined(value, definitions, deeper) for name, value in resolved(schema, definitions).items()}


_INLINED = 2
