"""The `engram` command against a running Engram: JSON for programs, exit codes, standard input, files read twice."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support.servers import ROOT
from support.system import System, embedded_system
from support.warm import warm_engram

CONVERSATION = str(ROOT / "examples" / "conversation.jsonl")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("command")) as running:
        yield running


def engram(system: System, *arguments: str | bytes, **how: Any) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    environ |= {"ENGRAM_DATA_DIR": str(system.data_dir), "ENGRAM_CONFIG": os.devnull}
    command = [warm_engram(), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False, **how)


def data(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_command_that_answers_answers_in_json(system):
    kept = data(engram(system, "remember", "Pavel moved to Ostend.", "--speaker", "Mara", "--json"))
    recalled = data(engram(system, "recall", "Where is Pavel?", "--limit", "1", "--json"))
    thought = data(engram(system, "think", "Where is Pavel?", "--json"))
    around = data(engram(system, "graph", "show", "person:Mara", "--json"))
    status = data(engram(system, "status", "--json"))
    usage = data(engram(system, "usage", "--json"))
    drifts = data(engram(system, "provision", "--json"))

    assert recalled["data"]["hits"][0]["memory"]["id"] == kept["id"]
    assert thought["citations"][0]["memory_id"] == kept["id"]
    assert "person:Mara" in {edge["source"] for edge in around["edges"]}
    assert {worker["service"] for worker in status["workers"]} == set(system.pids) - {"nats"}
    assert usage["totals"]["api_calls"] > 0
    assert drifts == []


def test_members_are_added_changed_listed_and_removed(system):
    added = data(engram(system, "members", "add", "auth0|7", "--role", "writer", "--user", "bob", "--json"))
    refused = engram(system, "members", "change", added["id"], "--role", "operator")
    changed = data(engram(system, "members", "change", added["id"], "--user", "ann", "--json"))
    listed = data(engram(system, "members", "list", "--json"))["members"]
    removed = engram(system, "members", "remove", added["id"])
    again = engram(system, "members", "remove", added["id"])

    assert (added["subject"], added["bounds"]) == ("auth0|7", {"user_ids": ["bob"]})
    assert (refused.returncode, "bound to users" in refused.stderr) == (2, True)
    assert listed == [changed] and changed["bounds"] == {"user_ids": ["ann"]}
    assert (removed.returncode, again.returncode, "auth0|7" in removed.stdout) == (0, 1, True)


def test_a_file_is_read_again_and_adds_nothing(system):
    first = data(engram(system, "ingest", CONVERSATION, "--wait", "--json"))
    before = facts(system)
    again = data(engram(system, "ingest", CONVERSATION, "--wait", "--json"))

    assert first == again == {"file": "conversation.jsonl", "memories": 126}
    assert facts(system) == before


def facts(system: System) -> int:
    command = [warm_engram(), "--data-dir", str(system.data_dir), "status", "--json"]
    streams = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"]
    return next(stream["messages"] for stream in streams if stream["name"] == "ENGRAM_LOG")


def test_text_may_come_from_standard_input(system):
    done = engram(system, "remember", "-", "--json", input="The studio is on Veldstraat.\n")

    assert data(done)["id"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["remember", ""], 2, "content: "),
        (["remember", b"caf\xe9"], 2, "not valid Unicode"),
        (["remember", "x", "--kind", "Not A Kind"], 2, "kind: "),
        (["graph", "show", "nonsense"], 2, "node: "),
        (["graph", "show", "person:Nobody"], 1, "person:Nobody"),
        (["--key", "eng_live_wrong", "recall", "x"], 1, "the key is missing or not accepted"),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(system, arguments, code, said):
    done = engram(system, *arguments)

    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_an_answer_and_events_are_shown_as_they_come(system):
    watching = subprocess.Popen(
        [warm_engram(), "watch", "--kind", "remembered", "--after", "0", "--count", "1", "--json"],
        env={**os.environ, "ENGRAM_DATA_DIR": str(system.data_dir), "ENGRAM_CONFIG": os.devnull},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    engram(system, "remember", "Juno is a greyhound.", "--user", "tom")
    shown, _ = watching.communicate(timeout=60)
    streamed = engram(system, "think", "What is Juno?", "--stream", "--json")
    plain = engram(system, "think", "What is Juno?", "--stream")

    first, event = map(json.loads, shown.splitlines())
    assert (first["event"], event["event"]) == ("open", "remembered")
    names = [json.loads(line)["event"] for line in streamed.stdout.splitlines()]
    assert names[0] == "accepted" and names[-3:] == ["citations", "usage", "done"] and "token" in names
    assert "greyhound" in plain.stdout and "[1]" in plain.stdout
