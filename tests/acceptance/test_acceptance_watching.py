"""One trace through every service, metrics that alerts and dashboards can rely on, and what goes on now."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.background import in_background
from support.containers import COMPOSE
from support.fake_model import fake_model
from support.servers import promtool_binary
from support.system import System, embedded_system

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01"
PATIENCE = 90.0
SERVICES = {"api", "embedder", "vectors", "graph", "metering", "reasoner", "recovery"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An Engram that traces who asks for it, and nobody else."""
    with in_background(fake_model()) as model:
        environ = {
            "ENGRAM_TELEMETRY_ENABLED": "true",
            "ENGRAM_TELEMETRY_SAMPLE_RATE": "0",
            "ENGRAM_TELEMETRY_OTLP_ENDPOINT": "off",
            "ENGRAM_LLM_BASE_URL": model.base_url,
            "ENGRAM_LLM_MODEL": "tiny",
            "ENGRAM_LLM_PROMPT_PRICE": "10",
            "ENGRAM_LLM_COMPLETION_PRICE": "50",
        }
        with embedded_system(tmp_path_factory.mktemp("watching"), environ=environ) as running:
            yield running


def test_one_trace_is_found_in_every_service(system: System) -> None:
    called(system, "/v1/memories?wait=done", {"content": "The lock at Merelbeke is closed."}, SAMPLED)
    called(system, "/v1/think", {"question": "Which lock is closed?"}, SAMPLED)
    called(system, "/v1/dead-letters", None, SAMPLED)

    spans = until(lambda: enough(told(system, "trace", TRACE)))

    names = {(span["service"], span["name"]) for span in spans}
    assert {service for service, _ in names} == SERVICES
    assert names >= {
        ("api", "POST /v1/memories"), ("api", "publish ENGRAM_WORK"), ("embedder", "wait ENGRAM_WORK"),
        ("embedder", "embeddings static/wordllama-256"), ("vectors", "upsert qdrant"), ("vectors", "query qdrant"),
        ("graph", "write duckdb"), ("metering", "write duckdb"), ("reasoner", "ask vectors.recall"),
        ("reasoner", "chat tiny"),
    }  # fmt: skip
    roots = [span for span in spans if span["name"] == "POST /v1/memories"]
    assert roots[0]["attributes"]["gen_ai.operation.name"] == "create_memory"
    chat = next(span for span in spans if span["name"] == "chat tiny")
    assert chat["attributes"]["gen_ai.usage.input_tokens"] == 100
    assert all(span["end_ns"] >= span["start_ns"] for span in spans)
    assert "Merelbeke" not in json.dumps(spans)


def test_who_is_not_sampled_leaves_no_trace(system: System) -> None:
    for traceparent in (None, SAMPLED.removesuffix("01") + "00", "00-nonsense-01"):
        assert "X-Trace-ID" not in called(system, "/v1/recall", {"query": "lock"}, traceparent)
    assert called(system, "/v1/recall", {"query": "lock"}, SAMPLED)["X-Trace-ID"] == TRACE


@pytest.mark.parametrize(("given", "code"), [("nonsense", 2), ("0" * 31 + "1", 1)])
def test_what_is_no_trace_is_said(system: System, given: str, code: int) -> None:
    run = command(system, "trace", given)

    assert run.returncode == code and run.stderr.startswith("engram: ") and given in run.stderr


def test_every_metric_of_alerts_and_dashboards_is_there(system: System) -> None:
    there = {name for page in pages(system).values() for name in re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)}

    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bengram_[a-z_]+", "\n".join(expressions()))}

    assert named <= there
    assert len(named) > 15


def test_what_the_model_used_and_cost_is_counted(system: System) -> None:
    called(system, "/v1/think", {"question": "Which lock is closed?"}, None)
    page = pages(system)["reasoner"]

    used = {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if line.startswith("engram_model")}
    calls = used['engram_model_calls_total{model="tiny",outcome="ok"}']
    assert calls >= 1
    assert used['engram_model_tokens_total{direction="prompt",model="tiny"}'] == 100 * calls
    assert used['engram_model_cost_total{model="tiny"}'] == pytest.approx(calls * (100 * 10 + 20 * 50) / 1e6)


@pytest.mark.skipif(promtool_binary() is None, reason="no promtool; run `make tools`")
def test_metrics_of_every_process_are_named_as_prometheus_wants(system: System) -> None:
    found = pages(system)
    for service, page in found.items():
        run = subprocess.run(
            [str(promtool_binary()), "check", "metrics"], input=page, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, (service, run.stderr)
    assert found.keys() == SERVICES


def test_what_goes_on_is_told_once_for_all_processes(system: System) -> None:
    done = threading.Event()
    busy = threading.Thread(target=keep_busy, args=(system, done))
    busy.start()
    try:
        state = until(lambda: moving(told(system, "top", "--once", "--every", "1")))
    finally:
        done.set()
        busy.join()

    stages = {row["stage"]: row for row in state["stages"]}
    assert state["requests"]["p95_ms"] > 0
    assert stages["embedder"]["p95_wait_ms"] > 0 and stages["embedder"]["p95_handling_ms"] > 0
    assert stages["vectors"]["dead"] == 0 and not stages["reasoner"]["held"]
    assert {worker["service"] for worker in state["workers"]} == SERVICES
    assert all(worker["watched"] for worker in state["workers"])


def enough(spans: Any) -> Any:
    """The spans, once each service has told its last."""
    if spans is None or {span["service"] for span in spans["spans"]} != SERVICES:
        return None
    stores = {span["service"] for span in spans["spans"] if span["name"] == "write duckdb"}
    return spans["spans"] if stores == {"graph", "metering"} else None


def moving(state: Any) -> Any:
    """The state, if something was handled while it was looked at."""
    by_stage = {row["stage"]: row for row in state["stages"]}
    return state if state["requests"]["per_second"] and by_stage["embedder"]["per_second"] else None


def keep_busy(system: System, done: threading.Event) -> None:
    while not done.wait(0.02):
        called(system, "/v1/memories", {"content": f"Boat {time.monotonic_ns()} passed."}, None)


def called(system: System, path: str, body: Any, traceparent: str | None) -> Any:
    """The headers of the answer."""
    headers = {**system.headers, "Content-Type": "application/json"}
    if traceparent is not None:
        headers["traceparent"] = traceparent
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(system.url + path, data, headers), timeout=PATIENCE) as answer:
        answer.read()
        return answer.headers


def pages(system: System) -> dict[str, str]:
    """The metrics of every process, by service."""
    with urllib.request.urlopen(f"{system.url}/metrics/targets", timeout=PATIENCE) as answer:
        targets = json.load(answer)
    found = {}
    for each in targets:
        with urllib.request.urlopen(f"http://{each['targets'][0]}/metrics", timeout=PATIENCE) as answer:
            found[each["labels"]["service"]] = answer.read().decode()
    return found


def expressions() -> Iterator[str]:
    rules = yaml.safe_load((COMPOSE / "prometheus/rules/engram.yml").read_text())
    yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])
    board = json.loads((COMPOSE / "grafana/dashboards/engram.json").read_text())
    yield from (target["expr"] for panel in board["panels"] for target in panel["targets"])


def command(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    engram = str(Path(sys.executable).with_name("engram"))
    return subprocess.run(
        [engram, "--data-dir", str(system.data_dir), *words], capture_output=True, text=True, check=False
    )


def told(system: System, *words: str) -> Any:
    run = command(system, *words, "--json")
    return json.loads(run.stdout) if run.returncode == 0 else None


def until(look: Any) -> Any:
    """What `look` comes to as soon as it is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.3)
    return found
