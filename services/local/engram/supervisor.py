"""Runs all of Engram on one machine: the broker and one process per service, from one preloaded parent.

What dies is started again. SIGTERM, SIGINT and SIGHUP drain: doors first, then the workers, the broker last.
"""

from __future__ import annotations

import fcntl
import gc
import http.client
import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from engram import broker
from engram.processes import Child, program
from engram.settings import Settings
from engram_contracts.errors import Conflict, Unavailable

ORDER = ("embedder", "embedder-query", "vectors", "graph", "reasoner", "metering", "recovery", "api")
"""Start order of the services; they stop the other way round."""

BEHIND = {"graph": 5, "metering": 5}
"""Followers that may lag under load give way to what clients wait for."""

PRELOADED = ("numpy", "engram_runtime.host", "engram_contracts.topology")
LOCK_SECONDS = 3.0
BROKER_SECONDS = 30.0
READY_SECONDS = 60.0
MOST_STARTS = 5
"""So often a process may be started before the system is ready."""
DRAIN_SECONDS = (16.0, 26.0, 29.0)
"""By when doors, workers and broker must have ended, counted from the signal; then they are killed."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (addresses to listen on, and where to reach them)
SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Tell = Callable[[str], None]


class Supervisor:
    """The parent process. `tell` gets one line for people at each event worth knowing."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self._settings = settings
        self._tell = tell
        self._data = settings.data_dir
        self._host = settings.serve.host
        self._port = settings.serve.port or broker.any_port()
        self._flags = _flags(settings, self._port)
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
            for step in (self._start_broker, _preload, self._provision, self._start_services, self._await_ready):
                if self._told is None:
                    step()
            if self._told is None:
                self._tell(f"ready on {self.url} after {time.monotonic() - began:.1f} s")
            while self._told is None:
                self._watch(1.0)
            self._tell("draining")
        finally:
            self._stop()

    @property
    def url(self) -> str:
        """Where the door is."""
        host = EVERYWHERE.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def _start_services(self) -> None:
        for name in ORDER:
            if name != "embedder-query" or self._settings.embedder.adapter == "fastembed":
                self._begin(Child(name, self._service(name), self._log(name), BEHIND.get(name, 0)))
        self._record()

    def _start_broker(self) -> None:
        if self._settings.nats_is_external:
            return
        folder = self._data / "nats"
        for port in broker.ports(folder):
            config = broker.configure(folder, port=port, durability=self._settings.durability)
            child = Child("nats", program(broker.binary(), "-c", str(config)), self._log("nats"))
            child.start()
            if self._listens(child, folder, port):
                self._children.append(child)
                self._flags["nats"] = {
                    **self._flags.get("nats", {}),
                    "url": f"nats://127.0.0.1:{port}",
                    "user": broker.USER,
                    "password": broker.password(folder),
                }
                return
        raise Unavailable(f"nats-server does not start; see {self._log('nats')}")

    def _listens(self, child: Child, folder: Path, port: int) -> bool:
        """Wait until the broker listens; it ends at once where another program was quicker to take the port."""
        deadline = time.monotonic() + BROKER_SECONDS
        while self._told is None and time.monotonic() < deadline and not broker.answers(folder, port):
            if os.waitpid(child.pid or 0, os.WNOHANG)[0]:
                return False
            self._watch(0.01)
        return True

    def _provision(self) -> None:
        """Streams, consumers, buckets and the first key, in a child of its own; waits for it."""
        flags, data = self._flags, self._data

        def body() -> None:
            importlib.import_module("engram.provisioning").run(flags, data)

        child = Child("provision", body, self._log("provision"))
        child.start()
        done, status = 0, 0
        while self._told is None and not done:
            self._watch(0.2)
            self._give_up_on_what_keeps_dying()
            done, status = os.waitpid(child.pid or 0, os.WNOHANG)
        if not done:
            _end([child], time.monotonic() + 1.0)
        elif code := os.waitstatus_to_exitcode(status):
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
            reason = _not_ready(EVERYWHERE.get(self._host, self._host), self._port)
            if reason is None:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"not ready: {reason}; see the logs in {self._data / 'logs'}")
            self._give_up_on_what_keeps_dying()
            self._watch(0.05)

    def _give_up_on_what_keeps_dying(self) -> None:
        for child in self._children:
            if child.starts > MOST_STARTS:
                raise Unavailable(f"{child.name} does not start; see {child.log}")

    def _watch(self, seconds: float) -> None:
        """Wait for a signal, then start again what died and is due."""
        pause = min([seconds, *(max(0.0, child.due - time.monotonic()) for child in self._children if not child.pid)])
        told = signal.sigtimedwait(_SIGNALS, pause)
        if told is not None and told.si_signo != signal.SIGCHLD:
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
        brokers = [child for child in self._children if child.name == "nats"]
        began = time.monotonic()
        for group, seconds in zip((doors, workers, brokers), DRAIN_SECONDS, strict=True):
            _end(group, began + seconds)
        (self._data / "run.json").unlink(missing_ok=True)


_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


def _flags(settings: Settings, port: int) -> dict[str, Any]:
    """What was set, for the children; secrets in it stay wrapped."""
    flags = settings.model_dump(exclude_unset=True)
    return {**flags, "serve": {**flags.get("serve", {}), "port": port}}


def _end(children: Sequence[Child], deadline: float) -> None:
    """SIGTERM, then SIGKILL to what is left at the deadline."""
    left = [child for child in children if child.pid]
    for child in left:
        child.tell(signal.SIGTERM)
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
    """The lock on the data directory; the children of a supervisor that was killed hold it until they have ended."""
    handle = file.open("w")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                where = str(file.parent)
                raise Conflict(f"another Engram runs on {where!r}; stop it or choose another --data-dir") from None
            time.sleep(0.05)
        else:
            return handle


def _not_ready(host: str, port: int) -> object | None:
    """Why the system is not ready, or `None` when it is."""
    connection = http.client.HTTPConnection(host, port, timeout=2.0)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read()
        return None if answer.status == http.HTTPStatus.OK else _failing(body)
    except (OSError, http.client.HTTPException) as error:
        return error
    finally:
        connection.close()


def _failing(body: bytes) -> object:
    """The checks that fail, from the door's answer."""
    try:
        envelope = json.loads(body)
        checks = (envelope.get("data") or envelope["error"]["details"])["checks"]
        return "; ".join(f"{name}: {check.get('detail')}" for name, check in checks.items() if not check.get("ok"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:200]
