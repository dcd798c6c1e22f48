"""What compose.yaml and the Dockerfile say, run as plain processes: same entry points, environment, files and mounts.

Every container gets a folder as its root, in which its volumes are links. What it reaches by a name on the network
is on the loopback instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support.servers import ROOT, nats_binary, qdrant_binary

COMPOSE = ROOT / "compose"
PROGRAMS = {"python": sys.executable, "./qdrant": qdrant_binary(), "nats-server": nats_binary()}
FOREIGN_ENTRY = {"nats": ["nats-server"]}
"""Entry points of images that are not ours (their own Dockerfiles say so)."""
OWN_PATHS = re.compile(r"(?<![\w.:/])/(?=(?:run|var|etc|prometheus|models)\b)")
"""Where an absolute path of a container begins."""


@dataclass(frozen=True)
class Image:
    """What one target of the Dockerfile leaves to a container."""

    environ: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    user: str = ""


def images(text: str) -> dict[str, Image]:
    """The targets of a Dockerfile, each with what it inherits."""
    found: dict[str, Image] = {}
    name = ""
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            found[name] = found.get(parent, Image())
        elif word == "ENV":
            added = dict(part.split("=", 1) for part in shlex.split(rest))
            found[name] = _changed(found[name], environ={**found[name].environ, **added})
        elif word in ("ENTRYPOINT", "CMD"):
            found[name] = _changed(found[name], **{_FIELDS[word]: json.loads(rest)})
        elif word == "USER":
            found[name] = _changed(found[name], user=rest)
    return found


_FIELDS = {"ENTRYPOINT": "entrypoint", "CMD": "command"}


def _changed(image: Image, **fields: Any) -> Image:
    return Image(**{**vars(image), **fields})


def services(environ: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """The services of compose.yaml; variables are taken from `environ`, else they have their defaults."""
    read: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    return {name: _filled(said, environ or {}) for name, said in read.items()}


def _filled(value: Any, given: Mapping[str, str]) -> Any:
    """Every string with its `${NAME:-default}` in place, as compose does once the YAML is read."""
    if isinstance(value, dict):
        return {name: _filled(item, given) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, given) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda match: given.get(match[1]) or match[2] or "", value)


class Containers:
    """Processes in place of containers, all in `folder`. `names` maps `host:port` to where it really is."""

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self._folder = folder
        self._names = names
        self._services = services()
        self._images = images((COMPOSE / "Dockerfile").read_text())
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {"ours": [], "others": []}

    def volume(self, name: str) -> Path:
        """A named volume."""
        path = self._folder / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def root(self, instance: str) -> Path:
        """The root folder of a container."""
        return self._folder / "roots" / instance

    def complete(self, service: str) -> None:
        """Run a service that ends; it must end well."""
        process = self.start(service)
        assert process.wait(60) == 0, (self._folder / f"{service}.log").read_text()

    def start(
        self, service: str, instance: str | None = None, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a container's process. `environ` stands for what only a network of its own would make unnecessary."""
        said, root = self._services[service], self.root(instance or service)
        self._mount(said, root)
        image = self._images.get(said.get("build", {}).get("target") or _target(said["image"]), Image())
        entry = image.entrypoint or FOREIGN_ENTRY.get(service, [])
        words = [*entry, *(said.get("command") or image.command)]
        program, *arguments = [self._placed(str(word), root) for word in words]
        own = {**image.environ, **{name: str(value) for name, value in (said.get("environment") or {}).items()}}
        placed = {name: self._placed(value, root) for name, value in own.items() if name != "PATH"}
        with (self._folder / f"{instance or service}.log").open("ab") as log:
            process = subprocess.Popen(
                [PROGRAMS.get(program) or program, *arguments],
                env={**_inherited(), **placed, **(environ or {})},
                cwd=root, stdout=log, stderr=log,
            )  # fmt: skip
        self._running["ours" if str(said["image"]).startswith("engram-") else "others"].append(process)
        return process

    def stop(self) -> None:
        """End everything that still runs: as compose does, first what depends on others."""
        for processes in self._running.values():
            for process in processes:
                process.terminate()
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
                process.wait()

    def _mount(self, said: Mapping[str, Any], root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        for mount in said.get("volumes") or ():
            source, target = mount.split(":")[:2]
            real = (COMPOSE / source).resolve() if source.startswith(".") else self.volume(source)
            place = root / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                self._put(real, place, root)

    def _put(self, real: Path, place: Path, root: Path) -> None:
        """A volume as a link; a file of configuration as a copy that knows its place."""
        if real.is_file():
            place.write_text(self._placed(real.read_text(), root))
        else:
            place.symlink_to(real)

    def _placed(self, text: str, root: Path) -> str:
        moved = OWN_PATHS.sub(f"{root}/", text)
        for name, address in self._names.items():
            moved = moved.replace(name, address)
        return moved


def _target(image: str) -> str:
    return image.partition(":")[0].removeprefix("engram-")


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("ENGRAM_", "QDRANT_"))}


@contextlib.contextmanager
def containers(folder: Path, names: Mapping[str, str]) -> Iterator[Containers]:
    """Containers that are stopped with the context."""
    running = Containers(folder, names)
    try:
        yield running
    finally:
        running.stop()
