"""The unit extractor against the published numbers, and its own properties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import as_readable_as_new_files
from transformers import Wav2Vec2Config, Wav2Vec2Model

from usdm.types import InputError
from usdm.units import UnitExtractor, UnitSettings
from usdm.units.conversion import convert_encoder, convert_extractor
from usdm.units.kmeans import fit_centroids, unit_quality

SMALL = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, conv_dim=(16,) * 7,
    conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
)  # fmt: skip
SETTINGS = UnitSettings(layer=1, num_units=20, unit_rate=50)


@pytest.fixture
def extractor() -> UnitExtractor:
    torch.manual_seed(1)
    return UnitExtractor(Wav2Vec2Model(Wav2Vec2Config(**SMALL)), torch.randn(20, 32), SETTINGS)


def published_config(folder: Path) -> tuple[Wav2Vec2Config, UnitSettings]:
    given = json.loads((folder / "config.json").read_text())
    config = Wav2Vec2Config(
        hidden_size=given["model_dim"],
        num_hidden_layers=given["num_layers"],
        num_attention_heads=given["num_heads"],
        intermediate_size=given["ffn_dim"],
        conv_dim=(given["feature_dim"],) * len(given["conv_kernel"]),
        conv_kernel=given["conv_kernel"],
        conv_stride=given["conv_stride"],
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=given["pos_conv_kernel"],
        num_conv_pos_embedding_groups=given["pos_conv_groups"],
    )
    return config, UnitSettings(given["layer_index_0based"], given["num_units"], 50, given["sample_rate"])


@pytest.mark.parametrize("file", ["fairseq.pt", "fairseq2.pt"])
def test_published_checkpoint_gives_the_published_units(compat_dir: Path, tmp_path: Path, file: str) -> None:
    folder = compat_dir / "units"
    config, settings = published_config(folder)
    convert_extractor(folder / file, folder / "kmeans.npy", tmp_path, config=config, settings=settings)
    extractor = UnitExtractor.from_pretrained(tmp_path)
    waveform = torch.from_numpy(np.load(folder / "waveform.npy"))
    features, _ = extractor.features([waveform])
    np.testing.assert_allclose(features[0].detach().numpy(), np.load(folder / "features.npy"), atol=1e-4)
    assert extractor([waveform])[0].tolist() == np.load(folder / "units.npy").tolist()
    assert len(extractor.encoder.encoder.layers) == settings.layer + 1


def test_a_batch_of_unequal_lengths_gives_the_units_of_single_files(extractor: UnitExtractor) -> None:
    waveforms = [torch.randn(length) for length in (16_000, 7_123, 400, 11_111)]
    batched = extractor(waveforms)
    for waveform, units in zip(waveforms, batched, strict=True):
        assert units.tolist() == extractor([waveform])[0].tolist()
    assert [len(units) for units in batched] == [49, 22, 1, 34]


def test_save_and_load_keep_the_units_and_the_hash(extractor: UnitExtractor, tmp_path: Path) -> None:
    extractor.save_pretrained(tmp_path)
    assert as_readable_as_new_files(tmp_path)
    again = UnitExtractor.from_pretrained(tmp_path)
    waveform = torch.randn(20_000)
    assert again([waveform])[0].tolist() == extractor([waveform])[0].tolist()
    assert again.identity == extractor.identity
    assert again.settings == SETTINGS


def test_an_encoder_that_was_trained_with_masking_loads_again(tmp_path: Path) -> None:
    config = Wav2Vec2Config(**SMALL, mask_time_prob=0.05)
    UnitExtractor(Wav2Vec2Model(config), torch.randn(20, 32), SETTINGS).save_pretrained(tmp_path)
    assert UnitExtractor.from_pretrained(tmp_path).settings == SETTINGS


def test_padding_centres_the_frames() -> None:
    torch.manual_seed(1)
    settings = UnitSettings(layer=1, num_units=20, unit_rate=50, padding=40)
    extractor = UnitExtractor(Wav2Vec2Model(Wav2Vec2Config(**SMALL)), torch.randn(20, 32), settings)
    assert len(extractor([torch.randn(16_000)])[0]) == 50  # exactly one in 20 ms


@pytest.mark.parametrize(
    ("settings", "width", "message"),
    [
        (UnitSettings(layer=3, num_units=20, unit_rate=50), 32, "Layer 3 .* 3 layers"),
        (UnitSettings(layer=1, num_units=21, unit_rate=50), 32, r"\(20, 32\).*\(21, 32\)"),
        (SETTINGS, 31, r"\(20, 31\).*\(20, 32\)"),
        (UnitSettings(layer=1, num_units=20, unit_rate=25), 32, "25 Hz.*50 Hz"),
        (UnitSettings(layer=1, num_units=20, unit_rate=50, window=8.0, context=4.0), 32, "8.0 s.*4.0 s"),
        (UnitSettings(layer=1, num_units=20, unit_rate=50, context=0.1), 32, "5 frames.*8"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_both_values(settings: UnitSettings, width: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        UnitExtractor(Wav2Vec2Model(Wav2Vec2Config(**SMALL)), torch.randn(20, width), settings)


def test_too_short_missing_and_unsafe_inputs_are_refused(extractor: UnitExtractor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="399 samples"):
        extractor([torch.randn(399)])
    with pytest.raises(InputError, match="units.json is missing"):
        UnitExtractor.from_pretrained(tmp_path)
    unsafe = tmp_path / "unsafe.pt"
    torch.save({"model": Path("anything")}, unsafe)  # an object, not a tensor
    with pytest.raises(InputError, match="more than tensors"):
        convert_encoder(unsafe, Wav2Vec2Config(**SMALL), 1)
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(unsafe.read_bytes()[:100])
    with pytest.raises(InputError, match="truncated"):
        convert_encoder(truncated, Wav2Vec2Config(**SMALL), 1)
    other = tmp_path / "other.pt"
    torch.save({"model": {"layer_norm.weight": torch.zeros(16)}}, other)
    with pytest.raises(InputError, match="does not fit"):
        convert_encoder(other, Wav2Vec2Config(**SMALL), 1)


def test_kmeans_finds_separate_groups() -> None:
    groups = torch.arange(6).repeat_interleave(200)
    features = torch.nn.functional.one_hot(groups, 8).float() * 10 + 0.1 * torch.randn(1200, 8)
    centroids = fit_centroids(features, 6, seed=0)
    units = (features[:, None] - centroids).pow(2).sum(-1).argmin(1)
    quality = unit_quality(units, groups)
    assert quality.used_units == 6
    assert quality.phone_purity == pytest.approx(1.0)
    assert quality.pnmi == pytest.approx(1.0)
    assert unit_quality(torch.zeros(100, dtype=torch.long), groups[:1200:12]).pnmi == pytest.approx(0.0)
    with pytest.raises(InputError, match="5 frames cannot make 6 units"):
        fit_centroids(features[:5], 6, seed=0)
