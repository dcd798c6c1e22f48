"""The client says everything the door takes, in the door's words."""

from __future__ import annotations

import inspect

import pytest
from pydantic import BaseModel

from engram_api.models import (
    ContextBody,
    EdgeBody,
    EventsQuery,
    FeedbackBody,
    NeighboursQuery,
    PathQuery,
    RecallBody,
    ThinkBody,
    UsageQuery,
)
from engram_client import AsyncEngram

RENAMED = {"type": "edge_type", "kind": "kinds"}


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("recall", RecallBody),
        ("context", ContextBody),
        ("think", ThinkBody),
        ("stream_think", ThinkBody),
        ("feedback", FeedbackBody),
        ("put_edge", EdgeBody),
        ("neighbours", NeighboursQuery),
        ("path", PathQuery),
        ("events", EventsQuery),
        ("usage", UsageQuery),
    ],
)
def test_every_field_is_an_argument_with_the_same_default(method: str, model: type[BaseModel]) -> None:
    arguments = inspect.signature(getattr(AsyncEngram, method)).parameters

    for name, field in model.model_fields.items():
        argument = arguments[name if name in arguments else RENAMED[name]]
        if not field.is_required() and argument.default is not None:
            assert argument.default == field.get_default(call_default_factory=True), (method, name)
