import pytest

from engram_api.cursors import seal, unseal
from engram_contracts.errors import Rejected

PEPPER = b"p" * 32


def sealed(after: str = "person:Ann é") -> str:
    return seal(after, tenant="acme", listing="nodes", pepper=PEPPER)


def test_a_cursor_goes_on_where_it_was_sealed() -> None:
    assert unseal(sealed(), tenant="acme", listing="nodes", pepper=PEPPER) == "person:Ann é"
    assert unseal(None, tenant="acme", listing="nodes", pepper=PEPPER) is None


@pytest.mark.parametrize(("tenant", "listing"), [("other", "nodes"), ("acme", "memories")])
def test_a_cursor_counts_for_its_own_tenant_and_list_alone(tenant: str, listing: str) -> None:
    with pytest.raises(Rejected) as caught:
        unseal(sealed(), tenant=tenant, listing=listing, pepper=PEPPER)

    assert caught.value.field == "cursor"


@pytest.mark.parametrize(
    "text", ["", "x", "é", "!!!!", "A" * 1_000, sealed()[:-1], sealed() + "A", sealed().swapcase()]
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(Rejected):
        unseal(text, tenant="acme", listing="nodes", pepper=PEPPER)
