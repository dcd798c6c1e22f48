"""What a memory's text speaks of, by rules alone: names, dates, quotations, handles, tags, and known nodes. Pure.

Names are capitalised words in a row (`name:Green Tea Club`). At the head of a sentence every word is capitalised, so
there a single word counts only when the tenant knows it or the text repeats it. A name the tenant knows is taken
under its node, so that what a speaker is called becomes `person:<speaker>`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from engram_graph.dates import find_dates
from engram_graph.tokens import TOKEN, bare, plain
from engram_graph.vocabulary import Known, Vocabulary
from engram_graph.words import BEGIN_NAMES, COMMON, CONNECTORS, CONTRACTIONS, TIME_WORDS, TITLES

MOST = 24
"""Entities taken from one memory."""

NAME_LENGTH = 120
"""Characters of a name or quotation that is taken; longer ones are no names."""

LEAST_TO_SHOUT = 4
"""Words from which on a text mostly in capital letters is taken as shouting, and gives no names."""

MOST_CONNECTORS = 2
"""Small words in a row inside a name, as in "Lord of the Rings"."""

_DIGIT = re.compile(r"\d")
_QUOTE = re.compile(r"[\"“„«]")
_QUOTED = re.compile(r"[\"“„«]([^\"“”„«»\n]{2,80})[\"”»]")
_MARKED = re.compile(r"(?<![\w@#./])([@#])(\w[\w-]*(?:\.\w+)*)")
_ENDS_SENTENCE = re.compile(r"[.!?…\n:;\"“”(\[*>]")
_SHOUTED = 0.6
_HEADING = re.compile(r"\s*([^\W_][^\n]{0,79})\n(?=\s*\S)")
_ASIDE = re.compile(r"\s*\([^()]*\)$")


def extract(
    text: str,
    vocabulary: Vocabulary,
    *,
    reference: datetime | None,
    tags: Sequence[str] = (),
    headed: bool = False,
) -> tuple[str, ...]:
    """Ids of the nodes a memory speaks of, its speaker aside, in order of weight; at most `MOST`.

    `reference` is the moment that "yesterday" refers to. In a text that may be `headed`, a short first line is the
    name of what the rest is about, and comes first. The answer depends on nothing but the arguments.
    """
    quotes = _QUOTED.findall(text) if _QUOTE.search(text) else []
    marks = _MARKED.findall(text) if "@" in text or "#" in text else []
    pairs = TOKEN.findall(_without(text, quotes, marks) if quotes or marks else text)
    words = [word.lower() for _, word in pairs]
    if "'" in text or "’" in text:
        words = [plain(word) for word in words]
    heading = _heading(text, vocabulary) if headed and "\n" in text else None
    found = dict.fromkeys((heading,)) if heading else {}
    found |= dict.fromkeys(_names(pairs, words, vocabulary))
    if quotes:
        found |= dict.fromkeys(_quotations(quotes, vocabulary))
    if marks:
        found |= dict.fromkeys(f"handle:{name}" if sign == "@" else f"tag:{name.lower()}" for sign, name in marks)
    if not TIME_WORDS.isdisjoint(words) or _DIGIT.search(text):
        today = reference.date() if reference is not None else None
        found |= dict.fromkeys(f"date:{found_date}" for found_date in find_dates(text, today))
    if tags:
        found |= dict.fromkeys(f"tag:{tag.strip().lower()}" for tag in tags if tag.strip())
    return tuple(found)[:MOST]


def seeds(text: str, vocabulary: Vocabulary, *, now: datetime) -> list[Known]:
    """The known nodes that a question names, in whatever case, each once."""
    words = [plain(word) for _, word in TOKEN.findall(text)]
    found = {node.id: node for _, _, node in vocabulary.find(words, any_case=True)}
    for name in extract(text, vocabulary, reference=now):
        node = vocabulary.resolve(name)
        if node is not None:
            found[node.id] = node
    return list(found.values())[:MOST]


def _without(text: str, quotes: Sequence[str], marks: Sequence[tuple[str, str]]) -> str:
    """The text without what is taken as a whole; what stands there instead ends no sentence."""
    if quotes:
        text = _QUOTED.sub("'", text)
    return _MARKED.sub("'", text) if marks else text


def _heading(text: str, vocabulary: Vocabulary) -> str | None:
    """The node that a first line names: a short one with a capital or digit and no punctuation at its end.

    One of common words alone is a name where the last has a capital too, as in "Welcome to the Show".
    """
    found = _HEADING.match(text)
    line = _ASIDE.sub("", found.group(1).strip()) if found else ""
    if not line or line[0].islower() or line[-1] in ".,;:!?…":
        return None
    pairs = TOKEN.findall(line)
    words = [plain(word) for _, word in pairs]
    known = vocabulary.named(" ".join(words))
    if known is not None:
        return known.id
    titled = len(words) > 1 and pairs[-1][1][0].isupper()
    return f"name:{line}" if titled or any(word not in COMMON for word in words) else None


def _names(pairs: Sequence[tuple[str, str]], words: Sequence[str], vocabulary: Vocabulary) -> Iterator[str]:
    """Known nodes and capitalised names, in the order of the text."""
    known = {start: (length, node.id) for start, length, node in vocabulary.find(words)}
    capitals = [n for n, (_, word) in enumerate(pairs) if word[0].isupper()]
    if len(capitals) > _SHOUTED * len(pairs) and _shouts(pairs):
        capitals = []
    at = 0
    for start in sorted({*known, *capitals}) if known else capitals:
        if start < at:
            continue
        if start in known:
            at = start + known[start][0]
            yield known[start][1]
            continue
        at = _run(pairs, words, start)
        name = _name(pairs, words, start, at, vocabulary)
        if name is not None:
            yield name


def _shouts(pairs: Sequence[tuple[str, str]]) -> bool:
    loud = sum(word.isupper() and len(word) > 1 for _, word in pairs)
    return len(pairs) >= LEAST_TO_SHOUT and loud > _SHOUTED * len(pairs)


def _run(pairs: Sequence[tuple[str, str]], words: Sequence[str], start: int) -> int:
    """One past the last word of the capitalised words in a row that begin at `start`."""
    end, at = start + 1, start + 1
    while at < len(pairs) and at - end <= MOST_CONNECTORS and not pairs[at - 1][1].endswith(("'s", "’s")):
        before, word = pairs[at]
        if before not in {" ", " & "} and not _abbreviates(before, words[at - 1]):
            break
        at += 1
        if word[0].isupper() and words[at - 1] not in COMMON:
            end = at
        elif words[at - 1] not in CONNECTORS:
            break
    return end


def _name(
    pairs: Sequence[tuple[str, str]], words: Sequence[str], start: int, end: int, vocabulary: Vocabulary
) -> str | None:
    """The node that the words from `start` to `end` name, or `None` where they name nothing."""
    heads = start == 0 or _begins_sentence(pairs[start][0], words[start - 1])
    if end - start == 1:
        return _single(pairs, words, start, heads, vocabulary)
    known = vocabulary.named(" ".join(words[start:end]))
    if known is not None:
        return known.id
    known_rest = heads and vocabulary.named(" ".join(words[start + 1 : end])) is not None
    if known_rest or (words[start] in COMMON and words[start] not in BEGIN_NAMES):
        return _name(pairs, words, start + 1, end, vocabulary) if pairs[start + 1][1][0].isupper() else None
    return _fresh(pairs[start][1] + "".join(before + word for before, word in pairs[start + 1 : end]))


def _single(
    pairs: Sequence[tuple[str, str]], words: Sequence[str], at: int, heads: bool, vocabulary: Vocabulary
) -> str | None:
    word = words[at]
    known = vocabulary.named(word)
    if word in COMMON:
        return known.id if known is not None and known.id.startswith("person:") and not heads else None
    if known is not None:
        return known.id
    if len(word) < 2 or _contracted(word) or (heads and not _repeated(pairs, pairs[at][1])):
        return None
    return _fresh(pairs[at][1])


def _fresh(name: str) -> str | None:
    name = bare(name)
    return f"name:{name}" if len(name) <= NAME_LENGTH else None


def _begins_sentence(before: str, previous: str) -> bool:
    return before != " " and _ENDS_SENTENCE.search(before) is not None and not _abbreviates(before, previous)


def _abbreviates(before: str, previous: str) -> bool:
    """Whether a full stop belongs to a title or an initial, as in "Dr. Who" and "J. R. R. Tolkien"."""
    initial = len(previous) == 1 and previous != "i"
    return (before == ". " and (initial or previous in TITLES)) or (before == "." and initial)


def _contracted(word: str) -> bool:
    base, apostrophe, ending = word.rpartition("'")
    return bool(apostrophe) and (ending in CONTRACTIONS or base in COMMON)


def _repeated(pairs: Sequence[tuple[str, str]], word: str) -> bool:
    return Counter(bare(other) for _, other in pairs)[bare(word)] > 1


def _quotations(quotes: Sequence[str], vocabulary: Vocabulary) -> Iterator[str]:
    for quote in quotes:
        phrase = quote.strip(" .,!?;:…")
        words = phrase.split()
        if not words or (len(words) == 1 and plain(phrase) in COMMON):
            continue
        known = vocabulary.named(" ".join(map(plain, words)))
        yield known.id if known is not None else f"phrase:{' '.join(words)}"
