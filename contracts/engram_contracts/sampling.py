"""An example of every message, made from its JSON Schema: the same schema always gives the same example. Pure.

The words of `VALUES` for a field's name count most where they fit its schema, then what the schema says of itself
(`examples`, `const`, `enum`), then the plainest value of its type.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]

COMMAND = "01930000-0000-7000-8000-000000000001"
MEMORY = "01930000-0000-7000-8000-0000000000a1"
JOB = f"job_1f_{COMMAND.replace('-', '')}_0123456789ab"
MOMENT = "2026-03-01T09:00:00Z"
DEEPEST = 6

VALUES: dict[str, Any] = {
    "id": MEMORY,
    "memory_id": MEMORY,
    "command": COMMAND,
    "actor": "key_3f9a",
    "content": "Joel moved from Antwerp to Ghent.",
    "kind": "fact",
    "speaker": "Mara",
    "user_id": "joel",
    "agent_id": "planner",
    "session_id": "notes",
    "tags": ["work"],
    "metadata": {"room": 3},
    "source": "scale-7",
    "query": "where does Joel live?",
    "text": "where does Joel live?",
    "question": "Where does Joel live?",
    "answer": "Joel lives in Ghent [1].",
    "quote": "Joel moved from Antwerp to Ghent.",
    "excerpt": "Joel moved from Antwerp to Ghent.",
    "note": "He moved again in May.",
    "node": "person:Joel",
    "nodes": ["person:Joel"],
    "sequences": [7],
    "points": [MEMORY],
    "edge_type": "lives_in",
    "attributes": {"role": "nurse"},
    "evidence": [MEMORY],
    "memory_ids": [MEMORY],
    "job": JOB,
    "model": "static@256",
    "mode": "extractive",
    "reason": "the model did not answer in time",
    "message": "content: content is blank; send at least one visible character",
    "detail": "answers",
    "code": "UNAVAILABLE",
    "error": "Unavailable",
    "stage": "embedder",
    "tenant": "default",
    "day": "2026-03-01",
    "since": "2026-03-01",
    "until": "2026-03-31",
    "meter": "api_calls",
    "totals": {"api_calls": 12, "search_queries": 3},
    "counters": {"api_calls": 1},
    "door": "door-1",
    "dense": base64.urlsafe_b64encode(struct.pack("<256e", *([0.0625] * 256))).decode(),
    "request_id": COMMAND,
    "service": "vectors",
    "instance": "vectors-1",
    "version": "0.1.0",
    "name": "Joel",
    "legs": ["dense", "sparse"],
    "explain": False,
    "degraded": [],
    "target": "name:Ghent",
    "Job.id": JOB,
    "Job.reason": None,
    "ReplayStatus.reason": None,
}
"""What fields of these names say in examples; a name may tell whose field it is (`Job.id`)."""

_TEXTS = {"date-time": MOMENT, "date": "2026-03-01", "uuid": MEMORY, "binary": "AAAAPAC8", "base64url": "AAAAPAC8"}


def sample(kind: type[BaseModel]) -> Any:
    """An example of a model, as JSON values."""
    schema = kind.model_json_schema()
    return sampled(schema, schema.get("$defs", {}))


def sampled(schema: Schema, definitions: Mapping[str, Schema], *, name: str = "", depth: int = 0) -> Any:
    """An example of a schema; `definitions` holds what its references name, `name` is the field it stands for."""
    schema = resolved(schema, definitions)
    if name in VALUES and _fits(VALUES[name], schema, definitions):
        return VALUES[name]
    for said in _said(schema):
        return said
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return sampled(_plainest(schema[union]), definitions, name=name, depth=depth)
    return _of_type(schema, definitions, name, depth)


def resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """The schema itself where this one is a reference; what stands beside the reference wins."""
    if "$ref" not in schema:
        return schema
    target = definitions[schema["$ref"].rpartition("/")[2]]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _said(schema: Schema) -> list[Any]:
    if schema.get("examples"):
        return [schema["examples"][0]]
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return [schema.get("default") or schema["enum"][0]]
    return []


def _plainest(choices: list[Schema]) -> Schema:
    """The first choice that says something."""
    return next((one for one in choices if one.get("type") != "null"), choices[0])


def _of_type(schema: Schema, definitions: Mapping[str, Schema], name: str, depth: int) -> Any:
    kind = schema.get("type", "")
    if kind == "object":
        return _object(schema, definitions, depth)
    if kind == "array":
        return _array(schema, definitions, name, depth)
    if kind == "string":
        return _TEXTS.get(schema.get("format", ""), schema.get("default") or "text")
    if kind in ("integer", "number"):
        return _number(schema)
    return {"boolean": schema.get("default", False), "null": None}.get(kind, {})


def _object(schema: Schema, definitions: Mapping[str, Schema], depth: int) -> dict[str, Any]:
    required = set(schema.get("required", ()))
    made = {}
    for name, field in schema.get("properties", {}).items():
        known = _known(schema, name)
        if name in required or (depth < DEEPEST and _worth(known, field, definitions)):
            made[name] = sampled(field, definitions, name=known, depth=depth + 1)
    return made


def _known(schema: Schema, name: str) -> str:
    """The name under which `VALUES` has a field."""
    full = f"{schema.get('title')}.{name}"
    return full if full in VALUES else name


def _worth(name: str, field: Schema, definitions: Mapping[str, Schema]) -> bool:
    """Whether a field that may be left out is shown: it has words of its own."""
    if name in VALUES:
        return VALUES[name] is not None
    return bool(_said(resolved(field, definitions)))


def _array(schema: Schema, definitions: Mapping[str, Schema], name: str, depth: int) -> list[Any]:
    if "prefixItems" in schema:
        return [sampled(item, definitions, depth=depth + 1) for item in schema["prefixItems"]]
    if depth >= DEEPEST and not schema.get("minItems"):
        return []
    return [sampled(schema.get("items", {}), definitions, name=name.removesuffix("s"), depth=depth + 1)]


def _number(schema: Schema) -> Any:
    if schema.get("default") is not None:
        return schema["default"]
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    return 1 if least is None or least < 1 else least


def _fits(value: Any, schema: Schema, definitions: Mapping[str, Schema]) -> bool:
    """Whether a value is of the schema's type."""
    schema = resolved(schema, definitions)
    choices = [one for union in ("anyOf", "oneOf") for one in schema.get(union, ())]
    if choices:
        return any(_fits(value, one, definitions) for one in choices)
    if "enum" in schema or "const" in schema or "format" in schema:
        return False
    if isinstance(value, str):
        return schema.get("type") == "string" and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, list):
        return schema.get("type") == "array" and all(_fits(one, schema.get("items", {}), definitions) for one in value)
    return isinstance(value, _PYTHON.get(schema.get("type", ""), ()))


_PYTHON: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
