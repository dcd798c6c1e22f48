"""Words of a text. Pure."""

from __future__ import annotations

import re

TOKEN = re.compile(r"([\W_]*)([^\W_]+(?:['’\-][^\W_]+)*)")
"""What stands before a word, and the word: letters and digits, with apostrophes and hyphens inside."""

_APOSTROPHES = str.maketrans("’", "'")


def bare(word: str) -> str:
    """The word without a possessive ending."""
    return word[:-2] if word.endswith(("'s", "’s")) else word


def plain(word: str) -> str:
    """The word as it is compared: lower case, straight apostrophes, no possessive ending."""
    word = word.lower()
    if "'" in word or "’" in word:
        word = bare(word.translate(_APOSTROPHES))
    return word


def words_of(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return [plain(word) for _, word in TOKEN.findall(text)]
