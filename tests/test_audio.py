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
        ("wav", "DOUBLE"),
        ("wav", "ULAW"),
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


def test_channels_that_cancel_are_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = tone(0.2, 16_000)
    noise = 0.05 * np.random.default_rng(0).normal(size=3200)
    soundfile.write(tmp_path / "turned.wav", np.stack([0.8 * left, noise - left], 1), 16_000, subtype="FLOAT")
    samples = read_audio(tmp_path / "turned.wav").samples
    assert torch.allclose(samples, torch.from_numpy(noise - left).float(), atol=1e-6)  # the louder one, as it is
    assert "cancel each other" in caplog.text and "channel 1" in caplog.text
    check_speech(read_audio(tmp_path / "turned.wav"))
    caplog.clear()
    assert torch.allclose(read_audio(tmp_path / "turned.wav", channel=0).samples, 0.8 * torch.from_numpy(left).float())
    assert not caplog.text


@pytest.mark.parametrize("others", ["the same", "silent", "unrelated", "later"])
def test_channels_that_do_not_cancel_are_averaged(
    others: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left, channels = tone(0.2, 16_000), np.zeros((3200, 5))
    channels[:, 2] = left
    if others == "the same":
        channels[:] = left[:, None]
    elif others == "unrelated":
        channels = 0.1 * np.random.default_rng(0).normal(size=(3200, 5))
    elif others == "later":
        channels[1600:, 2], channels[1600:, 4] = 0, left[1600:]  # one speaks after the other
    soundfile.write(tmp_path / "many.wav", channels, 16_000, subtype="DOUBLE")
    samples = read_audio(tmp_path / "many.wav").samples
    assert torch.allclose(samples, torch.from_numpy(channels.mean(axis=1)).float(), atol=1e-6)
    assert not caplog.text


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("format_", "subtype"),
    [
        *[("WAV", subtype) for subtype in ("PCM_16", "PCM_24", "DOUBLE", "ULAW")],
        *[("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("MP3", "MPEG_LAYER_III")],
    ],
)
def test_a_file_that_broke_off_says_how_much_is_missing(
    format_: str, subtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sound.bin"
    soundfile.write(path, tone(10.0, 16_000), 16_000, format=format_, subtype=subtype)
    assert read_audio(path, 16_000).seconds == pytest.approx(10.0, abs=0.1)
    assert not caplog.text
    cut(path, 0.4)
    told: list[str] = []
    assert read_audio(path, warn=told.append).seconds == pytest.approx(4.0, abs=0.4)
    assert len(told) == 1 and "of the 10.0 s that it states are not" in told[0]
    assert read_audio(path, start=1.0, seconds=2.0, warn=told.append).seconds == 2.0  # nothing of this is missing
    assert len(told) == 1
    assert read_audio(path, start=3.0, seconds=2.0, warn=told.append).seconds < 1.3
    assert "of the 2.00 s from 3.00 s on are there" in told[1]
    cut(path, 0.3)
    with pytest.raises(InputError, match=r"of the 10.0 s that it states are not; fetch it again"):
        read_audio(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_that_broke_off_says_so(subtype: str, tmp_path: Path) -> None:
    path, told = tmp_path / "sound.ogg", list[str]()
    soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=160_000), 16_000, format="OGG", subtype=subtype)
    read_audio(path, warn=told.append)
    assert not told
    cut(path, 0.5)
    assert 3 < read_audio(path, warn=told.append).seconds < 7
    assert len(told) == 1 and "breaks off after" in told[0]


def test_a_flac_file_that_broke_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.flac"
    soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=160_000), 16_000)
    cut(path, 0.5)
    with pytest.raises(InputError, match="or one that broke off"):
        read_audio(path)


@pytest.mark.parametrize("size", [0x7FFFFFFF - 36, 0xFFFFFFFF])
def test_a_file_written_into_a_pipe_states_no_length(
    size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(1.0, 16_000), 16_000)
    data = bytearray(path.read_bytes())
    data[40:44] = size.to_bytes(4, "little")
    path.write_bytes(data)
    assert read_audio(path).seconds == 1.0
    assert not caplog.text


FOREIGN = {
    "MPEG-4": b"\0\0\0\x20ftypM4A \0\0\0\0",
    "3GP": b"\0\0\0\x18ftyp3gp4\0\0\0\0",
    "WebM": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81",
    "AMR": b"#!AMR\n",
    "AAC": b"\xff\xf1P\x80",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_phones_write_wants_ffmpeg(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my voice.m4a"
    path.write_bytes(FOREIGN[name] + bytes(100))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=rf"{name}.*ffmpeg -i 'my voice.m4a' 'my voice.wav'"):
        read_audio(path)
    with pytest.raises(InputError, match=rf"the recording: {name}"):
        read_audio(path.read_bytes())


def test_ffmpeg_decodes_what_phones_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for ffmpeg: it must be told the format, and its sound is what is read."""
    soundfile.write(tmp_path / "decoded.wav", tone(1.0, 16_000), 16_000)
    program = tmp_path / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *"-f mov -i file:"*) /bin/cat "{tmp_path}/decoded.wav" ;;\n'
        '*) echo "no such demuxer" >&2; exit 1 ;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(FOREIGN["MPEG-4"])
    (tmp_path / "a.webm").write_bytes(FOREIGN["WebM"])
    assert read_audio(tmp_path / "a.m4a").seconds == 1.0
    assert read_audio((tmp_path / "a.m4a").read_bytes()).seconds == 1.0
    with pytest.raises(InputError, match="ffmpeg cannot decode .no such demuxer"):
        read_audio(tmp_path / "a.webm")


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
