import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engram_contracts.errors import Rejected
from engram_runtime.keys import hash_key, key_id, load_pepper, mint_key

PEPPER = b"p" * 32


def test_a_minted_key_has_the_documented_form_and_names_its_record() -> None:
    text, record = mint_key("acme", "writer", "laptop", PEPPER)

    assert text.startswith("eng_live_") and len(text) == 9 + 12 + 1 + 43 + 6
    assert key_id(text) == text.split("_")[2]
    assert record.hash == hash_key(text, PEPPER) and text not in record.encode().decode()


def test_every_single_changed_character_fails_the_checksum_or_the_form() -> None:
    text, _ = mint_key("acme", "writer", "laptop", PEPPER)

    for place in range(len(text)):
        other = "a" if text[place] != "a" else "b"
        assert key_id(text[:place] + other + text[place + 1 :]) is None


@pytest.mark.parametrize("text", ["", "eng_live_", "eng_live_é", "eng_test_abc", "x" * 10_000])
def test_what_is_no_key_has_no_id(text: str) -> None:
    assert key_id(text) is None


def test_two_keys_are_never_the_same() -> None:
    assert len({mint_key("acme", "writer", "x", PEPPER)[0] for _ in range(100)}) == 100


def test_a_key_counts_until_it_expires_or_is_revoked() -> None:
    now = datetime.now(UTC)
    _, record = mint_key("acme", "writer", "x", PEPPER, expires_at=now + timedelta(hours=1))

    assert record.usable(now)
    assert not record.usable(now + timedelta(hours=1))
    assert not record.model_copy(update={"revoked": True}).usable(now)


def test_the_pepper_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = load_pepper(tmp_path / "data", None)
    second = load_pepper(tmp_path / "data", None)

    assert first == second and len(first) >= 32
    assert stat.S_IMODE((tmp_path / "data/pepper").stat().st_mode) == 0o600


def test_the_pepper_that_is_set_counts_and_no_file_is_made(tmp_path: Path) -> None:
    assert load_pepper(tmp_path, "s" * 32) == b"s" * 32
    assert not (tmp_path / "pepper").exists()


def test_a_short_pepper_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        load_pepper(tmp_path, "hush")

    assert "ENGRAM_AUTH_PEPPER" in caught.value.message and "hush" not in caught.value.message
