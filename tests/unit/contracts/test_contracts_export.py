"""What is exported: valid by the official schema, whole in itself, with examples that contracts and schemas take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from engram_contracts.catalogue import PARAMETERS, catalogue
from engram_contracts.commands import COMMANDS
from engram_contracts.export import export
from engram_contracts.facts import FACTS
from engram_contracts.topology import CONSUMERS

OFFICIAL = Path(__file__).parents[2] / "support" / "schemas" / "asyncapi-3.0.0.json"
"""From npm's @asyncapi/specs 6.11.1 (Apache-2.0), without its descriptions."""
ENTRIES = catalogue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("exported")
    export(folder)
    return folder


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "asyncapi.json").read_text())
    return read


def test_the_document_is_valid_by_the_official_schema(document: dict[str, Any]) -> None:
    official = jsonschema_rs.Draft7Validator(json.loads(OFFICIAL.read_text()))

    assert [error.message for error in official.iter_errors(document)] == []


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def references(thing: Any) -> list[str]:
    if isinstance(thing, list):
        return [found for one in thing for found in references(one)]
    if not isinstance(thing, dict):
        return []
    own = [thing["$ref"]] if isinstance(thing.get("$ref"), str) else []
    return own + [found for one in thing.values() for found in references(one)]


def test_every_message_has_a_channel_an_operation_a_schema_and_an_example(
    folder: Path, document: dict[str, Any]
) -> None:
    assert {*COMMANDS.values(), *FACTS.values()} <= {entry.kind for entry in ENTRIES}
    for entry in ENTRIES:
        assert entry.name in document["operations"] and entry.name in document["components"]["messages"]
        assert document["operations"][entry.name]["summary"].endswith(".")
        assert entry.address in {channel["address"] for channel in document["channels"].values()}
        assert {(folder / part / f"{entry.name}.json").exists() for part in ("schemas", "examples")} == {True}


def test_examples_are_taken_by_the_contract_and_by_its_schema(folder: Path) -> None:
    for entry in ENTRIES:
        shown = json.loads((folder / "examples" / f"{entry.name}.json").read_text())["payload"]
        schema = json.loads((folder / "schemas" / f"{entry.name}.json").read_text())

        assert jsonschema_rs.validator_for(schema).is_valid(shown), entry.name
        assert entry.kind.model_validate_json(json.dumps(shown))


def test_each_command_and_fact_names_who_works_it_off(document: dict[str, Any]) -> None:
    for entry in ENTRIES:
        if entry.kind in (*COMMANDS.values(), *FACTS.values()):
            assert document["operations"][entry.name]["x-jetstream-consumers"], entry.name
    named = {
        each["durable"] for one in document["operations"].values() for each in one.get("x-jetstream-consumers", ())
    }
    assert named <= {consumer.name for consumer in CONSUMERS}


def test_every_part_of_an_address_is_explained(document: dict[str, Any]) -> None:
    for channel in document["channels"].values():
        for name in channel.get("parameters", {}):
            assert name in PARAMETERS and channel["parameters"][name]["description"]


def test_a_repeat_writes_the_same_files(folder: Path, tmp_path: Path) -> None:
    for file in export(tmp_path):
        assert file.read_bytes() == (folder / file.relative_to(tmp_path)).read_bytes()
