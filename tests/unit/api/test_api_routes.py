import dataclasses
import itertools

import pytest

from engram_api.access import OPEN, ROLES, allowed
from engram_api.handlers import Handlers
from engram_api.routes import OPERATIONS, check

HARMLESS = ("recall", "context", "think", "make_ticket")
"""What is posted and changes no memory and no record."""


def test_the_table_can_be_served() -> None:
    check(OPERATIONS, Handlers)


def test_a_route_without_a_permission_is_not_served() -> None:
    bare = dataclasses.replace(OPERATIONS[0], permission="")

    with pytest.raises(ValueError, match="declares no permission"):
        check((bare,), Handlers)


def test_a_route_without_a_handler_or_given_twice_is_not_served() -> None:
    with pytest.raises(ValueError, match="no handler"):
        check((dataclasses.replace(OPERATIONS[0], name="unheard_of"),), Handlers)
    with pytest.raises(ValueError, match="declared twice"):
        check((OPERATIONS[0], OPERATIONS[0]), Handlers)


def test_only_health_metrics_and_the_documents_are_open() -> None:
    documents = {"/openapi.json", "/docs", "/docs/{name}"}

    assert {one.path for one in OPERATIONS if one.permission in OPEN} == {
        "/health", "/health/ready", "/metrics", "/metrics/targets", *documents,
    }  # fmt: skip


def test_each_role_may_do_what_the_one_below_may_and_strangers_nothing() -> None:
    asked = [one.permission for one in OPERATIONS if one.permission not in OPEN]
    reach = [{permission for permission in asked if allowed(role, permission)} for role in ROLES]

    assert all(lower <= higher for lower, higher in itertools.pairwise(reach))
    assert reach[-1] == set(asked)
    assert not any(allowed(stranger, permission) for stranger in ("", "root", "Admin") for permission in asked)


def test_readers_change_nothing() -> None:
    changing = [one for one in OPERATIONS if one.method != "GET" and one.name not in HARMLESS]

    assert len(changing) >= 28
    assert not any(allowed("reader", one.permission) for one in changing)
