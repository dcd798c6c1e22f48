"""Reading files into memories: text, Markdown, JSON and JSON lines of memories or chat messages. Pure.

Every memory gets a `key` from its own words and place, so that reading the same file again adds nothing, and a
file that grew adds only what is new.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from engram_contracts.errors import Rejected
from engram_contracts.memory import MAX_CONTENT, NewMemory

Record = dict[str, Any]
PARAGRAPH = 1_000
FIELDS = frozenset(NewMemory.model_fields)
WHO = ("speaker", "name", "author", "from", "role")
WHAT = ("content", "text", "message", "body")
WHEN = ("occurred_at", "time", "timestamp", "created_at", "date", "ts")
WHERE = ("session_id", "session", "conversation_id", "thread_id", "channel")


def read(path: Path, text: str) -> list[Record]:
    """The memories in a file's text, by its ending (.txt, .md, .jsonl, .ndjson, .json).

    Raises `Rejected` naming file and line where something is no memory and no message.
    """
    readers = {".txt": _text, ".md": _markdown, ".jsonl": _lines, ".ndjson": _lines, ".json": _json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise Rejected(f"{path.name}: cannot read {path.suffix or 'a file without ending'!r}; use {', '.join(readers)}")
    return list(_keyed(reader(path, text)))


def _keyed(records: Iterable[Record]) -> Iterator[Record]:
    seen: Counter[str] = Counter()
    for record in records:
        words = json.dumps(record, sort_keys=True, ensure_ascii=False, default=str)
        digest = hashlib.sha256(words.encode()).hexdigest()[:32]
        seen[digest] += 1
        yield {**record, "key": record.get("key") or f"{digest}-{seen[digest]}"}


def _text(path: Path, text: str) -> Iterator[Record]:
    for paragraph in _packed(re.split(r"\n\s*\n", text)):
        yield {"content": paragraph, "source": path.name}


def _markdown(path: Path, text: str) -> Iterator[Record]:
    for heading, body in _sections(text):
        for paragraph in _packed(re.split(r"\n\s*\n", body)):
            metadata = {"metadata": {"heading": heading[:200]}} if heading else {}
            content = f"{heading}\n{paragraph}" if heading else paragraph
            yield {"content": content[:MAX_CONTENT], "source": path.name, **metadata}


def _sections(text: str) -> Iterator[tuple[str, str]]:
    parts = re.split(r"^#{1,6}\s+(.+?)\s*#*$", text, flags=re.MULTILINE)
    yield "", parts[0]
    yield from zip(parts[1::2], parts[2::2], strict=True)


def _packed(paragraphs: Iterable[str]) -> Iterator[str]:
    """Short paragraphs joined up to about a thousand characters, long ones cut to what a memory may hold."""
    held = ""
    for paragraph in filter(None, (part.strip() for part in paragraphs)):
        if held and len(held) + len(paragraph) > PARAGRAPH:
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph
        while len(held) > MAX_CONTENT:
            yield held[:MAX_CONTENT]
            held = held[MAX_CONTENT:]
    if held.strip():
        yield held


def _lines(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _record(_parsed(line, f"{path.name}:{number}"), f"{path.name}:{number}", path.stem)


def _json(path: Path, text: str) -> Iterator[Record]:
    tree = _parsed(text, path.name)
    for where, session, messages in _conversations(tree, path):
        for number, message in enumerate(messages, 1):
            yield _record(message, f"{where}, message {number}", session)


def _conversations(tree: Any, path: Path) -> Iterator[tuple[str, str, list[Any]]]:
    """Lists of messages: the whole file, its `messages` or `memories`, or those of each of its `sessions`."""
    if isinstance(tree, list):
        yield path.name, path.stem, tree
    elif isinstance(tree, dict) and isinstance(tree.get("sessions"), list):
        for number, session in enumerate(tree["sessions"], 1):
            name = str(_first(session, ("id", *WHERE)) or f"{path.stem}-{number}")
            yield (
                f"{path.name}, session {number}",
                name,
                [
                    {**({"date": session["date"]} if "date" in session else {}), **message}
                    for message in session.get("messages", [])
                ],
            )
    elif isinstance(tree, dict) and isinstance(tree.get("messages") or tree.get("memories"), list):
        yield path.name, path.stem, tree.get("messages") or tree["memories"]
    else:
        raise Rejected(f"{path.name}: expected a list, or an object with messages, memories or sessions")


def _record(value: Any, where: str, session: str) -> Record:
    if not isinstance(value, dict):
        raise Rejected(f"{where}: expected an object, found {type(value).__name__}")
    if "content" in value and "role" not in value and value.keys() <= FIELDS:
        return value
    return _message(value, where, session)


def _message(value: Record, where: str, session: str) -> Record:
    """A chat message as an episode: who said what, when, in which session."""
    content = _first(value, WHAT)
    if not isinstance(content, str) or not content.strip():
        raise Rejected(f"{where}: no text found; expected one of {', '.join(WHAT)}")
    found = {
        "content": content[:MAX_CONTENT],
        "kind": "episode",
        "speaker": _first(value, WHO),
        "occurred_at": _first(value, WHEN),
        "session_id": str(_first(value, WHERE) or session),
        "user_id": value.get("user_id"),
        "agent_id": value.get("agent_id"),
        "metadata": {"role": value["role"]} if isinstance(value.get("role"), str) else None,
    }
    return {name: item for name, item in found.items() if item is not None}


def _first(value: Record, names: Iterable[str]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Rejected(f"{where}: not valid JSON: {error}") from None
