"""The short slice: its files side by side, each in a process of its own, because most of their time is waiting."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
ROLLING = "test_chaos_neighbours.py::test_rolling_restart_under_load"
FLOOD = "test_chaos_neighbours.py::test_a_tenant_that_floods_leaves_the_others_alone"
GROUPS = (
    ("test_chaos_poison.py", FLOOD),
    ("test_chaos_kills.py", "test_chaos_disk.py", ROLLING),
    ("test_chaos_dependencies.py",),
)


def main() -> int:
    """Run all groups with one seed, show their lines as they come; 0 when all passed."""
    seed = os.environ.get("CHAOS_SEED") or str(random.SystemRandom().randrange(1_000_000))
    environ = {**os.environ, "CHAOS_SEED": seed}
    sys.stdout.write(f"chaos: seed {seed}; CHAOS_SEED={seed} make chaos repeats this schedule\n")
    began = time.monotonic()
    running = [_start(files, environ) for files in GROUPS]
    showing = [threading.Thread(target=_show, args=(process,)) for process in running]
    for thread in showing:
        thread.start()
    codes = [process.wait() for process in running]
    for thread in showing:
        thread.join()
    words = "all passed" if not any(codes) else f"failed; CHAOS_SEED={seed} make chaos repeats this schedule"
    sys.stdout.write(f"chaos: {words}, after {time.monotonic() - began:.0f} s\n")
    return max(codes)


def _start(files: tuple[str, ...], environ: dict[str, str]) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "pytest", "-s", "-m", "chaos", "-rs", "-p", "no:cacheprovider")
    paths = [str(HERE / name) for name in files]
    return subprocess.Popen(
        [*command, *paths, *sys.argv[1:]], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _show(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
