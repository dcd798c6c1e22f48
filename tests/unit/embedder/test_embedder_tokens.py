"""Tokens put together from words are those of the whole text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import wordllama

from engram_embedder.tokens import LONGEST_REMEMBERED, WORDS_REMEMBERED, Tokens

TEXTS = (
    "Joel moved from Antwerp to Ghent.",
    "",
    " ",
    "one",
    " leading and trailing ",
    "two  blanks   and    more",
    "lines\nof\n\ntext\twith tabs \n and blanks",
    "a sign for▁a blank ▁ inside",
    "special <s> names </s> of <unk> tokens",
    "no special <b>names</b> <",
    "naïve café — “quotes”, emoji 🎉🎉 and 👩‍👩‍👧",
    "东京都 と 大阪府の漢字かな交じり文",
    "https://example.org/a/very/long/address?with=parameters&and=more 1234567890 3.14159",
    "CamelCaseWords snake_case_words kebab-case-words ALLCAPS",
    "non\u00a0breaking\u2003and\u3000wide blanks",
    "\x00\x01 control \x7f",
)


@pytest.fixture(scope="module")
def tokenizer():
    loaded = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    loaded.tokenizer.no_padding()
    return loaded.tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_of_words_are_the_tokens_of_the_text(tokenizer, text):
    tokens = Tokens(tokenizer)

    first, again = tokens.of(text), tokens.of(text)

    assert first == again == tokenizer.encode(text, add_special_tokens=False).ids


def test_no_token_reaches_across_a_blank(tokenizer):
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]

    reaching = [token for token in vocabulary if re.search("[^▁]▁", token)]

    assert reaching == []


def test_words_remembered_are_bounded(tokenizer):
    tokens = Tokens(tokenizer)

    for number in range(WORDS_REMEMBERED + 10):
        tokens.of(f"w{number}")
    tokens.of("x" * (LONGEST_REMEMBERED + 1))

    assert len(tokens._words) == 10
