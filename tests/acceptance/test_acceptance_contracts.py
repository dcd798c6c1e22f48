"""Another system speaks to a running Engram with nothing but what `engram contracts export` wrote, over NATS."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_rs
import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from support.system import System

LAST = ("Forget", "DropEdge", "DropNode", "Replay", "Erase")
"""Commands that take away what the others are about."""
SETTLED_SECONDS = 30.0


@dataclass
class Files:
    """What was exported."""

    folder: Path
    document: dict[str, Any]
    validators: dict[str, Any] = field(default_factory=dict)

    def example(self, name: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.folder / "examples" / f"{name}.json").read_text())
        return read

    def check(self, name: str, payload: bytes) -> None:
        """The payload is what the message's schema says."""
        if name not in self.validators:
            schema = json.loads((self.folder / "schemas" / f"{name}.json").read_text())
            self.validators[name] = jsonschema_rs.validator_for(schema)
        wrong = [error.message[:200] for error in self.validators[name].iter_errors(json.loads(payload))]
        assert wrong == [], name

    def named(self, subject: str) -> str:
        """The message that goes over a subject."""
        for channel in self.document["channels"].values():
            if channel["address"] and covers(channel["address"], subject):
                return str(next(iter(channel["messages"])))
        raise AssertionError(f"no channel has the address of {subject}")

    def operations(self, prefix: str, action: str) -> list[str]:
        """Names of the operations on channels that begin so."""
        return [
            name
            for name, operation in self.document["operations"].items()
            if operation["action"] == action and operation["channel"]["$ref"].startswith(f"#/channels/{prefix}.")
        ]


def covers(address: str, subject: str) -> bool:
    parts = address.split("."), subject.split(".")
    return len(parts[0]) == len(parts[1]) and all(a.startswith("{") or a == b for a, b in zip(*parts, strict=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder: Path = tmp_path_factory.mktemp("exported")
    command = [str(Path(sys.executable).with_name("engram")), "contracts", "export", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return Files(folder, json.loads((folder / "asyncapi.json").read_text()))


@pytest.fixture(scope="module")
async def broker(shared_system: System) -> AsyncIterator[Client]:
    known, secret = shared_system.nats, shared_system.nats.password
    assert secret is not None
    client = await nats.connect(known.url, user=known.user, password=secret.get_secret_value())
    yield client
    await client.close()


@dataclass
class Course:
    """What came of it: all that Engram said meanwhile, and its answers by the name of the question."""

    heard: list[Msg] = field(default_factory=list)
    answers: dict[str, Msg] = field(default_factory=dict)


@pytest.fixture(scope="module")
async def course(broker: Client, files: Files) -> Course:
    """The example of every command is published and worked off; in between, that of every question is asked."""
    course = Course()

    async def hear(message: Msg) -> None:
        course.heard.append(message)

    for subjects in ("engram.event.>", "engram.log.>", "engram.usage.>"):
        await broker.subscribe(subjects, cb=hear)
    commands = files.operations("work", "receive")
    assert set(LAST) < set(commands)
    for name in [name for name in commands if name not in LAST]:
        await publish(broker, files, name)
    for name in files.operations("rpc", "receive"):
        shown = files.example(name)
        body = json.dumps(shown["payload"]).encode()
        course.answers[name] = await broker.request(shown["subject"], body, timeout=30.0)
    for name in LAST:
        await publish(broker, files, name)
    return course


async def publish(broker: Client, files: Files, name: str) -> None:
    shown = files.example(name)
    payload = json.dumps(shown["payload"]).encode()
    acknowledged = await broker.jetstream().publish(shown["subject"], payload, headers=shown["headers"])
    assert acknowledged.stream == stream_of(files, shown["subject"]) and not acknowledged.duplicate, name
    await worked_off(broker, name)


def stream_of(files: Files, subject: str) -> str:
    name = files.named(subject)
    channel = files.document["operations"][name]["channel"]["$ref"].rpartition("/")[2]
    return str(files.document["channels"][channel]["x-jetstream-stream"]["name"])


async def worked_off(broker: Client, name: str) -> None:
    """Wait until no command is left on its stream."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while (await broker.jetstream().stream_info("ENGRAM_WORK")).state.messages:
        assert time.monotonic() < deadline, f"{name} is still there"
        await asyncio.sleep(0.02)


async def stored(broker: Client, stream: str) -> list[Msg]:
    """All messages of a stream."""
    jetstream = broker.jetstream()
    every = (await jetstream.stream_info(stream)).state
    found = []
    for sequence in range(max(every.first_seq, 1), every.last_seq + 1):
        try:
            kept = await jetstream.get_msg(stream, sequence)
        except NotFoundError:
            continue
        found.append(Msg(broker, subject=kept.subject or "", data=kept.data or b"", headers=kept.headers))
    return found


async def test_every_command_is_taken_and_has_its_effect(broker: Client, files: Files, course: Course) -> None:
    every = await stored(broker, "ENGRAM_DEAD")
    dead = [letter for letter in every if letter.subject.endswith(".default")]  # whose the examples are

    required = files.document["components"]["messages"]["DeadLetter"]["headers"]["required"]
    assert all(set(required) <= (letter.headers or {}).keys() for letter in dead)
    assert [(letter.headers or {})["Engram-Dead-Reason"] for letter in dead] == []


async def test_what_engram_says_is_what_the_files_say(files: Files, course: Course) -> None:
    kinds = set()

    for message in course.heard:
        kinds.add(name := files.named(message.subject))
        files.check(name, message.data)

    assert kinds >= {"Progress", "Remembered", "Revised", "Judged", "NodePut", "EdgePut", "Thought", "Forgotten"}


async def test_every_question_is_answered_or_refused_as_documented(files: Files, course: Course) -> None:
    refused = {}
    for name, answer in course.answers.items():
        documented = files.document["operations"][name]["reply"]["messages"]
        reply, failure = (one["$ref"].rpartition("/")[2] for one in documented)
        failed = "Engram-Failed" in (answer.headers or {})
        files.check(failure if failed else reply, answer.data)
        if failed:
            refused[name] = json.loads(answer.data)

    known = {"NOT_FOUND", "INVALID_REQUEST", "CONFLICT"}
    assert {name: told for name, told in refused.items() if told["code"] not in known} == {}
    assert len(refused) < len(course.answers) / 3, refused


async def test_the_consumers_the_files_name_are_there(broker: Client, files: Files) -> None:
    for operation in files.document["operations"].values():
        for consumer in operation.get("x-jetstream-consumers", ()):
            channel = files.document["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
            info = await broker.jetstream().consumer_info(channel["x-jetstream-stream"]["name"], consumer["durable"])
            assert info.config.max_ack_pending == consumer["max_ack_pending"]
