"""Data keys seal and open, master keys wrap and unwrap; what was changed, or is another's, is refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from engram_contracts.errors import Rejected, Unavailable
from engram_runtime.bus import Entry
from engram_runtime.sealing import MasterKeys, master_id, named, new_master_key, sealed
from engram_runtime.vault import SEALED_TEXT, Vault, owner_of

NOW = datetime(2026, 11, 21, tzinfo=UTC)
BODY = b'{"content":"The xylophone stands in Ghent."}'
LONGEST = "a" * 63


def masters(*keys: str) -> MasterKeys:
    return MasterKeys.parse("\n".join(keys or (new_master_key(),)))


def vault(*tenants: str) -> Vault:
    keys = masters()
    made = Vault(keys)
    for tenant in tenants:
        made.take(tenant, keys.fresh(tenant, NOW))
    return made


def test_what_is_sealed_is_opened_and_shows_nothing_of_itself():
    keys = vault("acme", LONGEST)

    for tenant in ("acme", LONGEST):
        one, other = keys.seal(tenant, BODY), keys.seal(tenant, BODY)
        assert sealed(one) and one != other and b"xylophone" not in one
        assert named(one).tenant == tenant
        assert keys.open(one) == BODY
        text = keys.seal_text(tenant, BODY.decode())
        assert text.startswith(SEALED_TEXT) and keys.open_text(tenant, text) == BODY.decode()


def test_what_is_not_to_be_sealed_stays_as_it_is():
    keys = vault("acme")

    assert keys.seal("beta", BODY) == BODY == keys.open(BODY)
    assert keys.seal_text("beta", "words") == "words"
    assert keys.open_text("beta", SEALED_TEXT + "looks like it") == SEALED_TEXT + "looks like it"
    assert keys.seal("acme", keys.seal("acme", BODY)).count(b"acme") == 1
    assert keys.open_text("acme", "from before") == "from before"


def test_every_byte_that_is_changed_is_noticed():
    keys = vault("acme")
    body = keys.seal("acme", BODY)

    for place in range(2, len(body)):
        with pytest.raises((Rejected, Unavailable)):
            keys.open(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
    for length in range(2, len(body)):
        with pytest.raises((Rejected, Unavailable)):
            keys.open(body[:length])


def test_text_of_one_tenant_is_not_opened_as_that_of_another():
    keys = vault("acme", "beta")

    with pytest.raises(Rejected, match="another tenant"):
        keys.open_text("beta", keys.seal_text("acme", "words"))


def test_a_key_that_is_not_here_opens_nothing():
    body = vault("acme").seal("acme", BODY)

    with pytest.raises(Rejected, match="is not kept here"):
        vault("acme").open(body)


def test_a_data_key_is_unwrapped_by_its_master_key_alone():
    old, new = new_master_key(), new_master_key()
    record = masters(old).fresh("acme", NOW)

    moved = masters(new, old).rewrapped(record, NOW)

    assert record.master == master_id(base64.b64decode(old)) and moved.master == master_id(base64.b64decode(new))
    assert moved.id == record.id
    body = masters(new).unwrap(moved).seal(BODY)
    assert masters(old).unwrap(record).open(body) == BODY
    with pytest.raises(Rejected, match="'acme' is wrapped by master key"):
        masters(old).unwrap(moved)
    with pytest.raises(Rejected, match="was changed or damaged"):
        masters(new).unwrap(moved.model_copy(update={"tenant": "beta"}))


@pytest.mark.parametrize(
    "text",
    ["", " \n", "short", f"{new_master_key()}\n{'A' * 40}", "*" * 44],
    ids=["nothing", "blank", "short", "one and a short one", "no base64"],
)
def test_a_master_key_that_is_none_is_refused_without_being_told(text):
    with pytest.raises(Rejected, match=r"encryption\.key") as refused:
        MasterKeys.parse(text)

    assert not text.strip() or text not in refused.value.message


def test_master_keys_may_be_written_in_several_ways_and_are_not_shown():
    key = base64.b64encode(bytes(range(224, 256))).decode()

    keys = MasterKeys.parse(f"  {new_master_key()},\n{key.replace('+', '-').replace('/', '_')}\n")

    assert master_id(bytes(range(224, 256))) in keys
    assert key not in repr(keys)


@pytest.mark.parametrize(
    ("subject", "owner"),
    [
        ("engram.work.i0.remember.acme", "acme"),
        ("engram.log.3.acme.remembered", "acme"),
        ("engram.dead.graph.acme", "acme"),
        ("engram.usage.door-1", ""),
        ("engram.audit.acme", ""),
        ("engram.work.i0.replay._system", "_system"),
    ],
)
def test_whose_text_a_message_holds_follows_from_its_subject(subject, owner):
    assert owner_of(subject) == owner


def test_an_entry_is_sealed_for_its_owner():
    keys = vault("acme")
    plain = Entry(subject="engram.work.i0.replay._system", body=BODY, id="1")

    assert keys.entries([plain])[0].body == BODY
    entry = keys.entries([Entry(subject=plain.subject, body=BODY, id="1", owner="acme")])[0]
    assert keys.open(entry.body) == BODY != entry.body
