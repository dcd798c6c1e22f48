"""What others say of a failure, without what they were told in confidence. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

SHORTEST = 3
"""Letters of a word that tells something; shorter ones are left, unless they are numbers."""
_WORD = re.compile(r"\w+")
_RUNS = re.compile(r"…(?:[\s,;-]*…)+")


def redacted(words: str, *, key: str, texts: Iterable[str]) -> str:
    """Another system's words, with `[key]` for the key it was sent and `…` for words of the texts it was sent.

    Models' providers repeat both in their refusals, which go into logs, dead letters and answers.
    """
    hidden = words.replace(key, "[key]") if key else words
    told = {word for text in texts for word in _WORD.findall(text.lower()) if len(word) >= SHORTEST or word.isdigit()}
    without = _WORD.sub(lambda found: "…" if found.group().lower() in told else found.group(), hidden)
    return _RUNS.sub("…", without)
