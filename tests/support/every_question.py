"""Every question that the contracts know, wherever it is declared."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import engram_contracts
from engram_contracts.questions import Question


def every_question() -> set[tuple[str, str]]:
    """Service and verb of each."""
    for module in pkgutil.iter_modules(engram_contracts.__path__):
        importlib.import_module(f"engram_contracts.{module.name}")
    return {(kind.service, kind.verb) for kind in _below(Question) if getattr(kind, "service", "")}


def _below(kind: type[Question[Any]]) -> set[type[Question[Any]]]:
    found = set(kind.__subclasses__())
    return found.union(*(_below(each) for each in found))
