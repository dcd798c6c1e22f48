"""Public questions with known answers, as tenants full of memories: LoCoMo's dialogues and HotpotQA's passages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import locomo

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
TUNED_ON = ("conv-26", "conv-30")
"""The conversations that weights may be chosen on; the others are held out."""
MOST_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, which memories answer it (by label), and the kind of question it is."""

    text: str
    answers: frozenset[str]
    kind: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """One tenant's memories, as bodies of `POST /v1/memories` with their label in `metadata`, and its questions."""

    tenant: str
    memories: tuple[dict[str, Any], ...]
    questions: tuple[Question, ...]
    tuned_on: bool


@dataclass(frozen=True, slots=True)
class Dataset:
    """All corpora of one kind, what to call them, and the depths at which they are judged."""

    name: str
    label: str
    depths: tuple[int, ...]
    corpora: tuple[Corpus, ...]


def load(folder: Path) -> Dataset:
    """The dataset that lies in a folder. Raises `FileNotFoundError` where there is none that is known."""
    if (folder / "corpus.json").exists():
        return _hotpotqa(folder)
    return Dataset("LoCoMo", "dia_id", (5, 10, 20), tuple(_dialogue(each) for each in locomo.load(folder)))


def _dialogue(talk: locomo.Conversation) -> Corpus:
    questions = tuple(
        Question(asked.question, frozenset(asked.evidence), CATEGORIES[asked.category])
        for asked in talk.questions
        if asked.category in CATEGORIES and asked.evidence
    )
    return Corpus(talk.name, talk.memories, questions, talk.name in TUNED_ON)


def _hotpotqa(folder: Path) -> Dataset:
    passages: dict[str, list[str]] = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    asked = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    memories = tuple(_passage(title, "".join(sentences)) for title, sentences in passages.items())
    questions = tuple(
        Question(each["question"], frozenset(title for title, _ in each["supporting_facts"]), each["type"])
        for each in asked
    )
    return Dataset("HotpotQA", "title", (2, 5, 10), (Corpus("hotpotqa", memories, questions, False),))


def _passage(title: str, text: str) -> dict[str, Any]:
    return {"content": f"{title}\n{text}"[:MOST_CHARACTERS], "kind": "fact", "metadata": {"title": title}, "key": title}
