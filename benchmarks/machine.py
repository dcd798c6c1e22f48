"""The machine and the processes on it, as /proc tells: what a figure was measured on, and what it cost."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from support.servers import nats_binary

TICKS = os.sysconf("SC_CLK_TCK")
PARTS = ("aiohttp", "duckdb", "faststream", "nats-py", "pydantic", "qdrant-edge-py", "wordllama")
FSYNCS = 50


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of processes in MiB by name: `rss` counts shared pages in each of them, `pss` a share of them."""

    rss: dict[str, float]
    pss: dict[str, float]


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds over a stretch of time: by process, and by everything else on the machine."""

    seconds: float
    by_process: dict[str, float]
    elsewhere: float

    @property
    def elsewhere_cores(self) -> float:
        """How many cores other programs kept busy meanwhile."""
        return self.elsewhere / self.seconds

    def each_ms(self, count: int) -> dict[str, float]:
        """Milliseconds for each of so many things done, by process."""
        return {name: 1_000 * used / count for name, used in self.by_process.items()}


class Stopwatch:
    """Tells what some processes spent since it was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._began = time.monotonic()
        self._busy = _busy_seconds()
        self._before = {name: _cpu(pid) for name, pid in self._pids.items()}

    def stop(self, **known: float) -> Spent:
        """What was spent; `known` adds the seconds of processes that told their own."""
        used = {name: _cpu(pid) - self._before[name] for name, pid in self._pids.items()} | known
        busy = _busy_seconds() - self._busy
        return Spent(time.monotonic() - self._began, used, max(0.0, busy - sum(used.values())))


def footprint(pids: Mapping[str, int]) -> Footprint:
    """What the processes hold in memory now."""
    rolls = {name: _rollup(pid) for name, pid in pids.items()}
    return Footprint(
        {name: roll.get("Rss", 0.0) for name, roll in rolls.items()},
        {name: roll.get("Pss", 0.0) for name, roll in rolls.items()},
    )


def describe(folder: Path) -> dict[str, str]:
    """The machine in words that fit any report; `folder` lies on the disk whose fsync is timed."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / 2**30
    broker = subprocess.run([nats_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "cores": f"{len(os.sched_getaffinity(0))} ({_processor()})",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk, 4 KiB write with fsync, median": f"{_fsync_ms(folder):.2f} ms",
        "Python": platform.python_version(),
        "nats-server": broker.split()[-1],
        **{part: version(part) for part in PARTS},
    }


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _busy_seconds() -> float:
    """Processor time of the whole machine, waiting and idling aside."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / TICKS


def _rollup(pid: int) -> dict[str, float]:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return {}
    return {name: int(kib) / 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _fsync_ms(folder: Path) -> float:
    handle = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT)
    try:
        return statistics.median(_one_fsync(handle) for _ in range(FSYNCS))
    finally:
        os.close(handle)


def _one_fsync(handle: int) -> float:
    began = time.perf_counter()
    os.write(handle, b"\0" * 4096)
    os.fsync(handle)
    return 1_000 * (time.perf_counter() - began)
