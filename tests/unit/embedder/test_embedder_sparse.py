from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_contracts.errors import Rejected
from engram_contracts.facts import SparseVector
from engram_embedder import sparse as sparse_module
from engram_embedder.sparse import SparseEncoder, date_words
from engram_embedder.stems import Stems, words

Form = Literal["NFC", "NFD", "NFKC"]
ENCODER = SparseEncoder(Stems())
SUNDAY = datetime(2023, 5, 7, 13, 56, tzinfo=UTC)


def stems(text: str, language: str = "english") -> list[str]:
    reader = Stems(language)
    return [stem for word in words(text) for stem in reader.of(word)]


def shared(query: str, content: str, encoder: SparseEncoder = ENCODER) -> bool:
    """Whether every term of the query is among the content's."""
    wanted = encoder.query(query).indices
    return bool(wanted) and set(wanted) <= set(encoder.document(content).indices)


@given(st.text(max_size=300))
def test_a_vector_is_well_formed_whatever_the_text(text: str) -> None:
    for vector in (ENCODER.document(text), ENCODER.query(text)):
        assert len(vector.indices) == len(vector.values)
        assert list(vector.indices) == sorted(set(vector.indices))
        assert all(0 <= index < 2**32 for index in vector.indices)
        assert all(0 < value < 1.9 for value in vector.values)


@given(st.text(max_size=200))
def test_the_same_text_always_gives_the_same_vector(text: str) -> None:
    assert ENCODER.document(text) == SparseEncoder(Stems()).document(text)


@given(st.text(max_size=200), st.sampled_from(["NFC", "NFD", "NFKC"]))
def test_unicode_forms_of_a_text_give_the_same_vector(text: str, form: Form) -> None:
    lowered = text.lower()

    assert ENCODER.query(unicodedata.normalize(form, lowered)) == ENCODER.query(lowered)


@given(st.lists(st.sampled_from(["apple", "banana", "cherry", "damson"]), min_size=1, max_size=30))
def test_weights_follow_bm25(fruits: list[str]) -> None:
    vector = ENCODER.document(" ".join(fruits))

    expected = {}
    for fruit in set(fruits):
        (index,) = ENCODER.query(fruit).indices
        tf = fruits.count(fruit)
        expected[index] = tf * 1.9 / (tf + 0.9 * (0.6 + 0.4 * len(fruits) / 24))
    assert dict(zip(vector.indices, vector.values, strict=True)) == pytest.approx(expected, abs=1e-4)


def test_a_longer_text_gives_each_term_less_weight() -> None:
    (alone,) = ENCODER.document("zebra").values
    among = ENCODER.document("zebra " + " ".join(f"w{n}x" for n in range(50)))

    (zebra,) = ENCODER.query("zebra").indices
    assert among.values[among.indices.index(zebra)] < alone


def test_a_querys_terms_all_weigh_one() -> None:
    assert ENCODER.query("zebra zebra lion").values == (1.0, 1.0)


def test_text_without_a_word_gives_an_empty_vector() -> None:
    empty = SparseVector(indices=(), values=())

    assert ENCODER.document("?! 🎉 __ ''") == empty
    assert ENCODER.query("who are you") == empty


def test_who_said_it_and_when_can_be_searched() -> None:
    vector = ENCODER.document("painted a sunrise", speaker="Melanie", occurred_at=SUNDAY)

    for query in ("Melanie", "7 May 2023", "7th of May", "on a Sunday", "2023"):
        assert set(ENCODER.query(query).indices) <= set(vector.indices), query


def test_the_words_of_a_day_do_not_depend_on_the_machines_language() -> None:
    assert date_words(SUNDAY) == "7 May 2023 Sunday"


def test_remembered_words_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_module, "WORDS_REMEMBERED", 100)
    encoder = SparseEncoder(Stems())

    for n in range(1_000):
        encoder.query(f"word{n}x and {'long' * 100}{n}")

    assert len(encoder._terms) <= 100


def test_english_words_meet_in_their_stem() -> None:
    assert shared("painting support groups", "She painted. Groups supporting groups.")


def test_common_english_words_are_left_out() -> None:
    assert stems("What did you do when she was there?") == []


def test_a_possessive_is_the_name() -> None:
    assert stems("Caroline's kids’ toys") == stems("Caroline kid toy")


def test_contractions_with_either_apostrophe_are_common_words() -> None:
    assert stems("I don't, I don’t") == []


def test_parts_of_compounds_can_be_found() -> None:
    assert shared("user id", "set user_id here")
    assert shared("brien", "Mr O'Brien called")
    assert shared("follow up", "a follow-up is due")


def test_numbers_meet_whatever_their_zeros_and_endings() -> None:
    assert stems("07 7th 7 007") == ["7"] * 4
    assert stems("٧ ７") == ["7"] * 2


def test_a_huge_number_is_one_word() -> None:
    assert stems("9" * 10_000) == ["9" * 64]


def test_chinese_and_japanese_are_pairs_of_letters() -> None:
    assert stems("東京都") == ["東京", "京都"]
    assert shared("日本語", "私は日本語を話します")


def test_a_single_chinese_letter_stands_for_itself() -> None:
    assert stems("猫") == ["猫"]


def test_mixed_scripts_are_taken_apart() -> None:
    assert stems("iphone手机2023款") == ["iphon", "手机", "2023", "款"]


def test_korean_words_are_found_with_their_particles() -> None:
    assert shared("학교", "나는 학교에 갔다")


def test_thai_is_found_inside_a_sentence() -> None:
    assert shared("แมว", "ฉันรักแมวมาก")


def test_hindi_vowel_signs_belong_to_the_word() -> None:
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]


def test_arabic_is_stemmed_with_and_without_vowel_signs() -> None:
    assert stems("الكِتَابُ") == stems("كتاب")


def test_vietnamese_meets_in_both_unicode_forms() -> None:
    composed = unicodedata.normalize("NFC", "tôi thích phở bò")

    assert stems(unicodedata.normalize("NFD", composed)) == stems(composed)
    assert shared("phở", composed)


def test_russian_is_stemmed_beside_english() -> None:
    assert stems("книги книга") == [stems("книга")[0]] * 2


def test_german_is_stemmed_when_it_is_the_language() -> None:
    assert stems("Häuser", "german") == stems("Haus", "german")
    assert stems("Straße", "german") == stems("strassen", "german")


def test_with_another_language_english_words_are_not_left_out() -> None:
    assert stems("die Frau was here", "german")[0:3:2] == ["die", "was"]


def test_with_language_none_words_stay_as_they_are() -> None:
    assert stems("Running the groups", "none") == ["running", "the", "groups"]


def test_persian_takes_the_arabic_script() -> None:
    reader = Stems("persian")

    assert list(reader.of("running")) == ["run"]
    assert list(reader.of("کتاب‌ها"))


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Rejected, match=r"'klingon'.*english"):
        Stems("klingon")
