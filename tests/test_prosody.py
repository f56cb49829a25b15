"""Prosody: its figures, as metrics of predictions, and whether a delivery moves replies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.deliveries import deliveries
from usdm.audio import write_audio
from usdm.chain import SpokenDialogPipeline
from usdm.cli.main import main
from usdm.evaluation.deliveries import compare_deliveries, energy_distance, text_distance
from usdm.evaluation.held_out import read_held_out
from usdm.metrics.figures import Prediction, Reference
from usdm.metrics.prosody import ContourCorrelations, ProsodyDistances, contour_distance, contours, prosody
from usdm.types import InputError, Waveform

SAMPLE_RATE = 16_000
HELD_OUT = Path(__file__).resolve().parents[1] / "usdm" / "assets" / "held_out"


def hum(hertz: float, seconds: float = 0.6, rise: float = 0.0, level: float = 0.3) -> torch.Tensor:
    """(T,) a buzz whose pitch rises by `rise` semitones."""
    time = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    frequency = hertz * 2 ** (rise * time / seconds / 12)
    phase = 2 * torch.pi * torch.cumsum(frequency, 0) / SAMPLE_RATE
    return level * sum(torch.sin(phase * n) / n for n in range(1, 6)) / 2


def sound(*parts: torch.Tensor) -> Waveform:
    return Waveform(torch.cat(parts), SAMPLE_RATE)


def test_pitch_level_rate_and_pauses_of_a_hum() -> None:
    quiet = torch.zeros(SAMPLE_RATE // 2)
    found = prosody(contours(sound(quiet, hum(200), quiet, hum(200), quiet)), words=4)
    assert found.f0_mean == pytest.approx(12, abs=0.3)  # 200 Hz is an octave above 100 Hz
    assert found.f0_range is not None and found.f0_range < 1
    assert found.pauses == 1 and found.pause_share == pytest.approx(0.5 / 1.7, abs=0.05)
    assert found.rate == pytest.approx(4 / 1.7, rel=0.05)
    louder = prosody(contours(sound(quiet, hum(200, level=0.6), quiet)))
    assert louder.level - found.level == pytest.approx(6, abs=0.5) and louder.rate is None
    nothing = prosody(contours(sound(torch.zeros(SAMPLE_RATE))))
    assert nothing.f0_mean is None


def test_contours_that_run_alike_are_correlated() -> None:
    up, down = contours(sound(hum(150, rise=6))), contours(sound(hum(212, rise=-6)))
    higher = contours(sound(hum(300, rise=6)))
    same = contour_distance(up, higher)
    assert same.f0_correlation == pytest.approx(1, abs=0.05) and same.f0_rmse == pytest.approx(12, abs=0.5)
    other = contour_distance(up, down)
    assert other.f0_correlation == pytest.approx(-1, abs=0.05)


def test_metrics_compare_a_reply_with_the_reference_recording(tmp_path: Path) -> None:
    write_audio(tmp_path / "ours.wav", hum(200), SAMPLE_RATE)
    write_audio(tmp_path / "theirs.wav", hum(100), SAMPLE_RATE)
    reference = Reference("x", "d", "s", "hello", "one two", 1.0, agent_audio=tmp_path / "theirs.wav")
    prediction = Prediction("x", agent_text="one two three", audio=tmp_path / "ours.wav")
    values = ProsodyDistances()(prediction, reference)
    assert values["f0_mean_off"] == pytest.approx(12, abs=0.3)
    assert values["rate_off"] == pytest.approx(0.5, abs=0.01)
    assert values["f0_rmse"] == pytest.approx(12, abs=0.3)  # both last equally long
    assert ContourCorrelations()(prediction, reference)["level_correlation"] is not None
    write_audio(tmp_path / "longer.wav", hum(100, seconds=1.0), SAMPLE_RATE)
    longer = replace(reference, agent_audio=tmp_path / "longer.wav")
    assert "f0_rmse" not in ProsodyDistances()(prediction, longer)
    assert ContourCorrelations()(prediction, longer) == {}
    assert ProsodyDistances()(replace(prediction, audio=None), reference) == {}


def test_the_distance_of_two_samples_is_none_in_the_mean_where_they_are_of_one_distribution() -> None:
    random = np.random.default_rng(0)

    def distance(a: float, b: float) -> float:
        return abs(a - b)

    same = [energy_distance(random.normal(size=4), random.normal(size=4), distance) for _ in range(400)]
    apart = [energy_distance(random.normal(size=4), random.normal(1, size=4), distance) for _ in range(400)]
    assert abs(np.mean(same)) < 0.1 < 0.3 < np.mean(apart)
    assert text_distance("a b", "b a") == 0 and text_distance("a b", "c d") == 1 and text_distance("a b", "a c") == 0.5


def test_words_are_said_faster_higher_and_louder() -> None:
    user = read_held_out(HELD_OUT)[0].user
    rate, pitch, level = deliveries([user], ["rate", "pitch", "level"], None)
    assert rate.a.seconds / rate.b.seconds == pytest.approx(1.2 / 0.85, rel=0.02)
    assert pitch.a.seconds == pytest.approx(pitch.b.seconds, abs=0.01)
    higher = prosody(contours(pitch.b)).f0_mean, prosody(contours(pitch.a)).f0_mean
    assert higher[0] is not None and higher[1] is not None and higher[0] - higher[1] == pytest.approx(6, abs=1.5)
    torch.testing.assert_close(level.a.samples * 10 ** (12 / 20), level.b.samples)


def test_the_same_delivery_under_other_seeds_is_measured_with_units_and_with_words(tmp_path: Path) -> None:
    (pair,) = deliveries([read_held_out(HELD_OUT)[0].user], ["level"], None)
    tiny = SpokenDialogPipeline.from_pretrained("tiny")
    pair = replace(pair, b=pair.a)
    table = compare_deliveries(tiny, [pair], tmp_path, samples=2, temperature=0.7)
    found = {(each.input, each.of): each for each in table.movements}
    assert set(found) == {(name, of) for name in ("units", "transcript") for of in ("text", "prosody")}
    assert all(each.items == 1 and each.failed == 0 for each in found.values())
    assert table.heard_otherwise == {"level": 0}
    assert len(list((tmp_path / "transcript").glob("*.wav"))) == 6  # two deliveries' sets, and one again
    again = compare_deliveries(tiny, [pair], tmp_path, samples=2, temperature=0.7)
    assert again.movements == table.movements
    with pytest.raises(InputError, match="distributions need 2"):
        compare_deliveries(tiny, [pair], tmp_path, samples=1, temperature=0.7)


def test_the_verb_refuses_a_way_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare_deliveries", "ways=[mood]"]) == 2
    assert "ways mood: there are rate, pitch, level, question" in capsys.readouterr().err
    assert main(["compare_deliveries", "ways=[question]", "speaker=null"]) == 2
