"""Tokens of a text, word by word: the same words come again, so most are looked up instead of worked out.

The tokenizer of the static model is a byte-pair encoding in which no token reaches across a single blank, so a text's
tokens are those of its words, one after the other (measured: 2 us a text instead of 19). Texts where that does not hold
go to the tokenizer whole: those with other than single blanks between words, with a sign that stands for a blank
inside, or with the name of a special token.
"""

from __future__ import annotations

from typing import Protocol

BLANK = "▁"
"""What the tokenizer writes for a blank."""

SPECIAL = ("<s>", "</s>", "<unk>")
WORDS_REMEMBERED = 20_000
LONGEST_REMEMBERED = 24
"""Longer words are addresses or unspaced scripts, and do not come again."""


class Encoding(Protocol):
    """A text, taken apart."""

    @property
    def ids(self) -> list[int]:
        """The numbers of its tokens."""


class Tokenizer(Protocol):
    """What takes a text apart."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding:
        """The tokens of a text."""


class Tokens:
    """The numbers of texts' tokens, as `tokenizer` gives them. Not for several threads at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = _Words(tokenizer)

    def of(self, text: str) -> list[int]:
        """The tokens of a text, without any that mark its beginning or end."""
        pieces = text.split(" ")
        if "" in pieces or BLANK in text or ("<" in text and any(name in text for name in SPECIAL)):
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        found: list[int] = []
        for piece in pieces:
            found += self._words[piece]
        return found


class _Words(dict[str, list[int]]):
    """The tokens of words, worked out when first asked for; emptied when full."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> list[int]:
        ids = self._tokenizer.encode(word, add_special_tokens=False).ids
        if len(word) <= LONGEST_REMEMBERED:
            if len(self) >= WORDS_REMEMBERED:
                self.clear()
            self[word] = ids
        return ids
