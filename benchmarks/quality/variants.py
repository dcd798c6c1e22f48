"""The ways of recall that are compared, as what a request says: the whole, its rivals, and it without each piece."""

from __future__ import annotations

from typing import Any

Body = dict[str, Any]

BARE: Body = {
    "neighbours": 0, "speaker": 0, "statement": 0, "date": 0, "graph": 0, "recency": 0, "first_person": False,
}  # fmt: skip
WHOLE = "Engram"

RIVALS: dict[str, Body] = {
    "BM25 alone": {"mode": "lookup", "weights": {**BARE, "dense": 0}},
    "dense alone": {"mode": "lookup", "weights": {**BARE, "dense": 1}},
    "naive RRF": {"mode": "lookup", "weights": {**BARE, "dense": 0.5, "fusion": "rrf"}},
}

ABLATIONS: dict[str, Body] = {
    "without BM25": {"weights": {"dense": 1}},
    "without dense": {"weights": {"dense": 0}},
    "without neighbours": {"weights": {"neighbours": 0}},
    "without speaker": {"weights": {"speaker": 0}},
    "without first person": {"weights": {"first_person": False}},
    "without statement": {"weights": {"statement": 0}},
    "without date": {"weights": {"date": 0}},
    "without the walk": {"mode": "dialogue"},
    "with activation .1": {"weights": {"graph": 0.1}},
    "RRF of the same legs": {"weights": {"fusion": "rrf"}},
}
