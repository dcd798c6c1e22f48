"""What Prometheus is told of the model."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from engram_contracts.facts import ModelUse
from engram_runtime.telemetry import BUCKETS, Capped

TOKENS = Counter("engram_model_tokens_total", "Tokens that the model read and wrote.", ["model", "direction"])
COST = Counter("engram_model_cost_total", "What calls of the model cost, in the currency of its prices.", ["model"])
CALLS = Counter("engram_model_calls_total", "Calls of the model, by how they ended.", ["model", "outcome"])
SECONDS = Histogram("engram_model_seconds", "Time a call of the model took.", ["model"], buckets=BUCKETS)
MODELS = Capped(20)
"""Requests may name models, and each name would be a series of its own."""


def count(model: str, use: ModelUse) -> None:
    """Note what a call used."""
    TOKENS.labels(MODELS.label(model), "prompt").inc(use.prompt_tokens)
    TOKENS.labels(MODELS.label(model), "completion").inc(use.completion_tokens)
    COST.labels(MODELS.label(model)).inc(use.cost or 0.0)
