"""Reading files into memories: text, Markdown, JSON and JSON lines of memories or chat messages.

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

from pydantic import ValidationError

from engram_contracts.errors import Rejected
from engram_contracts.memory import MAX_CONTENT, NewMemory

Record = dict[str, Any]
FIELDS = frozenset(NewMemory.model_fields)
TELLING = frozenset({"kind", "tags", "metadata", "importance", "confidence", "source", "expires_at", "key"})
"""Fields that no chat message has: what carries one is meant as a memory."""
WHO = ("speaker", "name", "author", "from", "role")
WHAT = ("content", "text", "message", "body")
WHEN = ("occurred_at", "time", "timestamp", "created_at", "date", "ts")
WHERE = ("session_id", "session", "conversation_id", "thread_id", "channel")
HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*\s*")
FENCES = ("```", "~~~")


def read(path: Path, text: str) -> list[Record]:
    """The memories in a file's text, by its ending (.txt, .md, .jsonl, .ndjson, .json).

    A text becomes one memory for each paragraph, a message one episode; what is longer than a memory may be is cut.
    Raises `Rejected`, naming file, line and field, where something is no memory and no message.
    """
    readers = {".txt": _text, ".md": _markdown, ".jsonl": _lines, ".ndjson": _lines, ".json": _json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise Rejected(f"{path.name}: cannot read {path.suffix or 'a file without ending'!r}; use {', '.join(readers)}")
    return list(_keyed(reader(path, text)))


def text_of(path: Path) -> str:
    """A file's text. Raises `Rejected` when it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected(f"{path.name} is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise Rejected(f"{str(path)!r} cannot be read: {error.strerror}") from None


def _keyed(records: Iterable[Record]) -> Iterator[Record]:
    """Each record with its key; the same words in the same place again are told apart by counting."""
    seen: Counter[str] = Counter()
    for record in records:
        words = json.dumps(record, sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        seen[digest] += 1
        yield {**record, "key": record.get("key") or f"{digest}-{seen[digest]}"}


def _text(path: Path, text: str) -> Iterator[Record]:
    for block in _blocks(text):
        for piece in _cut(block):
            yield {"content": piece, "source": path.name}


def _markdown(path: Path, text: str) -> Iterator[Record]:
    heading = ""
    for block in _blocks(text):
        title = HEADING.fullmatch(block)
        if title:
            heading = title.group(1)[:200]
            continue
        metadata = {"metadata": {"heading": heading}} if heading else {}
        for piece in _cut(f"{heading}\n{block}" if heading else block):
            yield {"content": piece, "source": path.name, **metadata}


def _blocks(text: str) -> Iterator[str]:
    """Stretches between blank lines, and headings; a fenced block stays whole."""
    held: list[str] = []
    fenced = False
    for line in (*text.split("\n"), ""):
        parts = not fenced and (not line.strip() or HEADING.fullmatch(line))
        if parts and held:
            yield "\n".join(held)
            held = []
        if parts and line.strip():
            yield line
        elif not parts:
            held.append(line.rstrip())
            fenced ^= line.lstrip().startswith(FENCES)
    if any(held):
        yield "\n".join(held)


def _cut(text: str) -> Iterator[str]:
    """The text in pieces that a memory may hold, between words where there are some."""
    while len(text) > MAX_CONTENT:
        end = text.rfind(" ", MAX_CONTENT // 2, MAX_CONTENT) + 1 or MAX_CONTENT
        yield text[:end].rstrip()
        text = text[end:].lstrip()
    if text.strip():
        yield text


def _lines(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path.name}:{number}"
            yield from _records(_parsed(line, where), where, path.stem)


def _json(path: Path, text: str) -> Iterator[Record]:
    for where, session, messages in _conversations(_parsed(text, path.name), path):
        for number, message in enumerate(messages, 1):
            yield from _records(message, f"{where}, message {number}", session)


def _conversations(tree: Any, path: Path) -> Iterator[tuple[str, str, list[Any]]]:
    """Lists of messages: the whole file, its `messages` or `memories`, or those of each of its `sessions`."""
    if isinstance(tree, dict) and isinstance(tree.get("sessions"), list):
        for number, session in enumerate(tree["sessions"], 1):
            yield _session(session, f"{path.name}, session {number}", f"{path.stem}-{number}")
        return
    messages = tree.get("messages", tree.get("memories")) if isinstance(tree, dict) else tree
    if not isinstance(messages, list):
        raise Rejected(f"{path.name}: expected a list, or an object with messages, memories or sessions")
    yield path.name, path.stem, messages


def _session(session: Any, where: str, name: str) -> tuple[str, str, list[Any]]:
    """The messages of one session; they inherit its date where they have none."""
    if not isinstance(session, dict) or not isinstance(session.get("messages"), list):
        raise Rejected(f"{where}: expected an object with messages")
    date = _first(session, WHEN)
    messages = [
        {**message, "occurred_at": date}
        if isinstance(message, dict) and date and not _first(message, WHEN)
        else message
        for message in session["messages"]
    ]
    return where, str(_first(session, ("id", *WHERE)) or name), messages


def _records(value: Any, where: str, session: str) -> Iterator[Record]:
    if not isinstance(value, dict):
        raise Rejected(f"{where}: expected an object, found {type(value).__name__}")
    if "role" not in value and "content" in value and (value.keys() <= FIELDS or value.keys() & TELLING):
        yield _checked(value, where)
    else:
        yield from _message(value, where, session)


def _message(value: Record, where: str, session: str) -> Iterator[Record]:
    """A chat message as an episode: who said what, when, in which session."""
    content = _first(value, WHAT)
    if not isinstance(content, str) or not content.strip():
        raise Rejected(f"{where}: no text found; expected one of {', '.join(WHAT)}")
    found = {
        "kind": "episode",
        "speaker": _first(value, WHO),
        "occurred_at": _first(value, WHEN),
        "session_id": str(_first(value, WHERE) or session),
        "user_id": value.get("user_id"),
        "agent_id": value.get("agent_id"),
        "metadata": {"role": value["role"]} if isinstance(value.get("role"), str) else None,
    }
    given = {name: item for name, item in found.items() if item is not None}
    for piece in _cut(content):
        yield _checked({"content": piece, **given}, where)


def _checked(record: Record, where: str) -> Record:
    """The record as the door takes it, times in ISO form."""
    try:
        return NewMemory.model_validate(record).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise Rejected(f"{where}: {field}: {problem['msg'].removeprefix('Value error, ')}") from None


def _first(value: Record, names: Iterable[str]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Rejected(f"{where}: not valid JSON: {error}") from None
    except RecursionError:
        raise Rejected(f"{where}: nested too deeply") from None
