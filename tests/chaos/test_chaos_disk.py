"""The power goes, the disk is full: what was acknowledged is there, and nothing has to be mended by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from support.audit import audit, dead_letters, until_drained
from support.broken_disk import Disk, MiB, disk, freeze, group_of, why_no_disk
from support.chaos_results import Case
from support.journal import Journal, Story
from support.stormy import keys_for, running
from support.system import System, embedded_system
from support.traffic import Mix, Traffic

DISKLESS = why_no_disk()
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(3_600),
    pytest.mark.skipif(DISKLESS is not None, reason=f"SKIPPED: {DISKLESS}"),
]

DRAIN_SECONDS = 60.0
ADVICE = "engram rebuild log"
DISK_MEGABYTES = 10_240
"""The streams reserve 5 GiB, and the broker takes three quarters of what is free. The image is sparse."""
LOSS_AT_SECOND = 1.0
"""What `second` promises: at most so much before the cut is lost."""


async def test_power_cut_at_power(case: Case, tmp_path: Path) -> None:
    cuts = case.plan.count(1, 20)
    case.asked = "0 acknowledged lost"
    journal = Journal(tmp_path / "journal.jsonl")
    with ExitStack() as stack:
        folder = await cut_often(case, tmp_path, stack, journal, cuts, "power")
        verdict = await settled(case, folder, journal, "power")
    assert verdict == {}


async def test_power_cut_at_second(case: Case, tmp_path: Path) -> None:
    if not case.plan.long:
        pytest.skip("SKIPPED: only in the long run")
    cuts = case.plan.count(1, 5)
    case.asked = "lost at most what came in the last second; nothing that came after the power was back"
    journal = Journal(tmp_path / "journal.jsonl")
    moments: list[float] = []
    with ExitStack() as stack:
        folder = await cut_often(case, tmp_path, stack, journal, cuts, "second", moments)
        verdict = await settled(case, folder, journal, "second", moments)
    assert verdict == {}


async def cut_often(
    case: Case,
    tmp_path: Path,
    stack: ExitStack,
    journal: Journal,
    cuts: int,
    durability: str,
    moments: list[float] | None = None,
) -> Path:
    """Run under load and pull the plug, so many times; the folder, on a disk as the last cut left it."""
    made = stack.enter_context(disk(tmp_path / "disk", megabytes=DISK_MEGABYTES))
    folder = made.mounted / "engram"
    keys: dict[str, str] = {}
    mended: list[str] = []
    for number in range(cuts):
        folder.mkdir(exist_ok=True)
        opened = embedded_system(folder, durability=durability)
        system = await started_again(opened, folder / "data", mended)
        keys = keys or await keys_for(system.nats, system.data_dir)
        traffic = Traffic(system.url, keys, journal, seed=case.seed + 10_000 * number, mix=Mix(writes=100.0))
        before = journal.written
        async with traffic.flowing():
            await traffic.written(before + 50, seconds=60)
            await asyncio.sleep(case.chance.uniform(1.0, 4.0))
            moment = await pull_the_plug(system, made.image, tmp_path / "cut.img")
            traffic.stop()
        if moments is not None:
            moments.append(moment)
        await asyncio.to_thread(system.process.wait)
        made.unmount()
        (tmp_path / "cut.img").replace(made.image)
        made.mount()
        case.say(f"cut {number + 1} of {cuts}, {journal.written} acknowledged")
        if traffic.wrong:
            case.note(f"wrong: {traffic.wrong[:3]}")
    case.run = f"{cuts} cuts at `{durability}`, {journal.written} acknowledged"
    if mended:
        case.note(f"`{ADVICE}` was asked for and run: {mended}")
    return folder


@contextlib.asynccontextmanager
async def opened_again(folder: Path, durability: str, mended: list[str]) -> AsyncIterator[System]:
    """The system on what the last cut left, as an operator brings it up; stopped in order at the end."""
    opened = embedded_system(folder, durability=durability)
    system = await started_again(opened, folder / "data", mended)
    try:
        yield system
    except BaseException:
        if not await asyncio.to_thread(opened.__exit__, *sys.exc_info()):
            raise
    else:
        await asyncio.to_thread(opened.__exit__, None, None, None)


async def started_again(opened: AbstractContextManager[System], data_dir: Path, mended: list[str]) -> System:
    """Start it; where it says that its log lost what its stores hold, do as it says. `mended` notes each time."""
    starting = asyncio.create_task(asyncio.to_thread(opened.__enter__))
    while not starting.done():
        await asyncio.wait([starting], timeout=1.0)
        if not starting.done() and ADVICE in await asyncio.to_thread(_trouble, data_dir):
            mended.append(f"exit {(await ask(data_dir, 'rebuild', 'log')).returncode}")
    return await starting


async def ask(data_dir: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command that an operator would type."""
    command = (str(Path(sys.executable).with_name("engram")), "--data-dir", str(data_dir), *words)
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)


def _trouble(data_dir: Path) -> str:
    """What keeps the system from being ready, in its own words."""
    try:
        url = json.loads((data_dir / "run.json").read_text())["url"]
        with urllib.request.urlopen(f"{url}/health/ready", timeout=2.0) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except (OSError, ValueError):
        return ""


async def pull_the_plug(system: System, image: Path, copy: Path) -> float:
    """Stop every process in the middle of what it does, keep what is on the device, kill them; when that was."""
    pids = group_of(system.process.pid)
    freeze(pids, signal.SIGSTOP)
    moment = time.time()
    await asyncio.to_thread(Disk(image, image.parent).cut, copy)
    freeze(pids, signal.SIGKILL)
    return moment


async def settled(
    case: Case, folder: Path, journal: Journal, durability: str, moments: list[float] | None = None
) -> dict[str, object]:
    """Start once more, write a little, and audit; the faults."""
    spared = _spared(journal, moments or [])
    mended: list[str] = []
    async with opened_again(folder, durability, mended) as system:
        keys = await keys_for(system.nats, system.data_dir)
        traffic = Traffic(system.url, keys, journal, seed=case.seed + 999_999, mix=Mix(writes=50.0))
        before = journal.written
        async with traffic.flowing():
            await traffic.written(before + 100, seconds=60)
        await until_drained(system.nats, within=DRAIN_SECONDS)
        if durability != "power":
            repaired = await ask(folder / "data", "verify", "--repair")
            case.note(f"`engram verify --repair`: exit {repaired.returncode}")
            if repaired.returncode:
                case.say(repaired.stdout.decode()[-3_000:])
            found = await ask(folder / "data", "verify")
            case.note(f"`engram verify` after it: exit {found.returncode}")
            if found.returncode:
                case.say(found.stdout.decode()[-3_000:])
            assert found.returncode == 0
        dead = await dead_letters(system.nats)
    verdict = audit(journal, folder / "data", dead, spared=spared, net=bool(moments))
    strict = audit(journal, folder / "data", dead) if moments else verdict
    case.note(str(verdict))
    if mended:
        case.note(f"`{ADVICE}` was asked for and run: {mended}")
    if moments:
        case.note(f"lost of the last second: {len(strict.lost) - len(verdict.lost)}")
    return dict(verdict.faults)


def _spared(journal: Journal, moments: list[float]) -> Callable[[Story], bool]:
    """Whether a story was acknowledged, in whole or part, within the loss that is allowed before a cut."""
    late = {
        line["id"]
        for line in journal.lines()
        for moment in moments
        if moment - LOSS_AT_SECOND - 0.5 <= line["at"] <= moment + 0.5
    }
    return lambda story: story.id in late


async def test_disk_full_at_the_broker(case: Case, tmp_path: Path) -> None:
    if not case.plan.long:
        pytest.skip("SKIPPED: only in the long run")
    case.asked = "clear error, no corruption, resumes by itself"
    journal = Journal(tmp_path / "journal.jsonl")
    with disk(tmp_path / "disk", megabytes=DISK_MEGABYTES) as full:
        folder = full.mounted / "engram"
        async with running(folder, durability="power") as system:
            traffic = Traffic(system.url, await keys_for(system.nats, system.data_dir), journal, seed=case.seed)
            nats = system.nats
            async with traffic.flowing():
                await traffic.written(200, seconds=60)
                began = time.monotonic()
                ballast = full.fill(MiB // 2)
                await asyncio.sleep(15.0)
                freed = time.monotonic()
                ballast.unlink()
                case.note(f"while full: {traffic.attempts.statuses('write', began, freed)}")
                notes = {a.note for a in traffic.attempts.of("write", since=began, until=freed) if a.note}
                case.note(f"said: {sorted(notes)[:4]}")
                back = await next_success(traffic, freed, seconds=60.0)
                case.bound("resumed by itself after", float("inf") if back is None else back, 30.0)
                await asyncio.sleep(5.0)
            await until_drained(nats, within=DRAIN_SECONDS)
            dead = await dead_letters(nats)
        verdict = audit(journal, folder / "data", dead)
    case.run = f"1 x full for 15 s, {journal.written} acknowledged"
    case.note(str(verdict))
    assert back is not None
    assert traffic.wrong == []
    assert verdict.faults == {}


async def next_success(traffic: Traffic, after: float, *, seconds: float) -> float | None:
    """Seconds to the next accepted write, or `None` where none came in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (back := traffic.attempts.next_success("write", after)) is not None:
            return back
        await asyncio.sleep(0.2)
    return None
