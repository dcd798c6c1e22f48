"""The nodes of one tenant by id and by name: what the writer knows without asking the store. Pure.

A name of up to four words finds its node in a text whatever its case. A single word finds a node that a rule made
only where it is capitalised, or `will` and `hope` would be found everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from engram_graph.tokens import words_of
from engram_graph.words import COMMON

Origin = Literal["rule", "model", "manual"]
LONGEST = 4
"""Words of a name that is looked for in texts."""

_NOT_IN_TEXT = ("tag:", "date:")
_SWAPPED = {"name": "person", "person": "name"}
_PRECEDENCE = {"person": 0, "tag": 3, "date": 3, "name": 2, "phrase": 2}


@dataclass(slots=True)
class Known:
    """A node. `mentions` counts the memories that speak of it, `attributes` is JSON or empty."""

    key: int
    id: str
    origin: Origin
    mentions: int = 0
    attributes: str = ""

    @property
    def name(self) -> str:
        """The id without its type."""
        return self.id.partition(":")[2]

    @property
    def precedence(self) -> tuple[int, int]:
        """Which of several nodes of one name is meant: a person, then what has a type of its own, then the rest."""
        return (_PRECEDENCE.get(self.id.partition(":")[0], 1), self.key)


class Vocabulary:
    """A tenant's nodes. `size` counts them."""

    def __init__(self, nodes: Sequence[Known] = ()) -> None:
        self._ids: dict[str, Known] = {}
        self._keys: dict[int, Known] = {}
        self._names: dict[str, tuple[Known, ...]] = {}
        self._starts: dict[str, int] = {}
        self._text_starts: dict[str, int] = {}
        for node in nodes:
            self.add(node)

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self._ids)

    def get(self, node: str) -> Known | None:
        """The node of exactly this id."""
        return self._ids.get(node)

    def at(self, key: int) -> Known | None:
        """The node of this key."""
        return self._keys.get(key)

    def resolve(self, node: str) -> Known | None:
        """The node of this id; `name:X` also finds the person X, and the other way round."""
        return next(iter(self.candidates(node)), None)

    def candidates(self, node: str) -> Iterator[Known]:
        """The nodes that an id can mean, the exact one first."""
        known = self._ids.get(node)
        if known is not None:
            yield known
        kind, _, name = node.partition(":")
        if kind in _SWAPPED and (namesake := self._ids.get(f"{_SWAPPED[kind]}:{name}")) is not None:
            yield namesake

    def named(self, name: str) -> Known | None:
        """The node that a name (words in lower case, joined by blanks) means in a text, if there is one."""
        return next((node for node in self._names.get(name, ()) if not node.id.startswith(_NOT_IN_TEXT)), None)

    def add(self, node: Known) -> None:
        """Take up a node; its id must be new."""
        self._ids[node.id] = node
        self._keys[node.key] = node
        words = words_of(node.name)
        if 0 < len(words) <= LONGEST:
            name = " ".join(words)
            homonyms = (*self._names.get(name, ()), node)
            self._names[name] = homonyms if len(homonyms) == 1 else tuple(sorted(homonyms, key=lambda n: n.precedence))
            _lengthen(self._starts, words)
            if len(words) > 1 or node.origin == "manual":
                _lengthen(self._text_starts, words)

    def remove(self, node: Known) -> None:
        """Forget a node."""
        del self._ids[node.id], self._keys[node.key]
        name = " ".join(words_of(node.name))
        left = tuple(other for other in self._names.get(name, ()) if other is not node)
        if left:
            self._names[name] = left
        else:
            self._names.pop(name, None)

    def keep(self, node: Known) -> None:
        """Make a node one that was put by hand."""
        self.remove(node)
        node.origin = "manual"
        self.add(node)

    def rename(self, node: Known, new: str) -> None:
        """Give a node another id; whatever refers to its key follows."""
        self.remove(node)
        node.id = new
        self.add(node)

    def find(self, words: Sequence[str], *, any_case: bool = False) -> Iterator[tuple[int, int, Known]]:
        """Nodes whose names stand in a text, as (first word, number of words, node), the longest first at each place.

        `words` are the text's, in lower case. Single words count only for nodes put by hand, unless `any_case`,
        which is for questions: there tags count too, and single words that are not common ones.
        """
        starts, at = self._starts if any_case else self._text_starts, 0
        if starts.keys().isdisjoint(words):
            return
        for start, word in enumerate(words):
            longest = starts.get(word)
            if longest is None or start < at:
                continue
            for length in range(min(longest, len(words) - start), 0, -1):
                node = self._at(words[start : start + length], any_case)
                if node is not None:
                    yield start, length, node
                    at = start + length
                    break

    def _at(self, words: Sequence[str], any_case: bool) -> Known | None:
        homonyms = self._names.get(" ".join(words))
        if homonyms is None or (len(words) == 1 and words[0] in COMMON):
            return None
        if any_case:
            return homonyms[0]
        node = next((node for node in homonyms if not node.id.startswith(_NOT_IN_TEXT)), None)
        return node if node is not None and (len(words) > 1 or node.origin == "manual") else None


def _lengthen(starts: dict[str, int], words: Sequence[str]) -> None:
    starts[words[0]] = max(len(words), starts.get(words[0], 0))
