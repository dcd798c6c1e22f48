"""Stems: what a word is counted as, in any script. Pure.

Words of scripts with spaces are stemmed by Snowball, those of scripts without are read as pairs of letters,
numbers lose leading zeros and ordinal endings, and English words too common to help are left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

import Stemmer  # type: ignore[import-not-found]  # a C module without stubs

from engram_contracts.errors import Rejected
from engram_embedder.stopwords import ENGLISH

MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0963\u0966-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"
    "\u102b-\u103e\u17b4-\u17d3"
)
"""Vowel signs and accents that belong to a word, though Python's `\\w` leaves them out."""

WORD = re.compile(rf"['’\w{MARKS}]+")
PART = re.compile(r"[^_'’]+")
UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+)"
)
"""Scripts that set no spaces between words, and Korean, whose particles cling to them."""

ORDINAL = re.compile(r"(\d{1,4})(?:st|nd|rd|th)")
LONGEST = 64
"""Letters of a word that count; what goes on longer is no word of a language."""

SCRIPTS = (
    ("\u0370", "\u03ff", "greek"), ("\u0400", "\u052f", "russian"), ("\u0530", "\u058f", "armenian"),
    ("\u0600", "\u06ff", "arabic"), ("\u0900", "\u097f", "hindi"), ("\u0b80", "\u0bff", "tamil"),
    ("\u1f00", "\u1fff", "greek"),
)  # fmt: skip
"""First and last letter of scripts other than Latin, and the language whose stemmer reads them by default."""

SAME_SCRIPT = {"persian": "arabic", "nepali": "hindi", "serbian": "russian"}
"""Languages that, when chosen, take another's place in its script."""


def words(text: str) -> list[str]:
    """The words of a text in lower case, as `Stems.of` takes them; letters are compared in Unicode's form NFKC."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return WORD.findall(text.lower())


class Stems:
    """Finds the stems of words. `language` is a Snowball stemmer's name, or `none` for words as they are written.

    The language counts for words in its own script; others keep their script's usual stemmer. Raises
    `Rejected` for a language that has no stemmer. Not for several threads at once.
    """

    def __init__(self, language: str = "english") -> None:
        if language not in {*Stemmer.algorithms(), "none"}:
            known = ", ".join(Stemmer.algorithms())
            raise Rejected(f"no stemmer for language {language!r}; use none or one of {known}")
        self._languages = _languages(language)
        self._common = ENGLISH if self._languages.get("english") == "english" else frozenset[str]()
        self._stemmers: dict[str, Stemmer.Stemmer] = {}

    def of(self, word: str) -> Iterator[str]:
        """The stems of one of `words`: none for a common word, several for compounds and unspaced scripts."""
        word = word.replace("’", "'").strip("'")
        if word in self._common:
            return
        for part in PART.findall(word.removesuffix("'s")):
            if part not in self._common:
                yield from self._of_part(part)

    def _of_part(self, part: str) -> Iterator[str]:
        for n, run in enumerate(UNSPACED.split(part)):
            if n % 2:
                yield from _pairs(run)
            elif run:
                yield self._stem(run[:LONGEST])

    def _stem(self, word: str) -> str:
        ordinal = ORDINAL.fullmatch(word)
        number = ordinal.group(1) if ordinal else word
        if number.isdecimal():
            return str(int(number))
        language = self._languages.get(_usual_language(word[0]))
        return self._stemmer(language).stemWord(word) if language else word

    def _stemmer(self, language: str) -> Stemmer.Stemmer:
        if language not in self._stemmers:
            self._stemmers[language] = Stemmer.Stemmer(language, 0)  # 0: no cache of its own
        return self._stemmers[language]


def _languages(chosen: str) -> dict[str, str]:
    """The language that reads each script, by the script's usual language (English stands for Latin letters)."""
    if chosen == "none":
        return {}
    usual = {language: language for _, _, language in SCRIPTS}
    place = SAME_SCRIPT.get(chosen, chosen if chosen in usual else "english")
    return {**usual, "english": "english", place: chosen}


def _usual_language(letter: str) -> str:
    if letter < SCRIPTS[0][0]:
        return "english"
    return next((language for first, last, language in SCRIPTS if first <= letter <= last), "english")


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    yield from (a + b for a, b in pairwise(run))
