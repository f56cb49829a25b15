"""Reading sound files of any kind as mono float32 in [-1, 1]."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import soundfile
import torch
from torch import Tensor

from usdm.audio.channels import mix_down
from usdm.audio.containers import PhoneFormat, lacks_ogg_end, phone_format, share_there
from usdm.audio.io import HIGHEST_SAMPLE_RATE, LOWEST_SAMPLE_RATE, resample
from usdm.types import InputError, Waveform

logger = logging.getLogger(__name__)

Warn = Callable[[str], None]

SMALLEST_SHARE = 0.25  # of the sound that a file states; with less of it, it is no answer to what was said
TOLERANCE = 0.1  # seconds, and of the stated length a hundredth: encoders round
DECODING_LIMIT = 300.0  # seconds that ffmpeg may take


@dataclass(frozen=True)
class _Recording:
    """What was decoded, before it is mixed down."""

    channels: Tensor  # (T, C) float32
    sample_rate: int  # Hz
    stated: float | None  # seconds that the file should last; None: not known, or not asked


def read_audio(
    source: str | Path | bytes,
    sample_rate: int | None = None,
    max_seconds: float | None = None,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    channel: int | None = None,
    warn: Warn = logger.warning,
) -> Waveform:
    """Read a sound file, or its bytes, as mono float32: whatever libsndfile opens (WAV, FLAC, Ogg Vorbis or Opus, MP3,
    ...), and what phones and browsers write (M4A, 3GP, WebM, AMR, ...) if the program ffmpeg is there.

    Channels are averaged (see `mix_down`), or one of them (`channel`, from 0) is taken. With `sample_rate` (Hz) the
    sound is resampled to it, otherwise it keeps its own. Only `seconds` from `start` (s) on are read; None is all the
    rest. `warn` is told of a file that broke off, of channels that cancel, and of sound above full scale.

    Raises InputError for a file that is missing, empty, unreadable, not finite, outside the supported sample
    rates, or longer than `max_seconds`, for a start or channel that it does not have, and for one that broke off
    before a quarter of what it should hold.
    """
    where = "the recording" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise InputError(f"{where}: no such file; give the path of an existing sound file")
    if not (len(source) if isinstance(source, bytes) else Path(source).stat().st_size):
        raise InputError(f"{where}: the file is empty (0 bytes); record or export it again")
    read = _decode(source, where, max_seconds, start, seconds, warn)
    channels, rate = read.channels, read.sample_rate
    if len(channels) == 0:
        raise InputError(f"{where}: the file holds no samples; record or export it again")
    if channel is not None and not 0 <= channel < channels.shape[1]:
        raise InputError(f"{where}: channel {channel} of {channels.shape[1]} (from 0); choose one that it has")
    if seconds is not None and len(channels) / rate < seconds - TOLERANCE:
        warn(f"{where}: only {len(channels) / rate:.2f} s of the {seconds:.2f} s from {start:.2f} s on are there")
    samples = channels[:, channel] if channel is not None else mix_down(channels, lambda note: warn(f"{where}: {note}"))
    if not torch.isfinite(samples).all():
        raise InputError(f"{where}: the file has samples that are not finite (NaN, infinity); export it again")
    if (peak := samples.abs().max().item()) > 1.0:  # float files may exceed full scale
        warn(f"{where} peaks at {peak:.3g}, above full scale: scaled down to 1")
        samples = samples / peak
    if read.stated is not None:
        _compare_lengths(len(samples) / rate, read.stated, where, warn)
    elif start == 0 and seconds is None and _breaks_off(source):
        warn(f"{where}: the file breaks off after {len(samples) / rate:.1f} s, before its end; fetch it again")
    return Waveform(resample(samples, rate, rate if sample_rate is None else sample_rate), sample_rate or rate)


def _compare_lengths(there: float, stated: float, where: str, warn: Warn) -> None:
    if stated - there <= max(TOLERANCE, 0.01 * stated):
        return
    missing = stated - there
    told = f"{where}: {there:.1f} s of sound are there, {missing:.1f} s of the {stated:.1f} s that it states are not"
    if there < SMALLEST_SHARE * stated:
        raise InputError(
            f"{told}; fetch it again, or if that is all there is, write it anew: ffmpeg -i FILE.wav whole.wav"
        )
    warn(f"{told}: what is there is taken; fetch it again for the rest")


def _decode(
    source: str | Path | bytes,
    where: str,
    max_seconds: float | None,
    start: float,
    seconds: float | None,
    warn: Warn,
) -> _Recording:
    with _opened(source) as file:
        format_ = phone_format(file.read(16))
        share = share_there(file)
    if format_ is not None:
        source = _by_ffmpeg(source, where, format_, max_seconds, warn)
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as sound:
            rate, frames = sound.samplerate, sound.frames
            if first := round(start * rate):
                if not 0 < first < frames:
                    raise InputError(f"{where}: no sound at {start:g} s; it lasts {frames / rate:g} s")
                sound.seek(first)
            wanted = [] if seconds is None else [round(seconds * rate)]
            # One frame past the limit tells an over-long file without reading all of it.
            limit = [] if max_seconds is None else [int(max_seconds * rate) + 1]
            channels = torch.from_numpy(sound.read(min(wanted + limit, default=-1), dtype="float32", always_2d=True))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(
            f"{where}: not a readable sound file, or one that broke off ({error}); fetch it again, or give a WAV, "
            "FLAC, Ogg, Opus or MP3 file"
        ) from error
    if not LOWEST_SAMPLE_RATE <= rate <= HIGHEST_SAMPLE_RATE:
        raise InputError(
            f"{where}: sample rate {rate} Hz; it must lie in {LOWEST_SAMPLE_RATE}..{HIGHEST_SAMPLE_RATE} Hz, "
            "so convert the file first"
        )
    if max_seconds is not None and len(channels) > max_seconds * rate:
        raise InputError(f"{where}: longer than the limit of {max_seconds:g} s; cut it up or raise the limit")
    if start or seconds is not None:
        return _Recording(channels, rate, None)
    if share:  # libsndfile counts the frames that are there
        frames = round(len(channels) / share)
    return _Recording(channels, rate, frames / rate if frames > len(channels) else None)


def _breaks_off(source: str | Path | bytes) -> bool:
    with _opened(source) as file:
        return lacks_ogg_end(file)


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    with Path(source).open("rb") as file:
        yield file


def _by_ffmpeg(
    source: str | Path | bytes, where: str, format_: PhoneFormat, max_seconds: float | None, warn: Warn
) -> bytes:
    """A WAV file of what libsndfile cannot read. Raises InputError without ffmpeg, or if that cannot read it either."""
    program = shutil.which("ffmpeg")
    if program is None:
        name = "FILE" if isinstance(source, bytes) else Path(source).name
        raise InputError(
            f"{where}: {format_.name}, which only the program ffmpeg decodes; install it (apt-get install ffmpeg), or "
            f"convert the file where there is one: ffmpeg -i '{name}' '{Path(name).stem}.wav'"
        )
    if isinstance(source, bytes):
        with tempfile.NamedTemporaryFile() as file:
            file.write(source)
            file.flush()
            return _by_ffmpeg(file.name, where, format_, max_seconds, warn)
    limit = [] if max_seconds is None else ["-t", str(max_seconds + 1)]
    read = [program, "-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe", "-f", format_.demuxer]
    write = ["-vn", *limit, "-c:a", "pcm_f32le", "-f", "wav", "-"]
    try:
        done = subprocess.run(
            [*read, "-i", f"file:{source}", *write], capture_output=True, timeout=DECODING_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{where}: ffmpeg did not decode it ({error}); convert it to WAV") from error
    said = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"])[-1]
    if done.returncode or not done.stdout:
        raise InputError(f"{where}: {format_.name} that ffmpeg cannot decode ({said}); record or fetch it again")
    if done.stderr.strip():  # it goes on after errors, and leaves out what it cannot read
        warn(f"{where}: part of it may be missing ({said}); fetch it again if it is")
    return done.stdout
