"""Sound in and out, and the mel front end."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from usdm.audio import (
    MelSettings,
    MelSpectrogram,
    check_output_path,
    check_speech,
    read_audio,
    resample,
    write_audio,
)
from usdm.types import InputError, Waveform


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_U8"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("ogg", "OPUS"),
    ],
)
def test_every_kind_of_file_reads_the_same(tmp_path: Path, suffix: str, subtype: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(0.5, 48_000), 48_000, subtype=subtype)
    waveform = read_audio(path)
    assert waveform.sample_rate == 48_000
    assert waveform.samples.dtype == torch.float32
    assert waveform.seconds == pytest.approx(0.5, abs=0.02)
    assert waveform.samples.square().mean().sqrt() == pytest.approx(0.5 / 2**0.5, abs=0.02)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.2, 16_000), np.zeros(3200)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    samples = read_audio(tmp_path / "stereo.wav").samples
    assert torch.allclose(samples, torch.from_numpy(left / 2).float(), atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 44_099, 96_000])
def test_resampling_keeps_length_and_pitch(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(1.0, rate), rate)
    waveform = read_audio(tmp_path / "tone.wav", sample_rate=16_000)
    assert waveform.sample_rate == 16_000
    assert len(waveform.samples) == pytest.approx(16_000, abs=1)
    assert int(torch.fft.rfft(waveform.samples[:16_000]).abs().argmax()) == 440


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    high = torch.from_numpy(tone(1.0, 48_000, hertz=12_000)).float()
    assert resample(high, 48_000, 16_000)[100:-100].abs().max() < 0.01


def test_float_files_above_full_scale_are_scaled_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "loud.wav", 6 * tone(0.2, 16_000), 16_000, subtype="FLOAT")
    with caplog.at_level(logging.WARNING):
        assert read_audio(tmp_path / "loud.wav").samples.abs().max() <= 1
    assert "full scale" in caplog.text


def broken_files(folder: Path) -> dict[str, Path]:
    samples = tone(2.0, 16_000)
    paths = {name: folder / f"{name}.wav" for name in ("missing", "empty", "text", "none", "nan", "long", "rate")}
    paths["empty"].touch()
    paths["text"].write_text("this is no sound at all")
    soundfile.write(paths["none"], samples[:0], 16_000)
    soundfile.write(paths["nan"], np.where(samples > 0.4, np.nan, samples)[:1_000], 16_000, subtype="FLOAT")
    soundfile.write(paths["long"], samples, 16_000)
    soundfile.write(paths["rate"], samples, 1_000)
    return paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file"),
        ("empty", "0 bytes"),
        ("text", "not a readable sound file"),
        ("none", "no samples"),
        ("nan", "not finite"),
        ("long", "longer than the limit of 1.5 s"),
        ("rate", "1000 Hz"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, message: str) -> None:
    path = broken_files(tmp_path)[name]
    with pytest.raises(InputError, match=message) as error:
        read_audio(path, sample_rate=16_000, max_seconds=1.5)
    assert str(path) in str(error.value)


def test_a_file_of_exactly_the_longest_length_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(1.5, 16_000), 16_000)
    assert read_audio(tmp_path / "tone.wav", max_seconds=1.5).seconds == 1.5


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(16_000), "silent"),
        (torch.full((16_000,), 5e-4), "silent"),
        (torch.ones(1_500), "0.094 s"),
        (torch.zeros(0), "0.000 s"),
    ],
)
def test_no_speech_is_refused(samples: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_speech(Waveform(samples, 16_000))


def test_quiet_speech_is_accepted() -> None:
    check_speech(Waveform(torch.from_numpy(0.01 * tone(0.2, 16_000)).float(), 16_000))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    samples = torch.from_numpy(tone(0.3, 22_050)).float()
    write_audio(tmp_path / "tone.wav", samples, 22_050)
    again = read_audio(tmp_path / "tone.wav")
    assert again.sample_rate == 22_050
    assert torch.allclose(again.samples, samples, atol=1e-4)
    assert soundfile.info(tmp_path / "tone.wav").subtype == "PCM_16"
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]  # no temporary file is left


def test_writing_keeps_the_shape_of_loud_sound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = 3 * torch.from_numpy(tone(0.3, 22_050)).float()
    with caplog.at_level(logging.WARNING):
        write_audio(tmp_path / "loud.wav", samples, 22_050)
    assert "clip" in caplog.text
    again = read_audio(tmp_path / "loud.wav").samples
    assert torch.allclose(again, samples / samples.abs().max(), atol=1e-3)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere/reply.wav", "does not exist"),
        ("reply.mp3", "must end in .wav"),
        ("file/reply.wav", "does not exist"),
        ("folder.wav", "is a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(InputError, match=message):
        check_output_path(tmp_path / place)
    with pytest.raises(InputError, match=message):
        write_audio(tmp_path / place, torch.zeros(100), 16_000)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reply.wav"
    write_audio(path, torch.zeros(100), 16_000)
    before = path.read_bytes()

    def full_disk(*arguments: object, **settings: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.chmod", full_disk)  # after the sound was written beside the old file
    with pytest.raises(InputError, match="No space left"):
        write_audio(path, torch.ones(100), 16_000)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["reply.wav"]


def test_samples_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finite"):
        write_audio(tmp_path / "reply.wav", torch.tensor([0.0, float("nan")]), 16_000)
    assert not list(tmp_path.iterdir())


def test_mel_equals_the_published_front_end(compat_dir: Path) -> None:
    golden = load_file(compat_dir / "mel" / "golden.safetensors")
    mel = MelSpectrogram()(golden["waveform"][None])[0]
    assert mel.shape == golden["mel"].shape
    assert (mel - golden["mel"]).abs().max() < 1e-4


@pytest.mark.parametrize("samples", [512, 767, 768, 22_050])
def test_mel_has_one_frame_for_each_whole_hop(samples: int) -> None:
    assert MelSpectrogram()(torch.randn(2, samples)).shape == (2, 80, samples // 256)


def test_mel_of_too_short_sound_is_refused() -> None:
    with pytest.raises(InputError, match="384 samples are too few"):
        MelSpectrogram()(torch.zeros(1, 384))


def test_mel_of_silence_is_the_floor_and_has_a_gradient() -> None:
    samples = torch.zeros(1, 2048, requires_grad=True)
    mel = MelSpectrogram(MelSettings(floor=1e-3))(samples)
    assert torch.allclose(mel, torch.full_like(mel, 1e-3).log())
    mel.sum().backward()
    assert samples.grad is not None and torch.isfinite(samples.grad).all()
