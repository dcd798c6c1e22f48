"""LoCoMo conversations as memories: one user per conversation, one session per sitting, one memory per turn.

The files are read where they lie (`conversation.session_N` is a list of turns, `session_N_date_time` its date).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Record = dict[str, Any]

SCORED = (1, 2, 3, 4)
"""Categories of questions that have an answer: multi-hop, temporal, open-domain, single-hop."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a conversation; `evidence` holds the `dia_id`s of the turns that answer it."""

    question: str
    answer: str
    evidence: tuple[str, ...]
    category: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as the bodies that `POST /v1/memories` takes, in the order it was held."""

    name: str
    speakers: tuple[str, str]
    memories: tuple[Record, ...]
    questions: tuple[Asked, ...]


def load(folder: Path) -> list[Conversation]:
    """Every conversation of the folder, by name. Raises `FileNotFoundError` when there is none."""
    files = sorted(folder.glob("conv-*.json"))
    if not files:
        raise FileNotFoundError(f"no conv-*.json in {folder}")
    return [read(file) for file in files]


def read(file: Path) -> Conversation:
    """The conversation in one file."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    name, talk = tree["sample_id"], tree["conversation"]
    memories = [memory for number in _sessions(talk) for memory in _session(name, number, talk)]
    speakers = (talk["speaker_a"], talk["speaker_b"])
    return Conversation(name, speakers, tuple(memories), tuple(_asked(item) for item in tree["qa"]))


def _sessions(talk: Record) -> list[int]:
    return sorted(int(found.group(1)) for key in talk if (found := re.fullmatch(r"session_(\d+)", key)))


def _session(name: str, number: int, talk: Record) -> list[Record]:
    began = datetime.strptime(talk[f"session_{number}_date_time"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
    turns = talk[f"session_{number}"]
    return [_memory(name, number, turn, began + timedelta(seconds=place)) for place, turn in enumerate(turns)]


def _memory(name: str, session: int, turn: Record, at: datetime) -> Record:
    shared = f" [shares {turn['blip_caption']}]" if turn.get("blip_caption") else ""
    return {
        "content": turn["text"] + shared,
        "kind": "episode",
        "user_id": name,
        "session_id": f"{name}/session-{session}",
        "speaker": turn["speaker"],
        "occurred_at": at.isoformat().replace("+00:00", "Z"),
        "metadata": {"dia_id": turn["dia_id"]},
        "key": f"{name}/{turn['dia_id']}",
    }


def _asked(item: Record) -> Asked:
    return Asked(item["question"], str(item.get("answer", "")), tuple(item["evidence"]), item["category"])
