"""A real conversation through the whole system: nothing is lost, doubled or out of reach, and all parts agree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import locomo
from benchmarks.agreement import check
from support.servers import ROOT
from support.system import embedded_system

FILE = Path(os.environ.get("ENGRAM_TEST_LOCOMO", ROOT.parent / "shared/data/locomo")) / "conv-26.json"


@pytest.mark.skipif(not FILE.exists(), reason="SKIPPED: the LoCoMo conversations are not on this machine")
async def test_all_parts_agree_on_a_conversation(tmp_path: Path) -> None:
    conversation = locomo.read(FILE)

    with embedded_system(tmp_path) as system:
        lines = await check(system, [conversation])

    assert [line for line in lines if not line.agrees] == []
