"""The parts of the benchmarks that need nothing running."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

from benchmarks import locomo
from benchmarks.figures import Raw, Row, at_least, at_most, p
from benchmarks.layout import BIG, SMALL, tenants_of
from benchmarks.texts import Texts
from engram_contracts.memory import NewMemory

TALK = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Ben",
        "session_10_date_time": "12:05 am on 1 June, 2023",
        "session_10": [{"speaker": "Ben", "dia_id": "D10:1", "text": "Later."}],
        "session_2_date_time": "1:56 pm on 8 May, 2023",
        "session_2": [
            {"speaker": "Ann", "dia_id": "D2:1", "text": "Look!", "blip_caption": "a photo of a dog"},
            {"speaker": "Ben", "dia_id": "D2:2", "text": "A dog."},
        ],
        "session_11_date_time": "3:00 pm on 2 June, 2023",
    },
    "qa": [{"question": "Whose dog?", "evidence": ["D2:1"], "category": 5, "adversarial_answer": "Ben's"}],
}


def conversation(folder: Path) -> locomo.Conversation:
    (folder / "conv-1.json").write_text(json.dumps(TALK))
    return locomo.load(folder)[0]


def test_turns_become_memories_in_the_order_they_were_said(tmp_path: Path) -> None:
    memories = conversation(tmp_path).memories

    assert [memory["key"] for memory in memories] == ["conv-1/D2:1", "conv-1/D2:2", "conv-1/D10:1"]
    assert [memory["occurred_at"] for memory in memories] == [
        "2023-05-08T13:56:00Z",
        "2023-05-08T13:56:01Z",
        "2023-06-01T00:05:00Z",
    ]


def test_a_shared_picture_is_told_in_words(tmp_path: Path) -> None:
    first = conversation(tmp_path).memories[0]

    assert first["content"] == "Look! [shares a photo of a dog]"
    assert first["session_id"] == "conv-1/session-2"


def test_turns_are_what_the_door_takes(tmp_path: Path) -> None:
    for memory in conversation(tmp_path).memories:
        NewMemory.model_validate_json(json.dumps(memory), strict=True)


def test_the_same_seed_gives_the_same_distinct_texts() -> None:
    texts = Texts(None, seed=1).texts(500)

    assert texts == Texts(None, seed=1).texts(500)
    assert len(set(texts)) == 500


def test_the_first_requests_go_round_and_half_of_the_others_to_the_big_tenant() -> None:
    tenants = Counter(tenants_of(range(1_000), even=100))

    assert tenants[BIG] == 450
    assert {tenants[tenant] for tenant in SMALL} <= {27, 28}


def test_a_percentile_is_one_of_the_values() -> None:
    assert [p(percent, range(1, 101)) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert p(95, [7.0]) == 7.0
    assert math.isnan(p(50, []))


def test_a_row_says_whether_its_target_is_met_and_how_it_stands_to_the_raw_part() -> None:
    slow = Row("searchable", 1_000.0, "/s", at_least(2_500), Raw(20_000.0, "Edge"))
    fast = Row("recall", 2.0, "ms", at_most(3.0))

    assert slow.cells() == ("searchable", "1,000 /s", "≥ 2,500", "NO", "20,000 (Edge)", "0.05 ×")
    assert fast.cells() == ("recall", "2.00 ms", "≤ 3.00", "yes", "", "")
