"""Every command and every piece of code in the README, run against one Engram.

Fences marked `sh` and `python` run in their order, as a reader would paste them; shell variables live on from fence to
fence. An HTML comment above a fence says where it is run otherwise: `<!-- test: serve -->` starts a server, which is
awaited and stopped; `<!-- test: make -->` names targets, which have to be there and to run the right command.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from engram.settings import Settings
from engram_runtime.settings import _variables, load
from support import curl
from support.servers import ROOT
from support.system import System, embedded_system, stop
from support.warm import warm_engram

README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"(?:^<!-- test: (?P<how>\w+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
MAKE = {
    "demo": "bin/engram demo",
    "test": "bin/python -m pytest",
    "run": "bin/engram serve",
    "check": "bin/lint-imports --no-logo",
    "bench": "benchmarks.bench",
    "chaos": "tests/chaos/together.py",
}
"""What a target of the Makefile runs in the end."""


@dataclass(frozen=True)
class Fence:
    """One fence of the README; `how` is what the comment above it says."""

    line: int
    language: str
    how: str | None
    code: str

    @property
    def id(self) -> str:
        return f"line-{self.line}"


def fences() -> list[Fence]:
    return [
        Fence(README.count("\n", 0, found.start()) + 1, found["language"], found["how"], found["code"])
        for found in FENCE.finditer(README)
    ]


ALL = fences()
PASTED = [fence for fence in ALL if fence.language in ("sh", "python") and fence.how is None]
SERVERS = [fence for fence in ALL if fence.how == "serve"]
TARGETS = [name for fence in ALL if fence.how == "make" for name in re.findall(r"^make (\w+)", fence.code, re.M)]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("readme")) as running:
        yield running


@pytest.fixture(scope="module")
def results(system: System) -> dict[int, subprocess.CompletedProcess[str]]:
    """What became of each pasted fence, by its line."""
    environ = home_of(system)
    return {fence.line: paste(fence, system, environ) for fence in PASTED}


def home_of(system: System) -> dict[str, str]:
    """The environment of a user whose `~/.engram/data` is the system's, in whose shell `engram` is found."""
    home = system.data_dir.parent / "home"
    (home / ".engram").mkdir(parents=True)
    (home / ".engram" / "data").symlink_to(system.data_dir)
    places = [str(Path(warm_engram()).parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    if shutil.which("curl") is None:
        curl.install(home / "bin")
        places.append(str(home / "bin"))
    return clean_environ(home) | {"PATH": os.pathsep.join(places)}


def clean_environ(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    return {**kept, "HOME": str(home), "COLUMNS": "200"}


def paste(fence: Fence, system: System, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = fence.code.replace("http://127.0.0.1:8765", system.url)
    if fence.language == "python":
        command = [sys.executable, "-c", code]
    else:
        state = system.data_dir.parent / "shell-state"
        state.touch()
        command = ["sh", "-euc", f". {state}\nset -a\n{code}\nexport -p > {state}\n"]
    try:
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired as late:
        said = [
            (text or b"").decode() if isinstance(text, bytes) else text or "" for text in (late.stdout, late.stderr)
        ]
        return subprocess.CompletedProcess(command, 124, said[0], f"{said[1]}\ntoo late\n{system.logs()}")


@pytest.mark.parametrize("fence", PASTED, ids=lambda fence: fence.id)
def test_what_can_be_pasted_works(fence: Fence, results: dict[int, subprocess.CompletedProcess[str]]) -> None:
    done = results[fence.line]

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"error":{' not in done.stdout, done.stdout
    assert fence.code.count("curl ") == 0 or "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ("where does Joel live?", "Joel moved from Antwerp to Ghent."),
        ("What should nobody cook", '"mode":"extractive"'),
        ("jobs/$JOB", '"stage":"accepted"'),
        ("/history", "The kiln is broken."),
        ("/v1/graph/path", '"lives_in"'),
        ("/v1/usage", '"api_calls"'),
        ("engram recall", "The ferry to Ostend leaves at nine."),
        ("engram provision", "everything is as declared"),
        ("engram ingest", "accepted 126 memories from conversation.jsonl"),
    ],
)
def test_what_is_pasted_shows_what_the_readme_says(part, shown, results):
    fence = next(fence for fence in PASTED if part in fence.code)

    assert shown in results[fence.line].stdout


def test_what_is_published_to_nats_is_remembered(results, system):
    command = [warm_engram(), "--data-dir", str(system.data_dir), "recall", "kilos of clay on the scale"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "The scale in the studio reads 198 kilos of clay." in found.stdout


@pytest.mark.parametrize("fence", SERVERS, ids=lambda fence: fence.id)
def test_what_starts_a_server_starts_one_that_stops_cleanly(fence: Fence, tmp_path: Path) -> None:
    *before, last = [planned(line) for line in fence.code.strip().splitlines()]
    code = "\n".join([*before, f"exec {last}"]).replace("/tmp/engram-readme", str(tmp_path / "data"))
    code = re.sub(r"--port \d+", "--port 0", code)
    environ = clean_environ(tmp_path) | {"ENGRAM_SERVE_PORT": "0"}

    process = subprocess.Popen(["sh", "-euc", code], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if ": ready on " in line:
            break

    assert said and "ready on http://127.0.0.1:" in said[-1], "".join(said)
    assert stop(process) == 0


def planned(line: str) -> str:
    """The command itself, where a line is `make <target>`: what make would run in the end."""
    target = re.fullmatch(r"make (\w+)", line.strip())
    return would_run(target[1]) if target else line


def would_run(target: str) -> str:
    done = subprocess.run(["make", "-n", "-s", target], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("target", TARGETS)
def test_what_make_is_asked_for_is_there(target: str) -> None:
    assert MAKE[target] in would_run(target)


def test_no_fence_is_passed_over() -> None:
    known = {"": None, "yaml": None, "sh": "sh", "python": "python"}

    assert {fence.language for fence in ALL} <= known.keys()
    assert {fence.how for fence in ALL} == {None, "serve", "make"}
    assert README.count("```") == 2 * len(ALL)
    assert [fence for fence in ALL if fence.how and fence.language != "sh"] == []


def test_the_yaml_is_a_configuration(tmp_path: Path) -> None:
    for fence in (fence for fence in ALL if fence.language == "yaml"):
        config = tmp_path / "config.yaml"
        config.write_text(fence.code)
        found = load(Settings, environ={"OPENAI_API_KEY": "sk-1"}, config=config)

        assert set(yaml.safe_load(fence.code)) <= found.model_fields_set


def test_every_variable_it_names_is_known() -> None:
    settings = {*_variables(Settings), "ENGRAM_URL", "ENGRAM_API_KEY"}
    rows = [row for row in README.splitlines() if row.startswith("| `ENGRAM_")]

    named = {name for name in re.findall(r"ENGRAM_[A-Z_]+[A-Z]", README) if name != "ENGRAM_"}
    for row in rows:
        section = row[3:].partition("`")[0].rpartition("_")[0]
        named |= {section + suffix for suffix in re.findall(r"`(_[A-Z_]+)`", row)}

    assert rows
    assert named <= settings
