"""How much is broken: a short slice by default, the full figures with `CHAOS_LONG=1`.

`CHAOS_SEED` repeats a run, `CHAOS_SCALE` (a share, like 0.2) shortens a long one. A failure prints the seed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.chaos_results import Case, Plan, write_results

RESULTS = Path(__file__).with_name("RESULTS.md")
PLAN = pytest.StashKey[Plan]()
REPORT = pytest.StashKey[pytest.TestReport]()


def pytest_configure(config: pytest.Config) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    long = bool(os.environ.get("CHAOS_LONG"))
    config.stash[PLAN] = Plan(seed=seed, long=long, scale=float(os.environ.get("CHAOS_SCALE") or 1.0))


def pytest_report_header(config: pytest.Config) -> str:
    plan = config.stash[PLAN]
    return f"chaos: seed {plan.seed} (CHAOS_SEED={plan.seed} repeats it), {'long' if plan.long else 'short'}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    plan = session.config.stash[PLAN]
    if plan.long and plan.cases:
        write_results(RESULTS, plan, datetime.now(UTC))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[REPORT] = report
    if report.failed:
        plan = item.config.stash[PLAN]
        report.sections.append(("chaos", f"CHAOS_SEED={plan.seed} repeats this schedule"))
    return report


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """The figures of one case; what it measures goes into the results, also when it fails."""
    plan = request.config.stash[PLAN]
    running = Case(request.node.name.removeprefix("test_").replace("_", " "), plan, say=_say)
    began = time.monotonic()
    running.say("begins")
    yield running
    running.say(f"ends after {time.monotonic() - began:.0f} s")
    report = request.node.stash.get(REPORT, None)
    if report is None or report.failed:
        running.missed.append(f"FAILED: {_reason(report)}")
    if report is None or not report.skipped:
        plan.cases.append(running)


def _reason(report: pytest.TestReport | None) -> str:
    """The line that ended a case, as far as it is known."""
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    return str(crash.message).splitlines()[0][:200] if crash is not None else "it did not come to its end"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
