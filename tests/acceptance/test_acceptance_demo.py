"""`engram demo`, as `make demo` runs it."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from support.servers import ROOT

ENGRAM = str(Path(sys.executable).with_name("engram"))
CPU_SECONDS = 60.0
"""Of all its processes; how long that takes depends on who shares the processors."""


def cpu_seconds() -> float:
    """What ended children of this process, and theirs, have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("demo")
    environ = {**os.environ, "COLUMNS": "120", "TMPDIR": str(folder), "ENGRAM_SERVE_PORT": "1"}
    before = cpu_seconds()
    done = subprocess.run(
        [ENGRAM, "demo"], cwd=folder, env=environ, capture_output=True, text=True, timeout=180, check=False
    )
    assert cpu_seconds() - before < CPU_SECONDS, done.stdout
    return done


def test_the_demo_runs_to_its_end_and_stops_cleanly(demo):
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert re.search(r"126 memories of \d+ sessions from conversation.jsonl", demo.stdout)
    assert "Everything stopped with exit code 0" in demo.stdout


@pytest.mark.parametrize(
    "part", ["Engram runs", "Remember", "Recall", "Walk the graph", "Think", "Change and forget", "Usage", "The parts"]
)
def test_the_demo_shows_every_part(demo, part):
    assert re.search(rf"^{part}", demo.stdout, re.MULTILINE)


def test_the_demo_recalls_who_said_what_and_when(demo):
    assert "2026-05-02 Ines: We changed the place. The wedding is not in Lisbon, it is in Porto now." in demo.stdout


def test_the_demo_shows_the_evidence_of_the_graph(demo):
    walk = demo.stdout.partition("Walk the graph")[2].partition("Think")[0]

    assert "person:" in walk
    assert re.search(r"2026-\d\d-\d\d (Mara|Joel|Ines): ", walk)


def test_the_demo_says_that_its_answer_is_extractive_and_cites_it(demo):
    thought = demo.stdout.partition("\nThink")[2].partition("Change and forget")[0]

    assert "extractive" in thought
    assert "[1]" in thought


def test_the_demo_leaves_nothing_behind(demo):
    place = re.search(r"everything in (\S+)", demo.stdout)

    assert place
    assert not Path(place[1]).exists()


def test_make_demo_is_this_demo():
    planned = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert planned.stdout.splitlines()[-1].endswith("bin/engram demo")


def test_the_demo_takes_a_conversation_and_a_place_of_ones_own_and_is_told_as_json(tmp_path):
    (tmp_path / "talk.jsonl").write_text(
        '{"speaker": "Ann", "text": "Bob moved to Oslo in May."}\n{"speaker": "Ines", "text": "Ines keeps bees."}\n'
    )

    done = subprocess.run(
        [ENGRAM, "demo", "talk.jsonl", "--data-dir", "kept", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["remembered"]["memories"] == 2
    assert told["thought"]["citations"][0]["quote"] in ("Bob moved to Oslo in May.", "Ines keeps bees.")
    assert told["exit_code"] == 0
    assert (tmp_path / "kept" / "admin.key").exists()
