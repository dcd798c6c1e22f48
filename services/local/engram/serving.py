"""`engram serve`: settings, the supervisor, and the first key, shown once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.door import running
from engram.provisioning import FIRST_KEY
from engram.settings import Settings
from engram.supervisor import Supervisor
from engram.terminal import Tell
from engram_contracts.errors import Unavailable
from engram_runtime.settings import load

RESTART_SECONDS = 300.0
LOOK_SECONDS = 0.05


def serve(flags: Mapping[str, Any], config: Path | None, tell: Tell) -> None:
    """Run until SIGTERM or SIGINT."""
    if config is not None:
        os.environ["ENGRAM_CONFIG"] = str(config)
    settings = load(Settings, flags=flags, environ=os.environ, config=config)
    key_file = settings.data_dir / FIRST_KEY

    def told(line: str, **about: str) -> None:
        tell(line, **about)
        if key_file.exists():
            tell(f"admin key of tenant default (shown once; also in {settings.data_dir / 'admin.key'}):")
            tell(key := key_file.read_text(), admin_key=key)
            key_file.unlink()

    tell(f"starting; data and logs in {settings.data_dir}")
    Supervisor(settings, told).run()


def restart(data_dir: Path, tell: Tell) -> None:
    """Have the Engram on this data directory start every process anew; returns when that is done.

    Raises `Unavailable` when none runs there, or a process did not become ready again.
    """
    before = running(data_dir)
    if not before:
        raise Unavailable(f"no Engram runs on {str(data_dir)!r}; start it with `engram serve`")
    try:
        os.kill(before["pid"], signal.SIGUSR1)
    except ProcessLookupError:
        raise Unavailable(f"the Engram on {str(data_dir)!r} has ended; start it with `engram serve`") from None
    shown = before
    deadline = time.monotonic() + RESTART_SECONDS
    while (now := running(data_dir))["restarts"]["count"] == before["restarts"]["count"]:
        if time.monotonic() > deadline:
            raise Unavailable(f"not done after {RESTART_SECONDS:g} s; see the logs in {str(data_dir / 'logs')!r}")
        time.sleep(LOOK_SECONDS)
        shown = _told_changes(shown, now, tell)
    _told_changes(shown, now, tell)
    if failed := now["restarts"]["failed"]:
        raise Unavailable(f"{failed} did not become ready again; see {data_dir / 'logs' / failed!s}.log")


def _told_changes(shown: Mapping[str, Any], now: dict[str, Any], tell: Tell) -> dict[str, Any]:
    if not now:
        raise Unavailable("Engram was stopped meanwhile")
    for name, process in now["processes"].items():
        if process is not None and process != shown["processes"].get(name):
            tell(f"{name} runs anew as {process}")
    return now
