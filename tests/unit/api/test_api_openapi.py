"""The OpenAPI document: valid, whole, with examples that the models which serve requests take."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from pydantic import TypeAdapter

from engram_api.bodies import OneOrMany, decode
from engram_api.openapi import document
from engram_api.routes import OPERATIONS, Operation
from engram_contracts.errors import FAMILY

WHOLE: dict[str, Any] = json.loads(document(OPERATIONS, version="0.1.0"))
BARE = ("/openapi.json", "/metrics/targets")
"""JSON of a form that others have fixed."""
EVERY = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)


def documented(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = WHOLE["paths"][operation.path][operation.method.lower()]
    return found


def resolved(thing: dict[str, Any]) -> dict[str, Any]:
    """What a reference names, or the thing itself."""
    found: Any = WHOLE if "$ref" in thing else thing
    for part in thing.get("$ref", "#").split("/")[1:]:
        found = found[part]
    return dict(found)


def fits(schema: dict[str, Any], value: object) -> bool:
    return bool(jsonschema_rs.is_valid({**schema, "components": WHOLE["components"]}, value))


def test_the_document_is_valid_and_always_the_same() -> None:
    validate(WHOLE, cls=OpenAPIV31SpecValidator)

    assert document(OPERATIONS, version="0.1.0") == document(OPERATIONS, version="0.1.0")


@EVERY
def test_every_route_says_what_it_does_what_it_asks_and_what_it_answers(operation: Operation) -> None:
    said = documented(operation)

    assert said["operationId"] == operation.name and said["summary"].endswith(".")
    assert said["x-permission"] == operation.permission
    assert operation.answer is not None or operation.media != "application/json" or operation.path in BARE
    assert {int(status) for status in said["responses"]} >= {operation.status, *operation.also, 500}


@EVERY
def test_the_examples_of_a_body_are_taken_by_the_model_that_serves_it(operation: Operation) -> None:
    if operation.body is None:
        return
    media = documented(operation)["requestBody"]["content"]["application/json"]

    assert len(media["examples"]) == (2 if isinstance(operation.body, OneOrMany) else 1)
    for example in media["examples"].values():
        assert fits(media["schema"], example["value"])
        decode(operation.body, json.dumps(example["value"]).encode())


@EVERY
def test_the_examples_of_answers_are_what_the_models_say(operation: Operation) -> None:
    for status, answer in documented(operation)["responses"].items():
        for kind, media in resolved(answer)["content"].items():
            assert fits(media["schema"], media["example"]), (status, kind)
    if operation.answer is not None:
        shown = documented(operation)["responses"][str(operation.status)]["content"]["application/json"]["example"]
        TypeAdapter(operation.answer).validate_json(json.dumps(shown["data"]))


@EVERY
def test_examples_of_parameters_fit_them(operation: Operation) -> None:
    for parameter in map(resolved, documented(operation)["parameters"]):
        assert "example" not in parameter or fits(parameter["schema"], parameter["example"])
        assert parameter["in"] != "path" or "example" in parameter


def test_what_needs_a_key_says_so_and_what_changes_something_takes_an_idempotency_key() -> None:
    for operation in OPERATIONS:
        said = documented(operation)
        names = {resolved(parameter)["name"] for parameter in said["parameters"]}

        assert ("security" in said) == (operation.permission in ("public", "metrics"))
        assert ("Idempotency-Key" in names) == operation.writes
        assert "X-Correlation-ID" in names


def test_each_refusal_tells_its_headers_and_has_two_forms() -> None:
    for status, answer in WHOLE["components"]["responses"].items():
        assert set(answer["content"]) == {"application/json", "application/problem+json"}
        assert ("Retry-After" in answer["headers"]) == (status in ("409", "429", "503"))
    assert {kind.status for kind in FAMILY.values()} <= {int(status) for status in WHOLE["components"]["responses"]}
