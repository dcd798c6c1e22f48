"""The contract of a dead letter's message, and a payload that is to take its place. Pure."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from engram_contracts.commands import COMMANDS, Command, Revise
from engram_contracts.errors import Rejected
from engram_contracts.facts import FACTS, Fact, UsageBatch
from engram_contracts.messages import Versioned
from engram_contracts.recovery import Replay
from engram_recovery.letters import Buried, as_json

WORK: dict[str, type[Versioned]] = {**COMMANDS, Replay.op: Replay}


def contract_of(subject: str) -> type[Versioned] | None:
    """The type of the messages on a subject; `None` where this release knows none."""
    match subject.split("."):
        case ["engram", "work", _, op, _]:
            return WORK.get(op)
        case ["engram", "log", _, _, event]:
            return FACTS.get(event)
        case ["engram", "usage", _]:
            return UsageBatch
    return None


def edited(buried: Buried, payload: dict[str, Any]) -> bytes:
    """The body that the payload makes.

    Raises `Rejected`, naming the field, when it is not valid for the contract of the subject, has a field which that
    does not know, or is about another command than the one that was buried.
    """
    kind = contract_of(buried.letter.subject)
    if kind is None:
        raise Rejected(f"messages on {buried.letter.subject!r} cannot be edited", field="payload")
    try:
        message = kind.model_validate_json(json.dumps(payload), extra="forbid")
    except ValidationError as error:
        raise _rejected(error, "payload") from error
    try:
        if isinstance(message, Revise):
            message.edit()
    except ValidationError as error:
        raise _rejected(error, "payload.changes") from error
    if message.v > kind.newest:
        raise Rejected(f"version {message.v} is newer than {kind.newest}, the newest known", field="payload.v")
    _stays_the_same(message, as_json(buried.body))
    return message.encode()


def _rejected(error: ValidationError, within: str) -> Rejected:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join((within, *(str(part) for part in problem["loc"])))
    return Rejected(f"the edit does not fit: {problem['msg']}", field=where)


def _stays_the_same(message: Versioned, before: Any) -> None:
    """The command's id decides what counts as one effect; with another id it would be a second one."""
    name = "id" if isinstance(message, Command) else "command" if isinstance(message, Fact) else None
    known = before.get(name) if name and isinstance(before, dict) else None
    if name and isinstance(known, str) and getattr(message, name) != known:
        raise Rejected(f"it must stay {known!r}, or it would be another command", field=f"payload.{name}")
