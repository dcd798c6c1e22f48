"""The `engram` command for tests that call it many times: each call is a fork of a process that has imported it before.

The same `main` runs with the caller's arguments, environment, folder and standard streams, and its exit code comes
back; only a second or two of imports are saved for each call. `python -m support.warm SOCKET` is that process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.servers import ROOT

PRELOADED = (
    "engram.cli", "engram.door", "engram.operating", "engram.verifying", "engram.admitting", "engram.trails",
    "engram.ingest", "engram.reading", "engram.rates", "engram.serving", "engram_contracts.export",
    "engram_recovery.signing", "rich.console", "rich.live", "rich.progress", "rich.table", "uvloop",
)  # fmt: skip
CLIENT = """#!{python} -IS
import json, os, socket, sys
said = json.dumps({{"arguments": sys.argv[1:], "folder": os.getcwd(), "environ": dict(os.environ)}}).encode()
with socket.socket(socket.AF_UNIX) as calling:
    calling.connect({place!r})
    socket.send_fds(calling, [len(said).to_bytes(4, "big")], [0, 1, 2])
    calling.sendall(said)
    code = calling.recv(1)
sys.exit(code[0] if code else 1)
"""


@functools.cache
def warm_engram() -> str:
    """A program that is `engram`, for as long as this process lives; its folder is fit for PATH."""
    folder = Path(tempfile.mkdtemp(prefix="engram-warm-"))
    place = str(folder / "socket")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "support.warm", place]
    server = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(_end, server, folder)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    program = folder / "bin" / "engram"
    program.parent.mkdir()
    program.write_text(CLIENT.format(python=sys.executable, place=place))
    program.chmod(0o700)
    return str(program)


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    server.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def serve(place: str) -> None:
    """Run a command for each that calls, until standard input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen(64)
        os.write(1, b"ready\n")
        for calling in _calls(listening):
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listening.close()
                _answer(calling)
            calling.close()


def _calls(listening: socket.socket) -> Iterator[socket.socket]:
    while True:
        ready, _, _ = select.select([listening, 0], [], [])
        if 0 in ready:
            return
        yield listening.accept()[0]


def _answer(calling: socket.socket) -> None:
    """Have a child do it, and tell its exit code; who hangs up ends it."""
    size, streams, _, _ = socket.recv_fds(calling, 4, 3)
    with calling.makefile("rb") as coming:
        said = json.loads(coming.read(int.from_bytes(size, "big")))
    child = os.fork()
    if child == 0:
        calling.close()
        _become(said, streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, calling], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        calling.sendall(bytes([abs(os.waitstatus_to_exitcode(status))]))
    os._exit(0)


def _become(said: dict[str, Any], streams: list[int]) -> None:
    """Be the command, in place of this process."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(said["folder"])
    os.environ.clear()
    os.environ.update(said["environ"])
    time.tzset()
    sys.argv = ["engram", *said["arguments"]]
    sys.modules["__main__"].__package__ = ""  # else usage errors speak of this module
    code = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run() -> int:
    from engram.cli import main  # noqa: PLC0415 (only the server has it)

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
