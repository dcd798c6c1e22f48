"""Child processes: how they are started, ended and started again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engram.processes import LOG_BYTES, LONGEST_BACKOFF, SETTLED, Child, program


def child_of(tmp_path: Path, *command: str) -> Child:
    return Child("test", program(command[0], *command[1:]), tmp_path / "logs" / "test.log")


def test_what_dies_young_waits_longer_each_time_up_to_a_bound(tmp_path):
    child = child_of(tmp_path, "/bin/true")
    child.started = time.monotonic()

    pauses = []
    for _ in range(10):
        child.died()
        pauses.append(child.backoff)

    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == LONGEST_BACKOFF


def test_what_everybody_waits_for_is_started_again_soon_however_often_it_dies(tmp_path):
    child = Child("test", program("/bin/true"), tmp_path / "test.log", longest=0.1)
    child.started = time.monotonic()

    for _ in range(10):
        child.died()

    assert child.backoff == 0.1


def test_what_lived_long_enough_is_started_again_at_once(tmp_path):
    child = child_of(tmp_path, "/bin/true")
    child.backoff = LONGEST_BACKOFF
    child.started = time.monotonic() - SETTLED - 1

    child.died()

    assert child.backoff == 0.0
    assert child.due <= time.monotonic()
    assert child.pid is None


# Forking belongs to a parent with one thread, as the supervisor is; a test process may have more. Each of these
# therefore runs in an interpreter of its own.

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from engram.processes import Child, program
def ended(child): return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
log = Path(sys.argv[1])
"""


def run(tmp_path: Path, body: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + body, str(tmp_path / "logs" / "test.log")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("body", "code"),
    [("pass", 0), ("sys.exit(3)", 3), ("sys.exit('words')", 1), ("1 / 0", 70), ("os.kill(os.getpid(), 9)", -9)],
)
def test_a_body_ends_in_its_own_exit_code_and_never_in_the_parents_code(tmp_path, body, code):
    out = run(
        tmp_path,
        f"def work(): {body}\nchild = Child('test', work, log)\nchild.start()\nprint('parent', ended(child))\n",
    )

    assert out == f"parent {code}"


def test_the_trace_of_a_failure_is_in_its_log(tmp_path):
    run(
        tmp_path,
        "def work(): raise ValueError('spilled')\nchild = Child('test', work, log)\nchild.start(); ended(child)",
    )

    assert "ValueError: spilled" in (tmp_path / "logs" / "test.log").read_text()


def test_a_program_takes_the_childs_place_and_hears_signals_that_the_parent_blocks(tmp_path):
    out = run(
        tmp_path,
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "child = Child('test', program('/bin/sleep', '30'), log)\n"
        "child.start(); child.tell(signal.SIGTERM); print(ended(child))",
    )

    assert out == str(-signal.SIGTERM)


def test_who_takes_the_place_of_another_has_loaded_before_that_one_ends(tmp_path):
    out = run(
        tmp_path,
        "told = Path(log).parent / 'told'\n"
        "def note(word):\n    with told.open('a') as file: file.write(word + ' ')\n"
        "def leave(*_): note('ends'); time.sleep(0.2); note('ended'); os._exit(0)\n"
        "def serve(): signal.signal(signal.SIGTERM, leave); note('serves'); time.sleep(30)\n"
        "def load(): time.sleep(0.2); note('loaded')\n"
        "old = Child('test', serve, log); old.start()\n"
        "while not told.exists(): time.sleep(0.01)\n"
        "new = Child('test', lambda: note('begins'), log, load); new.start(after=old.pid)\n"
        "while not old.ended(): time.sleep(0.01)\n"
        "ended(new); print(told.read_text())",
    )

    assert out.split() == ["serves", "loaded", "ends", "ended", "begins"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path):
    child = int(
        subprocess.run(
            [
                sys.executable,
                "-c",
                SCRIPT + "child = Child('test', program('/bin/sleep', '60'), log)\nchild.start()\n"
                "print(child.pid, flush=True); time.sleep(0.3); os.kill(os.getpid(), 9)",
                str(tmp_path / "test.log"),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        ).stdout
    )

    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not is_running(child)


def test_a_log_that_grew_is_kept_beside_a_new_one(tmp_path):
    log = tmp_path / "test.log"
    with log.open("wb") as file:
        file.truncate(LOG_BYTES + 1)

    code = subprocess.run(
        [sys.executable, "-c", "import sys; from pathlib import Path; from engram import processes\n"
         "processes.redirect(Path(sys.argv[1])); print('new')", str(log)],
        check=False, timeout=30,
    ).returncode  # fmt: skip

    assert code == 0
    assert log.read_text() == "new\n"
    assert log.with_suffix(".log.1").stat().st_size > LOG_BYTES


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
