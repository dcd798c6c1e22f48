"""What is made from the OpenAPI document alone, good and bad, sent to a running Engram as every role and as nobody.

1,000 requests, the same each time; `SCHEMATHESIS_CASES` asks for another number of new ones (`make fuzz`: 10,000).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, get_args
from urllib.parse import quote

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from engram_api.access import OPEN
from engram_api.routes import OPERATIONS, Operation
from engram_runtime.keys import Role
from support.system import System

CASES = int(os.environ.get("SCHEMATHESIS_CASES", "1000"))
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass
class Subject:
    """A running Engram with some things in it. `known` holds ids that are there, by path; `roles` the keys."""

    system: System
    roles: dict[str, str]
    schema: Any
    known: dict[str, list[str]]
    session: requests.Session = field(default_factory=requests.Session)
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)


@pytest.fixture(scope="module")
async def subject(shared_system: System) -> Subject:
    roles: dict[str, str] = {role: await shared_system.new_key("default", role) for role in get_args(Role)}
    with httpx.Client(base_url=shared_system.url, headers=shared_system.headers) as door:
        made = door.post("/v1/keys", json={"name": "bound", "role": "writer", "user_ids": ["ann"]})
    roles["bound"] = made.json()["data"]["key"]
    keys = {**roles, "system": (shared_system.data_dir / "system.key").read_text().strip(), "nobody": ""}
    schema = schemathesis.openapi.from_url(f"{shared_system.url}/openapi.json")
    return Subject(shared_system, keys, schema, known_things(shared_system))


def known_things(system: System) -> dict[str, list[str]]:
    """Memories, nodes and jobs that are there."""
    with httpx.Client(base_url=system.url, headers=system.headers, timeout=30.0) as door:
        kept = [
            door.post("/v1/memories?wait=indexed", json={"content": f"Joel told Mara of Ghent, {n}."}).json()["data"]
            for n in range(8)
        ]
    return {
        "/v1/memories/{id}": [one["id"] for one in kept],
        "/v1/jobs/{id}": [one["job"] for one in kept],
        "/v1/graph/nodes/{id}": ["name:Ghent", "name:Mara", "name:Joel"],
    }


def test_no_request_made_from_the_document_breaks_a_promise_of_it(subject: Subject) -> None:
    tried = [one for one in OPERATIONS if one.answer is not None]
    each = -(-CASES // len(tried) // len(subject.roles))

    for operation in tried:
        explore(subject, operation, each)

    assert sum(subject.seen.values()) >= CASES
    assert not {seen: times for seen, times in subject.seen.items() if seen[1] >= 500}


def explore(subject: Subject, operation: Operation, each: int) -> None:
    """Send what the document lets one expect of an operation, and what it forbids, as everyone."""
    asked = subject.schema[operation.path][operation.method]
    cases = asked.as_strategy(GenerationMode.POSITIVE) | asked.as_strategy(GenerationMode.NEGATIVE)
    there = st.sampled_from([None, *subject.known.get(operation.path.removesuffix("/history"), ())])

    @settings(
        max_examples=each, deadline=None, derandomize=CASES == 1_000, database=None,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate,),
    )  # fmt: skip
    @given(case=cases, known=there)
    def one(case: Any, known: str | None) -> None:
        if known is not None:
            case.path_parameters = {**case.path_parameters, "id": quote(known, safe="")}
        for role, key in subject.roles.items():
            check(subject, operation, case, role, {"Authorization": f"Bearer {key}"} if key else {})

    one()


def check(subject: Subject, operation: Operation, case: Any, role: str, headers: dict[str, str]) -> None:
    answer = case.call(base_url=subject.system.url, headers=headers, session=subject.session, timeout=60.0)

    subject.seen[operation.name, answer.status_code] += 1
    assert answer.status_code < 500, (role, answer.text[:500])
    assert role != "nobody" or operation.permission in OPEN or answer.status_code >= 400, answer.text[:500]
    case.validate_response(answer, checks=CHECKS)


def test_the_document_and_its_page_come_once_and_load_nothing_from_elsewhere(subject: Subject) -> None:
    with httpx.Client(base_url=subject.system.url, timeout=30.0) as door:
        first = door.get("/openapi.json")
        again = door.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
        page = door.get("/docs")
        files = [door.get(path) for path in re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.text)]

    assert (again.status_code, again.content) == (304, b"")
    assert len(files) == 2 and {file.status_code for file in files} == {200}
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert not any(
        "://" in text.replace("http://www.w3.org", "") for text in (page.text, *(file.text for file in files))
    )


def test_a_request_line_that_is_too_long_is_refused_in_the_form_of_all_others(subject: Subject) -> None:
    answer = httpx.get(f"{subject.system.url}/v1/memories", params={"cursor": "secret" * 2_000})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_REQUEST")
    assert "secret" not in answer.text
