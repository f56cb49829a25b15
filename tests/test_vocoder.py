"""Vocoders: mel spectrograms to sound."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hums import write_hums
from safetensors.torch import load_file

from usdm.audio import MelSpectrogram
from usdm.chain import bundle_folder
from usdm.training.vocoder import SpectralDistance, VocoderTask
from usdm.types import InputError
from usdm.vocoder import BigVGANVocoder, VocosSettings, VocosVocoder, load_vocoder, vocode_batch
from usdm.vocoder.cuda_kernel import why_no_fused_activation

TINY = VocosSettings(dim=16, intermediate_dim=32, num_layers=1)


@pytest.mark.parametrize("frames", [1, 2, 37])
def test_every_frame_becomes_one_hop_of_sound(frames: int) -> None:
    sound = VocosVocoder(TINY)(torch.randn(2, 80, frames))
    assert sound.shape == (2, frames * 256)


def test_a_batch_of_any_lengths_sounds_as_each_alone() -> None:
    vocoder = load_vocoder(bundle_folder("tiny") / "vocoder")
    mels = [torch.randn(80, length) - 5 for length in (46, 120, 0, 47, 90, 1, 46)]
    sounds = vocode_batch(vocoder, mels)
    assert [len(sound) for sound in sounds] == [mel.shape[1] * 256 for mel in mels]
    for mel, sound in zip(mels, sounds, strict=True):
        if mel.shape[1]:
            with torch.no_grad():
                assert (sound - vocoder(mel[None])[0]).abs().max() < 1e-4
    assert vocode_batch(vocoder, []) == []


def test_the_mel_of_what_is_heard_has_as_many_frames() -> None:
    vocoder = VocosVocoder(TINY)
    mel = torch.randn(1, 80, 20)
    assert MelSpectrogram(vocoder.mel)(vocoder(mel)).shape == mel.shape


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 0.0), (torch.float16, 1e-2)])
def test_saved_and_loaded_it_sounds_the_same(tmp_path: Path, dtype: torch.dtype | None, tolerance: float) -> None:
    vocoder = VocosVocoder(TINY).eval()
    vocoder.save_pretrained(tmp_path, dtype=dtype)
    loaded = load_vocoder(tmp_path)
    assert isinstance(loaded, VocosVocoder)
    assert loaded.settings == TINY
    assert next(loaded.parameters()).dtype == torch.float32
    mel = torch.randn(1, 80, 12)
    assert (loaded(mel) - vocoder(mel)).abs().max() <= tolerance


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    VocosVocoder(TINY).save_pretrained(tmp_path / "full")
    VocosVocoder(TINY).save_pretrained(tmp_path / "half", dtype=torch.float16)
    full, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full


def test_damaged_folders_say_what_is_wrong(tmp_path: Path) -> None:
    VocosVocoder(TINY).save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    good_weights, good_config = weights.read_bytes(), config.read_text()

    weights.write_bytes(good_weights[:1000])
    with pytest.raises(InputError, match=r"model.safetensors: damaged or cut off"):
        load_vocoder(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match=r"model.safetensors: no such file"):
        load_vocoder(tmp_path)
    weights.write_bytes(good_weights)
    config.write_text(json.dumps({**json.loads(good_config), "dim": 24}))
    with pytest.raises(InputError, match=r"does not fit config.json"):
        load_vocoder(tmp_path)
    config.write_text(json.dumps({**json.loads(good_config), "model_type": "wavenet"}))
    with pytest.raises(InputError, match="wavenet"):
        load_vocoder(tmp_path)
    config.write_text(good_config[:20])
    with pytest.raises(InputError, match="not valid JSON"):
        load_vocoder(tmp_path)
    config.unlink()
    with pytest.raises(InputError, match=r"config.json: no such file"):
        load_vocoder(tmp_path)


class TestBigVGAN:
    def test_it_reproduces_the_published_generator(self, compat_dir: Path) -> None:
        golden = load_file(compat_dir / "bigvgan" / "golden.safetensors")
        vocoder = load_vocoder(compat_dir / "bigvgan")
        assert isinstance(vocoder, BigVGANVocoder)
        assert vocoder.sample_rate == 22_050
        assert vocoder.mel.f_max == 8_000
        with torch.no_grad():
            sound = vocoder(golden["mel"])
        assert sound.shape == (1, golden["mel"].shape[-1] * 256)
        assert (sound - golden["audio"][:, 0]).abs().max() < 1e-4

    def test_a_kernel_that_cannot_be_had_is_told_or_done_without(
        self, compat_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        if torch.cuda.is_available():
            pytest.skip("what happens without a CUDA device can only be seen without one")
        with pytest.raises(InputError, match="finds no CUDA device.*nvcc"):
            load_vocoder(compat_dir / "bigvgan", use_cuda_kernel=True)
        with caplog.at_level(logging.INFO, logger="usdm"):
            vocoder = load_vocoder(compat_dir / "bigvgan", use_cuda_kernel=None)
        assert "works without its CUDA kernel" in caplog.text
        assert vocoder(torch.randn(1, 80, 3)).shape == (1, 3 * 256)

    @pytest.mark.gpu
    def test_the_kernel_changes_nothing(self, compat_dir: Path) -> None:
        if (reason := why_no_fused_activation()) is not None:
            pytest.skip(f"the kernel cannot be compiled here: {reason}")
        golden = load_file(compat_dir / "bigvgan" / "golden.safetensors")
        vocoder = BigVGANVocoder.from_pretrained(compat_dir / "bigvgan", use_cuda_kernel=True).to("cuda")
        with torch.no_grad():
            sound = vocoder(golden["mel"].to("cuda"))
        assert (sound.cpu() - golden["audio"][:, 0]).abs().max() < 1e-2

    def test_a_batch_of_any_lengths_sounds_as_each_alone(self, compat_dir: Path) -> None:
        vocoder = load_vocoder(compat_dir / "bigvgan")
        mels = [torch.randn(80, 2 * vocoder.context_frames + more) - 5 for more in (12, 1)]
        for mel, sound in zip(mels, vocode_batch(vocoder, mels), strict=True):
            with torch.no_grad():
                assert (sound - vocoder(mel[None])[0]).abs().max() < 1e-4

    def test_a_cut_off_file_is_refused(self, compat_dir: Path, tmp_path: Path) -> None:
        shutil.copy(compat_dir / "bigvgan" / "config.json", tmp_path)
        with pytest.raises(InputError, match="no such file"):
            load_vocoder(tmp_path)
        whole = (compat_dir / "bigvgan" / "bigvgan_generator.pt").read_bytes()
        (tmp_path / "bigvgan_generator.pt").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="damaged"):
            load_vocoder(tmp_path)


def test_spectral_distance_knows_equal_louder_and_other_sound() -> None:
    distance = SpectralDistance(512, 40, 22_050)
    sound = 0.1 * torch.randn(1, 8_000)
    assert all(value < 1e-5 for value in distance(sound, sound).values())
    doubled = distance(2 * sound, sound)
    assert doubled["mel"].item() == pytest.approx(np.log(2), rel=0.05)
    assert doubled["convergence"].item() == pytest.approx(1.0, rel=0.01)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_hums(tmp_path / "corpus")  # one is shorter than a crop


def task(corpus: Path, roles: list[str] | None = None, seed: int = 0) -> VocoderTask:
    return VocoderTask([corpus], TINY, roles=roles, batch_size=3, crop_frames=24, seed=seed)


def test_batches_depend_on_seed_and_step_alone(corpus: Path) -> None:
    first, second = task(corpus), task(corpus)
    second.batch(0)
    assert first.batch(5).shape == (3, 24 * 256)
    assert torch.equal(first.batch(5), second.batch(5))
    assert not torch.equal(first.batch(5), first.batch(6))
    assert not torch.equal(first.batch(5), task(corpus, seed=1).batch(5))


def test_training_lowers_the_loss(corpus: Path) -> None:
    trained = task(corpus)
    generator = torch.Generator()
    optimizer = torch.optim.AdamW(trained.vocoder.parameters(), lr=5e-3)
    before = trained.losses(trained.batch(0), generator)["loss"].item()
    for step in range(30):
        optimizer.zero_grad()
        trained.losses(trained.batch(step), generator)["loss"].backward()
        optimizer.step()
    assert trained.losses(trained.batch(0), generator)["loss"].item() < 0.8 * before


def test_validation_leaves_sound_and_pictures_and_the_folder_loads(corpus: Path, tmp_path: Path) -> None:
    trained = task(corpus, roles=["agent"])
    figures = trained.validate(7, tmp_path)
    assert figures["mel_distance"] > 0
    assert sorted(path.name for path in tmp_path.glob("0000007*")) == ["0000007_0.png", "0000007_0.wav"]
    trained.save(tmp_path / "model")
    assert load_vocoder(tmp_path / "model").sample_rate == 22_050


def test_a_corpus_without_the_role_is_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="role"):
        task(corpus, roles=["narrator"])
    with pytest.raises(InputError, match="'dev' has a role"):
        task(corpus, roles=["user"])
