"""Which memories an answer rests on: marks like `[2]` in its text, resolved against what was recalled. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engram_contracts.facts import Citation
from engram_reasoner.context import Source
from engram_reasoner.words import best_sentence, sentences, shortened, terms

LONGEST_QUOTE = 300

_MARK = re.compile(r"(\s?)[\[【]\s*(?:memor(?:y|ies)\s*)?(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\s*[\]】]", re.IGNORECASE)


def resolve(answer: str, sources: Sequence[Source]) -> tuple[str, tuple[Citation, ...]]:
    """The answer with only the marks that name a source, and the citations, by first mention.

    A mark out of range is taken out; several numbers in one mark become several marks. A quote is the sentence of
    the memory that comes closest to the sentence it is cited in.
    """
    by_number = {source.number: source for source in sources}

    def known(mark: re.Match[str]) -> str:
        numbers = [int(number) for number in re.findall(r"\d+", mark.group(2))]
        kept = "".join(f"[{number}]" for number in numbers if number in by_number)
        return mark.group(1) + kept if kept else ""

    text = _MARK.sub(known, answer).strip()
    return text, tuple(cite(by_number[number], claim) for number, claim in _claims(text).items())


def cite(source: Source, claim: str) -> Citation:
    """The citation of a source for what is claimed from it."""
    quote = shortened(best_sentence(source.text, terms(claim)), LONGEST_QUOTE)
    return Citation(number=source.number, memory_id=source.memory.id, quote=quote, score=source.score)


def _claims(text: str) -> dict[int, str]:
    """Each cited number with the sentence that cites it first. A mark behind the full stop belongs to its sentence."""
    claims: dict[int, str] = {}
    before = ""
    for sentence in sentences(text):
        claim = _MARK.sub("", sentence).strip(" .") or before
        for mark in _MARK.finditer(sentence):
            behind = mark.start() == 0 and before
            claims.setdefault(int(mark.group(2)), before if behind else claim)
        before = claim
    return claims
