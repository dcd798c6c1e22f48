"""Child processes of the supervisor: forked from one preloaded parent, ended with it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SETTLED = 5.0
LONGEST_BACKOFF = 5.0
LOOK_SECONDS = 0.005
LOG_BYTES = 20 * 1024 * 1024
PR_SET_PDEATHSIG = 1

Body = Callable[[], None]


@dataclass
class Child:
    """One process that is to run: what it does, and how it has fared.

    `load` is what it can do before the one whose place it takes has ended. `starts` counts how often it was started;
    one that dies within `SETTLED` seconds is started again after a pause that doubles, up to `longest`.
    """

    name: str
    body: Body
    log: Path
    load: Body = lambda: None
    longest: float = LONGEST_BACKOFF
    pid: int | None = None
    starts: int = 0
    backoff: float = 0.0
    started: float = 0.0
    due: float = field(default=0.0)

    def start(self, *, after: int | None = None) -> None:
        """Fork it. The parent must have a single thread.

        Where it takes the place of another process (`after`), it ends that one when all is loaded, and then begins.
        """
        self.starts += 1
        self.started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._become(after)
        self.pid = pid

    def _become(self, after: int | None) -> None:
        """The child's side: ends in `os._exit`, whatever happens."""
        code = 70
        try:
            os.setpgid(0, 0)  # Ctrl-C in a terminal tells the supervisor alone, which drains in order
            end_with_parent()
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            redirect(self.log)
            self.load()
            if after is not None:
                _end(after)
            self.body()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def died(self) -> None:
        """Note that it ended, and when it is to be started again."""
        lived = time.monotonic() - self.started
        self.pid = None
        self.backoff = 0.0 if lived > SETTLED else min(max(0.1, 2 * self.backoff), self.longest)
        self.due = time.monotonic() + self.backoff

    def ended(self) -> bool:
        """Whether it does not run; from then on it has no id."""
        if self.pid is not None and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = None
        return self.pid is None

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.pid is not None:
            os.kill(self.pid, number)


def _end(pid: int) -> None:
    """Tell a process to end, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while True:
            os.kill(pid, 0)
            time.sleep(LOOK_SECONDS)


def end_with_parent() -> None:
    """Ask Linux to send SIGTERM when the parent dies, so that no orphan holds a store's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def redirect(log: Path) -> None:
    """Send this process's output to a file; one that grew past 20 MiB is kept as `.1` and begun anew."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(log.suffix + ".1"))
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def last_words(log: Path) -> str:
    """The event that a process logged last, or the line as it is where it was none."""
    line = (log.read_text(errors="replace").splitlines() or ["nothing was said"])[-1]
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return line.strip()


def program(path: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Body:
    """A body that becomes another program."""

    def become() -> None:
        os.execve(path, [path, *arguments], dict(environ or os.environ))  # noqa: S606 (our own broker, no shell)

    return become
