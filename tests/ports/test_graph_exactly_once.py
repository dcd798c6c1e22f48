"""However the log is cut, repeated or interrupted, the record ends up the same."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from support.graph_story import EMBEDDING, PARTITION, dump, follow, opened, story
from support.memories import memory, remembered

LENGTH = 60


async def in_one_go(folder: Path, seed: int, length: int = LENGTH) -> None:
    async with opened(folder) as service:
        await follow(service, story(seed, length))


async def in_pieces(folder: Path, seed: int, cuts: list[tuple[int, int, bool]]) -> None:
    """Each cut: how many facts go on, how many of those before are repeated first, whether the process restarts."""
    told, done = story(seed, LENGTH), 0
    pieces = [*cuts, (LENGTH, LENGTH, True)]
    while pieces:
        async with opened(folder) as service:
            while pieces:
                ahead, repeated, restarts = pieces.pop(0)
                await follow(service, told[max(0, done - repeated) : done + ahead])
                done = min(done + ahead, LENGTH)
                if restarts:
                    break


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, LENGTH), st.booleans()), max_size=6),
)
def test_cuts_repeats_and_restarts_leave_the_same_record(seed: int, cuts: list[tuple[int, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as pieces:
        asyncio.run(in_one_go(Path(whole), seed))
        asyncio.run(in_pieces(Path(pieces), seed, cuts))

        assert dump(Path(pieces)) == dump(Path(whole))


async def test_a_command_seen_at_another_sequence_changes_nothing(tmp_path: Path) -> None:
    told = [remembered(n, memory(n, "Ann met Bob in Paris", speaker="Carol"), EMBEDDING) for n in range(1, 6)]
    async with opened(tmp_path) as service:
        await follow(service, told)
    once = dump(tmp_path)

    async with opened(tmp_path) as service:
        outcomes = await follow(service, [replace(each, sequence=each.sequence + 10) for each in told])

    twice = dump(tmp_path)
    assert outcomes == [None] * 5
    assert twice.pop("position") == ["(15,)"]
    assert twice == {name: rows for name, rows in once.items() if name != "position"}


KILLED_LENGTH = 1_000
CHILD = """
import asyncio, sys
from pathlib import Path
from support.graph_story import follow, opened, story

async def main() -> None:
    told = story(11, {length})
    async with opened(Path(sys.argv[1])) as service:
        position = await service.follows[{partition}].position()
        rest = [each for each in told if each.sequence > position]
        print("began", flush=True)
        for start in range(0, len(rest), 25):
            await follow(service, rest[start : start + 25])
        print("done", flush=True)

asyncio.run(main())
"""


async def test_a_writer_killed_again_and_again_leaves_the_same_record(tmp_path: Path) -> None:
    await in_one_go(tmp_path / "whole", 11, KILLED_LENGTH)
    chance, killed, deadline = random.Random(1), 0, time.monotonic() + 60

    while time.monotonic() < deadline:
        child = start_writer(tmp_path / "killed")
        assert child.stdout is not None
        assert child.stdout.readline() == b"began\n"
        if killed < 3:
            try:
                child.wait(chance.uniform(0.01, 0.15))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                killed += 1
        if child.wait() == 0:
            break

    assert killed > 0
    assert dump(tmp_path / "killed") == dump(tmp_path / "whole")


def start_writer(folder: Path) -> subprocess.Popen[bytes]:
    code = CHILD.format(length=KILLED_LENGTH, partition=PARTITION)
    tests = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tests)!r})\n{code}", str(folder)],
        stdout=subprocess.PIPE,
    )
