"""Word times to unit spans, segment boundaries, and interleaved sequences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usdm.interleave import (
    SequenceMarks,
    Span,
    TokenizedUtterance,
    keyed_generator,
    plan_spans,
    segment_boundaries,
    sequence_ids,
    spoken_form,
    spoken_words,
)
from usdm.types import AlignedWord, InputError

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

START, END, CONTINUE, CORRESPOND = 1, 2, 3, 4
MARKS = SequenceMarks(*(np.array([mark], np.int32) for mark in (START, END, CONTINUE, CORRESPOND)))
TEXT, UNITS = 100, 10_000  # first id of text and of units in the utterances below


@st.composite
def timed_words(draw: st.DrawFn) -> tuple[list[AlignedWord], int]:
    """Words in order, some overlapping, some very short, some beyond the end; and a number of units."""
    gaps = draw(st.lists(st.tuples(st.floats(-0.05, 0.5), st.floats(0.0, 0.6)), min_size=1, max_size=12))
    words, time = [], draw(st.floats(0, 1))
    for i, (gap, length) in enumerate(gaps):
        start = max(time + gap, words[-1].start if words else 0.0)
        words.append(AlignedWord(f"word{i}", start, start + length))
        time = start + length
    return words, draw(st.integers(1, 60))


def utterance(ends: list[int], pieces: list[int]) -> TokenizedUtterance:
    """Text ids and unit ids that count up, so that what is missing or doubled shows."""
    text_ends = [0, *np.cumsum(pieces).tolist()]
    return TokenizedUtterance(
        np.arange(TEXT, TEXT + text_ends[-1], dtype=np.int32),
        text_ends,
        np.arange(UNITS, UNITS + ends[-1], dtype=np.int32),
        [0, *ends],
    )


word_ends = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(
    lambda lengths: np.cumsum(lengths).astype(np.int32)
)


@given(timed_words(), st.sampled_from([25, 50]))
def test_spans_partition_the_units_and_keep_every_word_in_order(case: tuple, rate: int) -> None:
    words, num_units = case
    spoken = spoken_words(words, num_units, rate)
    assert spoken.ends[-1] == num_units
    assert (np.diff(spoken.ends, prepend=0) > 0).all()
    assert len(spoken.words) == len(spoken.ends)
    assert " ".join(spoken.words).split() == [word.text for word in words]


def test_silence_goes_to_the_edges_and_half_to_each_neighbour() -> None:
    words = [AlignedWord("Hello,", 0.4, 0.8), AlignedWord("--", 0.8, 0.9), AlignedWord("World!", 1.2, 1.6)]
    spoken = spoken_words(words, num_units=50, unit_rate=25)
    assert spoken.words == ("hello", "world")
    assert spoken.ends.tolist() == [25, 50]  # middle of 0.8 and 1.2 s


def test_a_word_without_a_unit_stands_with_its_neighbour() -> None:
    first = [AlignedWord("a", 0.0, 0.005), AlignedWord("b", 0.005, 0.5), AlignedWord("c", 0.5, 1.0)]
    assert spoken_words(first, 25, 25).words == ("a b", "c")
    later = [AlignedWord("b", 0.0, 0.48), AlignedWord("a", 0.48, 0.485), AlignedWord("c", 0.485, 1.0)]
    assert spoken_words(later, 25, 25).words == ("b a", "c")


@pytest.mark.parametrize(
    ("words", "units", "message"),
    [
        ([AlignedWord("a", 0, 1)], 0, "num_units=0"),
        ([AlignedWord("...", 0, 1)], 10, "no words"),
        ([AlignedWord("a", 1, 2), AlignedWord("b", 0, 1)], 10, "'b' starts at 0 s, before 'a' at 1 s"),
        ([AlignedWord("a", 1, 0.5), AlignedWord("b", 1, 2)], 10, "'a' ends at 0.5 s, before it starts at 1 s"),
    ],
)
def test_words_that_cannot_be_aligned_are_refused(words: list[AlignedWord], units: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spoken_words(words, units, 25)


def test_spoken_form_keeps_letters_digits_and_apostrophes_of_any_script() -> None:
    assert spoken_form(" Don\u2019t \u201cstop\u201d -- well-known, 24/7! ") == "don't stop well known 24 7"
    assert spoken_form("नमस्ते, 안녕!") == "नमस्ते 안녕"


@given(word_ends, st.integers(1, 300), st.integers(0, 5))
def test_segments_are_whole_words_in_order_and_no_more_than_planned(ends: np.ndarray, size: int, seed: int) -> None:
    boundaries = segment_boundaries(ends, size, keyed_generator(seed, 0, "u"))
    assert boundaries[0] == 0 and boundaries[-1] == len(ends)
    assert (np.diff(boundaries) > 0).all()
    assert len(boundaries) - 1 <= ends[-1] // size + 1


def test_an_utterance_of_less_than_a_segment_stays_whole() -> None:
    assert segment_boundaries(np.array([100, 200, 499], np.int32), 500, keyed_generator(0, 0, "u")) == [0, 3]
    assert len(segment_boundaries(np.array([100, 200, 500], np.int32), 500, keyed_generator(0, 0, "u"))) == 3


def test_boundaries_are_truncated_normal_around_equal_parts() -> None:
    units, segments = 1999, 4
    ends = np.arange(1, units + 1, dtype=np.int32)  # a word a unit: nothing to snap to
    drawn = [segment_boundaries(ends, 500, keyed_generator(0, 0, str(i)))[1:-1] for i in range(3000)]
    first = np.array([min(boundaries) for boundaries in drawn if len(boundaries) == segments - 1])
    everything = np.concatenate(drawn)
    # The three boundaries have means N/4, N/2, 3N/4 and one deviation, N/8 times that of a normal cut at two.
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    inside = math.erf(2 / math.sqrt(2))
    truncated = math.sqrt(1 - 2 * 2 * density / inside)
    expected = math.sqrt((units / 8 * truncated) ** 2 + (units / 4) ** 2 * 2 / 3)
    assert everything.mean() == pytest.approx(units / 2, rel=0.01)
    assert everything.std() == pytest.approx(expected, rel=0.02)
    assert everything.min() >= 1 and everything.max() <= units - 1
    assert first.max() <= units / 2 + 1  # never more than a segment away from its mean


def test_boundaries_snap_to_the_nearest_word() -> None:
    ends = np.array([10, 400, 600, 1500], np.int32)  # N = 1500: means 375, 750, 1125
    inner = {b for i in range(200) for b in segment_boundaries(ends, 500, keyed_generator(0, 0, str(i)))[1:-1]}
    assert inner == {1, 2, 3}


def test_segment_units_must_be_positive() -> None:
    with pytest.raises(InputError, match="segment_units=0"):
        segment_boundaries(np.array([5], np.int32), 0, keyed_generator(0, 0, "u"))


boundaries = st.lists(st.integers(1, 3), min_size=1, max_size=6).map(lambda sizes: [0, *np.cumsum(sizes).tolist()])


@given(boundaries, st.sampled_from(["unified", "continuation", "correspondence", "fixed"]), st.integers(0, 1000))
def test_every_segment_is_written_in_order_and_linked_as_it_must_be(bounds: list[int], pattern: str, seed: int) -> None:
    spans = plan_spans(bounds, pattern, keyed_generator(seed, 0, "u"))
    own = [span for span in spans if span.link != "correspond"]
    assert [(span.first, span.last) for span in own] == list(zip(bounds, bounds[1:], strict=False))
    assert spans[0].link == "start"
    for before, span in zip(spans, spans[1:], strict=False):
        other = span.modality != before.modality
        if span.link == "correspond":
            assert other and (span.first, span.last) == (before.first, before.last)
            assert before.link != "correspond"
        else:
            assert span.first == before.last
            assert span.link == ("continue" if other else "same")


@given(boundaries, st.integers(0, 1000))
def test_ablations_leave_out_what_they_are_named_for(bounds: list[int], seed: int) -> None:
    def links(pattern: str) -> list[str]:
        return [span.link for span in plan_spans(bounds, pattern, keyed_generator(seed, 0, "u"))]

    assert "correspond" not in links("continuation")
    assert "continue" not in links("correspondence")
    assert links("correspondence").count("correspond") == len(bounds) - 1
    fixed = plan_spans(bounds, "fixed", keyed_generator(seed, 0, "u"))
    assert [span.modality for span in fixed] == ["units", "text"] * (len(bounds) - 1)
    assert {span.link for span in fixed[2::2]} <= {"continue"}
    separate = plan_spans(bounds, "separate", keyed_generator(seed, 0, "u"))
    assert [(span.first, span.last, span.link) for span in separate] == [(0, bounds[-1], "start")]


def test_modality_and_correspondence_are_drawn_with_probability_one_half() -> None:
    spans = [span for i in range(2000) for span in plan_spans([0, 1, 2], "unified", keyed_generator(0, 0, str(i)))]
    own = [span for span in spans if span.link != "correspond"]
    assert len(own) == 4000
    assert sum(span.modality == "text" for span in own) / 4000 == pytest.approx(0.5, abs=0.03)
    assert (len(spans) - 4000) / 4000 == pytest.approx(0.5, abs=0.03)


def test_an_unknown_pattern_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="pattern='none': there are unified, continuation, correspondence, fixed"):
        plan_spans([0, 1], "none", keyed_generator(0, 0, "u"))  # type: ignore[arg-type]


@settings(max_examples=50)
@given(word_ends, st.integers(5, 100), st.integers(0, 100), st.data())
def test_ids_hold_exactly_the_planned_words(ends: np.ndarray, size: int, seed: int, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.integers(1, 4), min_size=len(ends), max_size=len(ends)))
    generator = keyed_generator(seed, 0, "u")
    spans = plan_spans(segment_boundaries(ends, size, generator), "unified", generator)
    spoken = utterance(ends.tolist(), pieces)
    arrays, origins = sequence_ids(spans, spoken, MARKS)
    ids = np.concatenate(arrays).tolist()
    assert len(arrays) == len(origins) and [span for span in origins if span] == spans
    assert (ids[0], ids[-1]) == (START, END)
    assert ids.count(CONTINUE) == sum(span.link == "continue" for span in spans)
    assert ids.count(CORRESPOND) == sum(span.link == "correspond" for span in spans)
    # Without what corresponds, units and text tell every word once, in order.
    own = [array for array, span in zip(arrays, origins, strict=True) if span and span.link != "correspond"]
    covered = [span for span in spans if span.link != "correspond"]
    for array, span in zip(own, covered, strict=True):
        ends_of = spoken.text_ends if span.modality == "text" else spoken.unit_ends
        first = TEXT if span.modality == "text" else UNITS
        assert array.tolist() == list(range(first + ends_of[span.first], first + ends_of[span.last]))


def test_a_sequence_written_out() -> None:
    spans = [Span("text", 0, 1, "start"), Span("units", 0, 1, "correspond"), Span("text", 1, 2, "continue")]
    arrays, _ = sequence_ids(spans, utterance([2, 5], [1, 2]), MARKS)
    assert np.concatenate(arrays).tolist() == [1, 100, 4, 10_000, 10_001, 3, 101, 102, 2]


def test_randomness_depends_on_seed_epoch_and_id_alone() -> None:
    def draws(*key: object) -> list[float]:
        return keyed_generator(*key).random(4).tolist()  # type: ignore[arg-type]

    assert draws(0, 0, "u") == draws(0, 0, "u")
    assert len({tuple(draws(*key)) for key in [(0, 0, "u"), (1, 0, "u"), (0, 1, "u"), (0, 0, "v")]}) == 4
    # The same on every machine and in every process: the key is a hash of the words, not Python's own.
    assert keyed_generator(0, 0, "u").integers(0, 1000, 3).tolist() == [777, 295, 31]
