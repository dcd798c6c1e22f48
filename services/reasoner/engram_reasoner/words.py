"""Words and sentences of a text, as far as comparing a question with a memory needs them. Pure and light."""

from __future__ import annotations

import re
from collections.abc import Collection

_SAYS_NOTHING = """
a about after again all also am an and any are as at be because been before being but by can could did do does
doing don down during each few for from further get gets getting go goes going gone got had has have having he her
here hers herself him himself his how i if in into is it its itself just ll let me might more most my myself no nor
not now of off on once only or other our ours ourselves out over own re s same she should so some such t than that
the their theirs them themselves then there these they this those through to too under until up ve very was we
went were what when where which while who whom whose why will with would you your yours yourself yourselves tell
know many much kind think said say says mentioned mention according ever like likely
"""
STOP = frozenset(_SAYS_NOTHING.split())
"""English words that say nothing about the matter of a question."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?")
_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|(?<=[。！？])|\n+")
_ENDINGS = (("ie", "y", 4), ("ing", "", 6), ("ed", "", 5), ("ly", "", 5))


def terms(text: str) -> list[str]:
    """The stems of the words that matter, in order, with repeats."""
    words = (word.casefold() for word in _WORD.findall(text))
    return [stem(word) for word in words if word not in STOP]


def stem(word: str) -> str:
    """A word without its commonest English endings: `hiking`, `hikes` and `hike` meet, and nothing more is promised."""
    word = re.split("['’]", word)[0]
    word = word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
    for ending, instead, length in _ENDINGS:
        if word.endswith(ending) and len(word) >= length:
            word = word[: len(word) - len(ending)] + instead
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def sentences(text: str) -> list[str]:
    """The sentences of a text, trimmed; a line break ends one as well."""
    return [cut for part in _SENTENCE.split(text) if part and (cut := part.strip())]


def best_sentence(text: str, about: Collection[str]) -> str:
    """The sentence of `text` that shares the most of the stems `about`; the first of equals."""
    return max(sentences(text) or [text], key=lambda sentence: len(set(terms(sentence)) & set(about)))


def shortened(text: str, limit: int) -> str:
    """The text on one line, cut at a word with an ellipsis where it is longer than `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rsplit(" ", 1)[0] + "…"
