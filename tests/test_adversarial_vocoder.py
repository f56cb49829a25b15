"""Adversarial training of the vocoder: both sides learn, and only the vocoder is left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hums import write_hums
from safetensors.torch import load_file
from torch import Tensor

from usdm.training.adversarial_vocoder import AdversarialVocoderTask
from usdm.training.discriminators import (
    Discriminators,
    Judgement,
    PeriodDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from usdm.training.loop import LoopSettings, train
from usdm.types import InputError
from usdm.vocoder import VocosSettings, VocosVocoder, load_vocoder

TINY = VocosSettings(dim=16, intermediate_dim=32, num_layers=1)
SETTINGS = LoopSettings(
    steps=6, learning_rate=1e-3, warmup_steps=1, log_every=1, save_every=2, validate_every=6, threads=1
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hums(tmp_path_factory.mktemp("hums") / "corpus")


def task(corpus: Path, init_from: Path | None = None, settings: VocosSettings = TINY) -> AdversarialVocoderTask:
    return AdversarialVocoderTask(
        [corpus], settings, batch_size=2, crop_frames=16, init_from=init_from, period_width=4, resolution_width=4
    )


def judged(*scores: float) -> list[Judgement]:
    return [Judgement(torch.full((2, 3), score), ()) for score in scores]


def test_hinges_rest_where_both_sides_are_right() -> None:
    assert discriminator_loss(judged(1.0, 5.0), judged(-1.0, -5.0)) == 0
    assert discriminator_loss(judged(0.0), judged(0.0)) == 2
    assert discriminator_loss(judged(0.0, 2.0), judged(0.0, -2.0)) == 1  # the mean over discriminators
    assert adversarial_loss(judged(1.0, 7.0)) == 0
    assert adversarial_loss(judged(-1.0)) == 2


def test_features_match_for_the_same_sound_alone_and_the_recording_has_no_gradient() -> None:
    judges = Discriminators(4, 4)
    recording, made = (torch.randn(2, 3000, requires_grad=True) for _ in range(2))
    assert feature_matching_loss(judges(recording), judges(recording)) == 0
    distance = feature_matching_loss(judges(recording), judges(made))
    distance.backward()
    assert distance > 0
    assert recording.grad is None
    assert made.grad is not None and made.grad.abs().sum() > 0


@pytest.mark.parametrize("period", [2, 7])
def test_a_period_s_phases_are_judged_apart(period: int) -> None:
    judge = PeriodDiscriminator(period, 4)
    sound = torch.randn(1, 40 * period - 1)  # not a multiple: the end is filled by reflection
    other = sound.clone()
    other[0, 20 * period] += 1.0
    changed = (judge(sound).scores != judge(other).scores).flatten(0, 2).any(dim=0)
    assert changed.tolist() == [True] + [False] * (period - 1)


def test_the_default_size_is_for_a_cpu() -> None:
    assert 1e6 < sum(parameter.numel() for parameter in Discriminators().parameters()) < 2e6


def test_discriminators_learn_to_tell_recordings_from_the_vocoder(corpus: Path) -> None:
    trained = task(corpus)
    generator = torch.Generator()
    optimizer = torch.optim.AdamW(trained.discriminators.parameters(), lr=5e-3)

    def unheard() -> Tensor:
        return trained.critic_losses(trained.batch(1000), generator)["loss"]

    assert unheard().item() == pytest.approx(2, abs=0.2)
    for step in range(40):
        optimizer.zero_grad()
        trained.critic_losses(trained.batch(step), generator)["loss"].backward()
        optimizer.step()
    assert unheard().item() < 1


def test_the_vocoder_learns_to_pass(corpus: Path) -> None:
    trained = task(corpus)
    generator = torch.Generator()
    both = (trained.discriminators.parameters(), trained.spectral.vocoder.parameters())
    critic, vocoder = (torch.optim.AdamW(each, lr=5e-3) for each in both)
    for step in range(15):
        critic.zero_grad()
        trained.critic_losses(trained.batch(step), generator)["loss"].backward()
        critic.step()
    before = trained.losses(trained.batch(1000), generator)
    for step in range(15):  # against discriminators that stay as they are
        vocoder.zero_grad()
        trained.losses(trained.batch(step), generator)["adversarial"].backward()
        vocoder.step()
    after = trained.losses(trained.batch(1000), generator)
    assert after["adversarial"] < 0.7 * before["adversarial"]


def test_weights_balance_the_loss(corpus: Path) -> None:
    trained = task(corpus)
    trained.spectral_weight, trained.adversarial_weight, trained.feature_weight = 2.0, 0.5, 3.0
    parts = trained.losses(trained.batch(0), torch.Generator())
    expected = 2 * parts["spectral"] + 0.5 * parts["adversarial"] + 3 * parts["features"]
    torch.testing.assert_close(parts["loss"], expected)
    alone = trained.spectral.losses(trained.batch(0), torch.Generator())
    torch.testing.assert_close(parts["spectral"], alone["loss"])


def rows(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.slow  # the ordinary tests kill every stage in test_torture.py
def test_a_killed_run_goes_on_to_the_same_numbers_and_leaves_a_vocoder_alone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start"
    VocosVocoder(TINY).save_pretrained(start)
    whole = train(task(corpus, start), SETTINGS, tmp_path / "whole")
    killed = task(corpus, start)

    def until_step_5(step: int) -> Tensor:
        if step == 5:
            raise KeyboardInterrupt
        return killed.spectral.batch(step)

    monkeypatch.setattr(killed, "batch", until_step_5)
    with pytest.raises(KeyboardInterrupt):
        train(killed, SETTINGS, tmp_path / "killed")
    assert train(task(corpus, start), SETTINGS, tmp_path / "killed") == whole
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert {"loss", "critic_loss", "adversarial", "features", "spectral"} <= rows(tmp_path / "whole")[0].keys()

    folders = [tmp_path / name / "model" for name in ("whole", "killed")]
    left, right = (load_file(folder / "model.safetensors") for folder in folders)
    assert left.keys() == right.keys() == load_file(start / "model.safetensors").keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert load_vocoder(folders[0]).sample_rate == 22_050


def test_it_starts_from_the_trained_vocoder_and_refuses_another_kind(corpus: Path, tmp_path: Path) -> None:
    trained = VocosVocoder(TINY)
    trained.save_pretrained(tmp_path)
    start = task(corpus, tmp_path).modules()["vocoder"].state_dict()
    assert all(torch.equal(start[name], value) for name, value in trained.state_dict().items())
    with pytest.raises(InputError, match=r"another kind.*dim=16.*dim=24"):
        task(corpus, tmp_path, replace(TINY, dim=24))
