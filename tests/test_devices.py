"""GPUs that are not there: fake tensors have a device and no numbers, and refuse to mix devices as real ones do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_encoder_training import CONFIG, LOG_MEL, corpus, whisper  # noqa: F401 (fixtures)
from tiny_models import random_extractor
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from usdm.training.encoder import EncoderBatch, EncoderTask, WhisperStart
from usdm.units.kmeans import fit_centroids, mini_batch_kmeans, refined

GPU = "cuda:0"


@pytest.fixture
def fake_tensors(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Questions about numbers are answered with no, and CTC, which torch cannot fake, with zeros."""

    def ctc_loss(logits: Tensor, targets: Tensor, *_: Tensor, **options: object) -> Tensor:
        assert logits.device == targets.device
        return 0.0 * logits.sum((0, 2))

    monkeypatch.setattr(FakeTensor, "__bool__", lambda self: False)
    monkeypatch.setattr(torch.nn.functional, "ctc_loss", ctc_loss)
    return FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), static_shapes=True)


def on_gpu(module: nn.Module) -> None:
    """To be called while tensors are fake."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(torch.empty_like(value, device=GPU), value.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device=GPU)


@pytest.mark.parametrize("kind", ["wav2vec2", "log-mel", "whisper"])
def test_the_encoder_learns_on_its_device(
    kind: str,
    corpus: Path,  # noqa: F811
    whisper: str,  # noqa: F811
    fake_tensors: FakeTensorMode,
) -> None:
    config = CONFIG if kind == "wav2vec2" else LOG_MEL
    start = WhisperStart(whisper, teacher_weight=1.0, frozen_layers=0) if kind == "whisper" else None
    task = EncoderTask([str(corpus)], config, layer=1, padding=200, whisper=start)
    batch = task.batch(0)
    task.model.eval()  # in training it draws a number
    with fake_tensors as mode:
        on_gpu(task.model)
        if task.teacher is not None:
            on_gpu(task.teacher)
        losses = task.losses(_fake(mode, batch).to(GPU), torch.Generator())
        assert {str(loss.device) for loss in losses.values()} == {GPU}


def _fake(mode: FakeTensorMode, batch: EncoderBatch) -> EncoderBatch:
    return EncoderBatch(
        [mode.from_tensor(waveform) for waveform in batch.waveforms],
        mode.from_tensor(batch.frame_labels),
        [mode.from_tensor(phones) for phones in batch.phones],
    )


def test_units_are_extracted_on_the_encoders_device(fake_tensors: FakeTensorMode) -> None:
    extractor = random_extractor(20)
    with fake_tensors as mode, torch.inference_mode():
        on_gpu(extractor)
        waveforms = [mode.from_tensor(torch.zeros(samples)) for samples in (16_000, 12_000)]
        features, lengths = extractor.features(waveforms)
        assert str(features.device) == GPU and lengths == [25, 19]
        assert [str(units.device) for units in extractor(waveforms)] == ["cpu", "cpu"]


@pytest.mark.parametrize("initial", [None, torch.zeros(8, 4)])
def test_k_means_works_on_its_device_and_gives_centroids_back(
    initial: Tensor | None, fake_tensors: FakeTensorMode
) -> None:
    with fake_tensors as mode:
        features = mode.from_tensor(torch.zeros(500, 4))
        start = None if initial is None else mode.from_tensor(initial)
        centroids = fit_centroids(features, 8, seed=0, initial=start, device=GPU)
        assert centroids.shape == (8, 4) and str(centroids.device) == "cpu"


def test_the_device_is_handed_on(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("LOCAL_RANK", "3")
    moved = []
    monkeypatch.setattr(nn.Module, "to", lambda self, device: moved.append(device) or self)
    task = EncoderTask([str(corpus)], CONFIG, layer=1, padding=0, device="cuda")
    assert task.device == "cuda:3" and moved == ["cuda:3"]


def inertia(features: Tensor, centroids: Tensor) -> float:
    return float(torch.cdist(features, centroids).amin(1).square().mean())


def test_k_means_of_a_device_is_as_good_as_scikit_learns() -> None:
    random = torch.Generator().manual_seed(0)
    middles = 1.5 * torch.randn(40, 6, generator=random)
    features = middles.repeat(500, 1) + torch.randn(20_000, 6, generator=random)
    theirs = fit_centroids(features, 40, seed=0)
    ours = mini_batch_kmeans(features, 40, seed=0, device="cpu")
    assert inertia(features, ours) < 1.02 * inertia(features, theirs)
    assert torch.equal(ours, mini_batch_kmeans(features, 40, seed=0, device="cpu"))

    moved = ours + 0.5
    near = refined(features, moved, "cpu")
    torch.testing.assert_close(near, fit_centroids(features, 40, seed=0, initial=moved), atol=0.02, rtol=0)
    far = torch.cat([ours, torch.full((1, 6), 1e3)])
    assert torch.equal(refined(features, far, "cpu")[-1], far[-1])  # nobody is near: it stays
