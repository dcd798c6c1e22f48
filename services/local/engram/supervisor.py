"""Runs all of Engram on one machine: the broker and one process per service, from one preloaded parent.

What dies is started again. SIGTERM and SIGINT drain: doors first, then the workers, the broker last.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from engram import broker
from engram.processes import Child, program
from engram.settings import Settings
from engram_contracts.errors import Conflict, Unavailable

ORDER = ("embedder", "embedder-query", "vectors", "graph", "reasoner", "metering", "api")
"""Start order of the services; they stop the other way round."""

BEHIND = {"graph": 5, "metering": 5}
"""Followers that may lag under load give way to what clients wait for."""

PRELOADED = ("numpy", "engram_runtime.host", "engram_contracts.topology")
READY_SECONDS = 60.0
DRAIN_SECONDS = 25.0
SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Tell = Callable[[str], None]


class Supervisor:
    """The parent process. `tell` gets one line for people at each event worth knowing."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self._settings = settings
        self._tell = tell
        self._data = settings.data_dir
        self._flags = settings.model_dump(mode="json", exclude_unset=True)
        self._children: list[Child] = []
        self._lock: IO[str] | None = None
        self._told: signal.Signals | None = None

    def run(self) -> None:
        """Start everything, keep it running until told to stop, then drain."""
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(self._data / "lock")
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        began = time.monotonic()
        try:
            self._start()
            self._await_ready()
            self._tell(f"ready on {self.url} after {time.monotonic() - began:.1f} s")
            while self._told is None:
                self._watch(1.0)
            self._tell("draining")
        finally:
            self._stop()

    @property
    def url(self) -> str:
        """Where the door is."""
        return f"http://{self._settings.serve.host}:{self._settings.serve.port}"

    def _start(self) -> None:
        if not self._settings.nats_is_external:
            self._start_broker()
        _preload()
        self._provision()
        for name in ORDER:
            if name != "embedder-query" or self._settings.embedder.adapter == "fastembed":
                self._begin(Child(name, self._service(name), self._log(name), BEHIND.get(name, 0)))
        self._record()

    def _start_broker(self) -> None:
        folder = self._data / "nats"
        port = broker.pick_port(folder)
        config = broker.configure(folder, port=port, durability=self._settings.durability)
        self._flags["nats"] = {
            **self._flags.get("nats", {}),
            "url": f"nats://127.0.0.1:{port}",
            "user": broker.USER,
            "password": broker.password(folder),
        }
        self._begin(Child("nats", program(broker.binary(), "-c", str(config)), self._log("nats")))

    def _provision(self) -> None:
        """Streams, consumers, buckets and the first key, in a child of its own; waits for it."""
        flags, data = self._flags, self._data

        def body() -> None:
            importlib.import_module("engram.provisioning").run(flags, data)

        child = Child("provision", body, self._log("provision"))
        child.start()
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid or 0, 0)[1])
        if code != 0:
            raise Unavailable(f"provisioning failed with {code}; see {child.log}")

    def _service(self, name: str) -> Callable[[], None]:
        service, _, role = name.partition("-")
        split = self._settings.embedder.adapter == "fastembed" and service == "embedder"
        flags = (
            {**self._flags, "embedder": {**self._flags.get("embedder", {}), "role": role or "work"}} if split else {}
        )

        def body() -> None:
            host = importlib.import_module("engram_runtime.host")
            package = f"engram_{service}"
            opener = importlib.import_module(f"{package}.service").open_service
            kind = importlib.import_module(f"{package}.settings").Settings
            host.run(service, opener, kind, flags or self._flags)

        return body

    def _begin(self, child: Child) -> None:
        child.start()
        self._children.append(child)

    def _log(self, name: str) -> Path:
        return self._data / "logs" / f"{name}.log"

    def _record(self) -> None:
        """Tell other commands on this machine where everything is."""
        state = {
            "pid": os.getpid(),
            "url": self.url,
            "nats": self._flags.get("nats", {}).get("url"),
            "processes": {child.name: child.pid for child in self._children},
        }
        file = self._data / "run.json"
        part = file.with_suffix(".part")
        part.write_text(json.dumps(state))
        part.replace(file)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        reason: object = "no answer"
        while self._told is None:
            reason = _not_ready(f"{self.url}/health/ready")
            if reason is None:
                return
            if time.monotonic() > deadline or any(child.starts > 5 for child in self._children):
                raise Unavailable(f"not ready: {reason}; see the logs in {self._data / 'logs'}")
            self._watch(0.05)

    def _watch(self, seconds: float) -> None:
        """Wait for a signal, then start again what died and is due."""
        pause = min([seconds, *(max(0.0, child.due - time.monotonic()) for child in self._children if not child.pid)])
        told = signal.sigtimedwait(_SIGNALS, pause)
        if told is not None and told.si_signo in (signal.SIGTERM, signal.SIGINT):
            self._told = signal.Signals(told.si_signo)
            return
        self._reap()
        for child in self._children:
            if child.pid is None and time.monotonic() >= child.due:
                child.start()
                self._tell(f"{child.name} is started again")
                self._record()

    def _reap(self) -> None:
        running = {child.pid: child for child in self._children if child.pid}
        for pid, child in running.items():
            done, status = os.waitpid(pid or 0, os.WNOHANG)
            if done:
                child.died()
                self._tell(f"{child.name} ended with {os.waitstatus_to_exitcode(status)}; see {child.log}")

    def _stop(self) -> None:
        services = [child for child in self._children if child.name != "nats"]
        doors = [child for child in services if child.name == "api"]
        workers = [child for child in services if child.name != "api"]
        for group in (doors, workers, [child for child in self._children if child.name == "nats"]):
            _end(group, DRAIN_SECONDS)
        (self._data / "run.json").unlink(missing_ok=True)


_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def _end(children: Iterable[Child], seconds: float) -> None:
    """SIGTERM, then SIGKILL to what is left after so many seconds."""
    left = [child for child in children if child.pid]
    for child in left:
        child.tell(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while left:
        left = [child for child in left if os.waitpid(child.pid or 0, os.WNOHANG)[0] == 0]
        if time.monotonic() > deadline:
            for child in left:
                child.tell(signal.SIGKILL)
                os.waitpid(child.pid or 0, 0)
            return
        time.sleep(0.01)


def _preload() -> None:
    """Import once what every child needs; they share the pages. Threads would not survive the fork."""
    for name in SINGLE_THREADED:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _lock(file: Path) -> IO[str]:
    handle = file.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Conflict(f"another Engram runs on {str(file.parent)!r}; stop it or choose another --data-dir") from None
    return handle


def _not_ready(url: str) -> object | None:
    """Why the system is not ready, or `None` when it is."""
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:  # noqa: S310 (our own door, http)
            answer.read()
        return None
    except urllib.error.HTTPError as error:
        return _failing(error.read())
    except OSError as error:
        return error


def _failing(body: bytes) -> Any:
    try:
        checks = json.loads(body)["checks"]
        return {name: check for name, check in checks.items() if not check.get("ok")}
    except (ValueError, KeyError, AttributeError):
        return body[:200]
