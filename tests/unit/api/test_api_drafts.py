from datetime import UTC, datetime

from engram_api.access import Caller
from engram_api.calls import Call, Prefer
from engram_api.drafts import Draft, command_id, remembering
from engram_contracts.commands import Forget, Remember
from engram_contracts.memory import NewMemory

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)


def call(*, actor: str | None = "key1", key: str | None = None) -> Call[None, None]:
    return Call(
        caller=Caller("acme", "writer", actor), body=None, query=None, path={}, request_id="r", correlation="c",
        idempotency_key=key, prefer=Prefer(),
    )  # fmt: skip


def test_a_draft_reads_as_the_command_it_stands_for() -> None:
    memories = [
        NewMemory(content='é "quoted" \n', tags=("a",), metadata={"x": None}, occurred_at=NOW),
        NewMemory(content="b"),
    ]

    for actor in ("key1", None):
        for draft, memory in zip(remembering(call(actor=actor), memories, NOW), memories, strict=True):
            plain = Remember(id=draft.id, accepted_at=NOW, actor=actor, memory_id=draft.id, memory=memory)
            assert Remember.model_validate_json(draft.body) == Remember.model_validate_json(plain.encode())
            assert (draft.op, draft.memory_id) == ("remember", draft.id)


def test_ids_are_new_without_a_key_and_the_same_with_one() -> None:
    assert command_id(call(), "think") != command_id(call(), "think")
    assert command_id(call(key="k"), "think") == command_id(call(key="k"), "think")
    assert command_id(call(key="k"), "think") != command_id(call(key="k"), "forget")
    assert command_id(call(key="k"), "forget", "a", "b") != command_id(call(key="k"), "forget", "ab")


def test_a_draft_of_any_command_is_its_encoding() -> None:
    command = Forget(id="0" * 8 + "-0000-0000-0000-" + "0" * 12, accepted_at=NOW, memory_id="m")

    assert Draft.of(command, memory_id="m") == Draft("forget", command.id, command.encode(), "m")
