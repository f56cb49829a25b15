"""The comparison of decoder settings, and the speaker encoder beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import build_random_bundle

import usdm
from usdm.audio import read_audio
from usdm.chain import DecoderSampling, SpokenDialogPipeline
from usdm.decoder import StreamingSettings
from usdm.evaluation.held_out import read_held_out, spread
from usdm.evaluation.sampling_report import sampling_markdown, save_sampling_plot
from usdm.evaluation.sampling_table import (
    PUBLISHED,
    MeanGap,
    SamplingRow,
    SamplingTable,
    compare_sampling,
    evaluations,
    mean_gap,
)
from usdm.evaluation.streaming import compare_streaming
from usdm.evaluation.voices import OWN_VOICE, compare_voices
from usdm.metrics.intervals import WordErrorGap, WordErrorRate
from usdm.metrics.speaker import SpeakerEncoder
from usdm.metrics.text import WordErrors
from usdm.types import InputError, Waveform

HELD_OUT = Path(usdm.__file__).parent / "assets" / "held_out"
ONE_STEP = DecoderSampling(steps=1, solver="euler", guidance=0.0, temperature=0.0)


@pytest.mark.parametrize(
    ("sampling", "count"),
    [
        (PUBLISHED, 98),  # 25 intervals of two evaluations but for the last, each with and without units
        (ONE_STEP, 1),
        (DecoderSampling(8, "euler", 1.0), 16),
        (DecoderSampling(8, "heun", 0.0), 7),
    ],
)
def test_evaluations_are_those_of_the_solver(sampling: DecoderSampling, count: int) -> None:
    assert evaluations(sampling) == count


def test_a_gap_is_paired() -> None:
    """Items differ much, but each loses the same: the interval is as narrow as the loss is steady."""
    values = [0.1, 0.5, 0.9, 0.4]
    gap = mean_gap([value - 0.05 for value in values], values, ["a", "b", "c", "d"], seed=0)
    assert gap.gap == pytest.approx(gap.low) == pytest.approx(gap.high) == pytest.approx(-0.05)
    wide = mean_gap([0.1, 0.9], [0.3, 0.4], ["a", "b"], seed=0)
    assert wide.low == pytest.approx(-0.2)
    assert wide.high == pytest.approx(0.5)


@pytest.fixture
def make_row() -> Callable[..., SamplingRow]:
    def make(
        sampling: DecoderSampling, more_errors: tuple[float, float], similarity: tuple[float, float] | None = None
    ) -> SamplingRow:
        return SamplingRow(
            sampling=sampling,
            seed=0,
            evaluations=evaluations(sampling),
            word_errors=WordErrorRate(0.1, 0.05, 0.15, WordErrors(), 3),
            word_error_gap=WordErrorGap(sum(more_errors) / 2, *more_errors),
            similarity=None if similarity is None else 0.8,
            similarity_gap=None if similarity is None else MeanGap(sum(similarity) / 2, *similarity),
            mel_distance=0.3,
            seconds=0.01,
        )

    return make


def test_the_cheapest_that_is_not_worse_is_chosen(make_row: Callable[..., SamplingRow]) -> None:
    published = make_row(PUBLISHED, (0, 0), (0, 0))
    more_errors = make_row(ONE_STEP, (0.01, 0.2), (-0.1, 0.1))
    other_voice = make_row(DecoderSampling(2, "euler", 0.0), (-0.1, 0.1), (-0.2, -0.01))
    good = make_row(DecoderSampling(4, "euler", 0.0), (-0.1, 0.1), (-0.1, 0.1))
    dear = make_row(DecoderSampling(8, "euler", 0.0), (-0.2, -0.1), (0.1, 0.2))
    assert SamplingTable((published, published, more_errors, other_voice, good, dear), {}).cheapest is good
    assert SamplingTable((published, published, more_errors, other_voice), {}).cheapest is published


class Listener:
    """Hears the first words of what it is told to expect: a recogniser whose errors are known."""

    name = identity = "listener"

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        return ["certainly"] * len(waveforms)


def test_settings_are_compared_on_recordings(tmp_path: Path) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained(build_random_bundle(tmp_path / "bundle"))
    turns = [item.agent for item in spread(read_held_out(HELD_OUT), 2)]
    seen: list[tuple[int, int]] = []
    table = compare_sampling(
        pipeline,
        turns,
        [ONE_STEP, PUBLISHED, ONE_STEP],
        Listener(),
        seed=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [(row.sampling, row.seed) for row in table.rows] == [(PUBLISHED, 3), (PUBLISHED, 4), (ONE_STEP, 3)]
    published, again, one_step = table.rows
    assert published.mel_distance == 0 < again.mel_distance
    assert published.word_error_gap == WordErrorGap(0, 0, 0)
    assert table.cheapest is one_step  # the listener hears no difference
    assert seen[-1] == (3 * len(turns), 3 * len(turns))
    assert json.loads(table.to_json())["cheapest"] == vars(ONE_STEP)
    report = sampling_markdown(table)
    assert "noise: euler, 1 steps, guidance 0, temperature 0." in report
    save_sampling_plot(table, tmp_path / "sampling.png")
    assert (tmp_path / "sampling.png").read_bytes().startswith(b"\x89PNG")


class ByPitch:
    """A speaker encoder that goes by how the energy is spread over three bands."""

    name = "bands"

    def embed(self, waveform: Waveform) -> np.ndarray:
        bands = np.array([band.sum() for band in np.array_split(np.abs(np.fft.rfft(waveform.samples.numpy())), 3)])
        return bands / np.linalg.norm(bands)


def test_voices_are_compared_with_what_is_said_without_them(tmp_path: Path) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained(build_random_bundle(tmp_path / "bundle"))
    turns = [item.agent for item in spread(read_held_out(HELD_OUT), 3)]
    references = {item.user.speaker: item.user.read() for item in spread(read_held_out(HELD_OUT), 2)}
    speakers: Any = ByPitch()
    table = compare_voices(pipeline, turns, references, speakers, Listener(), seed=3)
    own, *rows = table.rows
    assert own.voice == OWN_VOICE and own.similarity is None
    assert [row.voice for row in rows] == list(references)
    for row in rows:
        target = speakers.embed(references[row.voice])
        voice = pipeline.voice(references[row.voice])
        found = []
        for reference in (voice, None):
            sounds = [
                pipeline.resynthesize(turn.read().samples, turn.read().sample_rate, reference=reference, seed=3)
                for turn in turns
            ]
            found.append(np.mean([speakers.embed(sound) @ target for sound in sounds]))
        assert [row.similarity, row.similarity_without] == pytest.approx(found)
        assert row.rise is not None and row.rise.gap == pytest.approx(found[0] - found[1], abs=1e-5)
    assert len(json.loads(table.to_json())["rows"]) == 1 + len(references)
    assert table.to_markdown().count("\n") == 2 + len(references)
    with pytest.raises(InputError, match="at least one reference voice"):
        compare_voices(pipeline, turns, {}, speakers, Listener())


def test_streaming_is_compared_with_the_whole(tmp_path: Path) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained("tiny")
    turns = [item.agent for item in spread(read_held_out(HELD_OUT), 2)]
    whole_at_once = StreamingSettings(first_units=10_000, chunk_units=10_000, left_context=0, lookahead=0)
    own = StreamingSettings.at_rate(pipeline.parts.units.unit_rate)
    short = StreamingSettings(first_units=2, chunk_units=4, left_context=2, lookahead=0)

    class Loudness:
        name = "loudness"

        def __call__(self, waveform: Waveform) -> float:
            return float(waveform.samples.square().mean())

    table = compare_streaming(pipeline, turns, [whole_at_once, own, short], Listener(), quality=Loudness())
    whole, same, streamed, hasty = table.rows
    assert whole.settings is None and whole.distance is None
    assert same.distance == pytest.approx(0, abs=1e-3) and same.quality == pytest.approx(whole.quality, rel=1e-3)
    assert 0 < streamed.distance < hasty.distance and streamed.seam_distance < hasty.seam_distance
    assert streamed.word_error_gap == WordErrorGap(0, 0, 0)
    assert len(json.loads(table.to_json())["rows"]) == 4 and "the whole reply" in table.to_markdown()
    with pytest.raises(InputError, match="recordings with text"):
        compare_streaming(pipeline, [], [own], Listener())


def test_recordings_without_text_are_refused(tmp_path: Path) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained(build_random_bundle(tmp_path))
    with pytest.raises(InputError, match="recordings with text"):
        compare_sampling(pipeline, [], [], Listener())


@pytest.fixture(scope="module")
def encoder() -> SpeakerEncoder:
    pytest.importorskip("resemblyzer", reason="the extra `speaker` is not installed", exc_type=ImportError)
    return SpeakerEncoder()


class TestSpeakerEncoder:
    def test_one_speaker_is_nearer_to_itself_than_to_another(self, encoder: SpeakerEncoder) -> None:
        turns = [turn for item in read_held_out(HELD_OUT)[:12] for turn in (item.user, item.agent)]
        by_speaker: dict[str, list[Waveform]] = {}
        for turn in turns:
            by_speaker.setdefault(turn.speaker, []).append(read_audio(turn.audio))
        (first, second, *_), (other, *_) = sorted(by_speaker.values(), key=len, reverse=True)[:2]
        assert encoder.similarity(first, first) == pytest.approx(1, abs=1e-5)
        assert encoder.similarity(first, second) > encoder.similarity(first, other) + 0.05

    def test_sound_without_a_voice_is_refused(self, encoder: SpeakerEncoder) -> None:
        with pytest.raises(InputError, match=r"no voice in 1\.00 s"):
            encoder.embed(Waveform(torch.zeros(16_000), 16_000))
