from engram_contracts.private import without_private


def test_text_without_tags_stays_as_it_is() -> None:
    assert without_private("a < b and c > d, privately") == "a < b and c > d, privately"


def test_a_private_block_vanishes_with_its_tags() -> None:
    assert without_private("pin <private>1234</private> kept") == "pin  kept"


def test_tags_are_known_in_any_case_and_with_attributes() -> None:
    assert without_private('a<PRIVATE reason="x">b\nc</ Private >d') == "ad"


def test_the_end_of_an_inner_block_does_not_end_the_outer() -> None:
    assert without_private("<private>a<private>b</private>c</private>d") == "d"


def test_an_unclosed_block_reaches_to_the_end() -> None:
    assert without_private("open <private>secret and more") == "open "


def test_a_stray_end_tag_hides_nothing() -> None:
    assert without_private("a</private>b") == "ab"


def test_a_tag_that_only_begins_alike_is_text() -> None:
    assert without_private("<privateer>ship</privateer>") == "<privateer>ship</privateer>"
