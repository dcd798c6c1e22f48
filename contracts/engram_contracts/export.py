"""The contracts as files, for whoever has no Python: AsyncAPI, a JSON Schema and an example of every message."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engram_contracts import asyncapi
from engram_contracts.catalogue import catalogue
from engram_contracts.errors import Failure, Rejected
from engram_contracts.messages import Message, Versioned

DRAFT = "https://json-schema.org/draft/2020-12/schema"
WORDS = """\
# Engram's messages

| file | holds |
|---|---|
| `asyncapi.json` | every channel, operation and message, with headers, streams and consumers (AsyncAPI 3) |
| `schemas/<message>.json` | the JSON Schema (2020-12) of its payload, whole in itself |
| `examples/<message>.json` | `subject`, `headers`, `payload` of a message of the tenant `default`, as it is published |

Publish an example's payload as JSON to its subject, with its headers, through JetStream. A client needs nothing else.
"""


def export(folder: Path) -> list[Path]:
    """Write everything into a folder, which is made where there is none. A repeat writes the same files.

    Raises `Rejected` where that cannot be.
    """
    entries = catalogue()
    kinds = {kind.__name__: kind for entry in entries for kind in (entry.kind, entry.reply, Failure) if kind}
    files = {
        "README.md": WORDS,
        "asyncapi.json": _text(asyncapi.document(version("engram-contracts"))),
        **{f"schemas/{name}.json": _text(schema(kind)) for name, kind in sorted(kinds.items())},
        **{f"examples/{entry.name}.json": _text(asyncapi.example(entry)) for entry in entries},
    }
    return [_written(folder / name, text) for name, text in files.items()]


def schema(kind: type[Message]) -> dict[str, Any]:
    """The JSON Schema of a message. `$id` tells the version of those that are kept on streams."""
    newest = f":{kind.newest}" if issubclass(kind, Versioned) else ""
    return {"$schema": DRAFT, "$id": f"urn:engram:{kind.__name__}{newest}", **kind.model_json_schema()}


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _written(file: Path, text: str) -> Path:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Rejected(f"cannot write {str(file)!r}: {error.strerror}; name another folder") from error
    return file
