"""Tests are named alike in every process that collects them, and judge nothing by how long it took."""

from __future__ import annotations

import re

import pytest
from hypothesis import settings

settings.register_profile("engram", deadline=None)
settings.load_profile("engram")

MINTED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|\d{4}-\d\d-\d\dT\d\d:")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """The name of an argument for bytes, and for text that holds an id or a time; anything else names itself."""
    if isinstance(val, bytes) or (isinstance(val, str) and MINTED.search(val)):
        return argname
    return None
