"""Every kind of encoder gives the layer that transformers gives, alone, in batches, in pieces, and after conversion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    BertConfig,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from usdm.types import InputError
from usdm.units import UnitExtractor, UnitSettings
from usdm.units.conversion import convert_extractor
from usdm.units.encoder import channel_statistics, encode, is_log_mel, receptive_field
from usdm.units.log_mel import LogMelConfig, LogMelModel
from usdm.units.sliding import encode_long
from usdm.units.wav2vec2 import Wav2Vec2

LAYER, NUM_UNITS, WIDTH = 1, 12, 32
SETTINGS = UnitSettings(layer=LAYER, num_units=NUM_UNITS, unit_rate=100)
SMALL: dict[str, Any] = dict(
    hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 6,
    conv_kernel=(10, 3, 3, 3, 3, 2), conv_stride=(5, 2, 2, 2, 2, 2), num_feat_extract_layers=6,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_prob=0.0,
)  # fmt: skip
GROUP = dict(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False)
LAYERED = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
DATA2VEC = SMALL | dict(num_conv_pos_embeddings=3, conv_pos_kernel_size=5)
LOG_MEL = dict(
    hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, conv_dim=(20, 24, WIDTH),
    conv_stride=(160, 1, 1), mask_time_prob=0.0,
)  # fmt: skip
KINDS = {
    "wav2vec2": lambda: Wav2Vec2Model(Wav2Vec2Config(**SMALL, **GROUP)),
    "xlsr": lambda: Wav2Vec2Model(Wav2Vec2Config(**SMALL, **LAYERED)),
    "hubert": lambda: HubertModel(HubertConfig(**SMALL, **GROUP)),
    "hubert-large": lambda: HubertModel(HubertConfig(**SMALL, **LAYERED)),
    "hubert-batch-norm": lambda: HubertModel(HubertConfig(**SMALL, **LAYERED, conv_pos_batch_norm=True)),
    "wavlm": lambda: WavLMModel(WavLMConfig(**SMALL, **GROUP)),
    "wavlm-large": lambda: WavLMModel(WavLMConfig(**SMALL, **LAYERED)),
    "data2vec": lambda: Data2VecAudioModel(Data2VecAudioConfig(**DATA2VEC)),
    "log-mel": lambda: LogMelModel(LogMelConfig(**LOG_MEL)),
}


@pytest.fixture(params=KINDS)
def full(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(3)
    model = KINDS[request.param]().eval()
    with torch.no_grad():  # norms and gates that do something
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "rel_attn_embed" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def sound(length: int, seed: int = 0) -> Tensor:
    """Noise with a slow swell, so that every stretch has another mean and loudness."""
    time = torch.arange(length) / 16_000
    noise = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    return noise * (0.05 + 0.04 * torch.sin(3 * time)) + 0.02 * torch.cos(time)


def reference(model: PreTrainedModel, waveform: Tensor) -> Tensor:
    """(U, D): what transformers gives for the layer, in one pass."""
    heard = functional.layer_norm(waveform, waveform.shape)
    with torch.inference_mode():
        return as_features(model, model(heard[None], output_hidden_states=True).hidden_states[LAYER + 1])[0]


def as_features(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return functional.layer_norm(hidden, hidden.shape[-1:]) if is_log_mel(model.config) else hidden


def extractor_of(model: PreTrainedModel, settings: UnitSettings = SETTINGS) -> UnitExtractor:
    """A copy's extractor: the model itself keeps its upper layers."""
    copy = type(model)(type(model.config).from_dict(model.config.to_dict()))
    copy.load_state_dict(model.state_dict())
    return UnitExtractor(copy, reference(model, sound(20_000))[5 : 5 + NUM_UNITS], settings)


def test_features_are_those_of_the_layer_before_any_final_norm(full: PreTrainedModel) -> None:
    extractor = extractor_of(full)
    features, lengths = extractor.features([sound(20_000)])
    expected = reference(full, sound(20_000))
    torch.testing.assert_close(features[0], expected, atol=1e-4, rtol=1e-4)
    assert lengths == [len(expected)]
    # Centroids are frames of this very waveform.
    assert extractor([sound(20_000)])[0][5 : 5 + NUM_UNITS].tolist() == list(range(NUM_UNITS))


def test_the_last_layer_has_no_final_norm_either(full: PreTrainedModel) -> None:
    settings = replace(SETTINGS, layer=2)
    last: list[Tensor] = []
    full.encoder.layers[2].register_forward_hook(
        lambda _, __, output: last.append(output[0] if isinstance(output, tuple) else output)
    )
    reference(full, sound(8_000))
    features, _ = extractor_of(full, settings).features([sound(8_000)])
    torch.testing.assert_close(features, as_features(full, last[0]), atol=1e-4, rtol=1e-4)


def test_a_batch_of_unequal_lengths_gives_what_single_files_give(full: PreTrainedModel) -> None:
    extractor = extractor_of(full)
    shortest = receptive_field(full.config)
    waveforms = [sound(length, seed) for seed, length in enumerate((16_000, 7_123, shortest, 11_111, 7_123))]
    for waveform, units in zip(waveforms, extractor(waveforms), strict=True):
        assert units.tolist() == extractor([waveform])[0].tolist()
    features, lengths = extractor.features(waveforms)
    for waveform, row, length in zip(waveforms, features, lengths, strict=True):
        torch.testing.assert_close(row[:length], reference(full, waveform), atol=1e-4, rtol=1e-4)


# A log-mel encoder counts positions in each window anew; the test below this one is for it.
@pytest.mark.parametrize("full", [kind for kind in KINDS if kind != "log-mel"], indirect=True)
def test_where_windows_end_does_not_matter(full: PreTrainedModel) -> None:
    waveform = sound(16_000 * 6)
    windows = (0.9, 1.3, 2.0)
    features = [
        extractor_of(full, replace(SETTINGS, window=window, context=0.2)).features([waveform])[0] for window in windows
    ]
    for other in features[1:]:
        torch.testing.assert_close(features[0], other, atol=1e-4, rtol=1e-4)


def test_a_window_of_an_encoder_that_counts_positions_is_encoded_as_it_stands() -> None:
    torch.manual_seed(3)
    encoder = extractor_of(KINDS["log-mel"]().eval()).encoder
    waveform = sound(16_000 * 2)  # frames of 10 ms, each sees 65 ms
    with torch.inference_mode():
        features = encode_long(encoder, waveform, None, 80, 20)
        window = encode(encoder, [waveform[20 * 160 : 100 * 160 + 880]], [None])[0]  # its middle 40 frames are kept
    torch.testing.assert_close(features[40:80], window[20:60], atol=1e-4, rtol=1e-4)


def test_windows_change_nothing_where_attention_reaches_everything(full: PreTrainedModel) -> None:
    heard = functional.layer_norm(sound(16_000), (16_000,))
    frames = len(reference(full, sound(16_000)))
    encoder = extractor_of(full).encoder
    with torch.inference_mode():
        features = encode_long(encoder, heard, channel_statistics(encoder, heard), 2 * frames + 30, frames)
    torch.testing.assert_close(features, reference(full, sound(16_000)), atol=1e-4, rtol=1e-4)


def test_upper_layers_are_neither_kept_nor_saved(full: PreTrainedModel, tmp_path: Path) -> None:
    extractor = extractor_of(full)
    assert len(extractor.encoder.encoder.layers) == LAYER + 1
    extractor.save_pretrained(tmp_path)
    again = UnitExtractor.from_pretrained(tmp_path)
    assert again.encoder.config.model_type == full.config.model_type
    assert again([sound(9_000)])[0].tolist() == extractor([sound(9_000)])[0].tolist()


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_published_kind_of_encoder_needs_nothing_of_transformers(tmp_path: Path, activation: str) -> None:
    torch.manual_seed(4)
    config = Wav2Vec2Config(**SMALL, **LAYERED, feat_extract_activation=activation)
    theirs = extractor_of(Wav2Vec2Model(config).eval(), replace(SETTINGS, window=0.9, context=0.2))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = UnitExtractor.from_pretrained(tmp_path / "theirs")
    assert isinstance(theirs.encoder, Wav2Vec2Model) and isinstance(ours.encoder, Wav2Vec2)
    waveforms = [
        sound(length, seed) for seed, length in enumerate((9_000, 14_123, 16_000 * 3, 5_000))
    ]  # one in windows
    for one, other in zip(theirs.features(waveforms)[0], ours.features(waveforms)[0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    for name in ("config.json", "units.json"):
        first, second = (json.loads((tmp_path / folder / name).read_text()) for folder in ("theirs", "ours"))
        assert first == second
    assert load_file(tmp_path / "ours/model.safetensors").keys() == ours.encoder.state_dict().keys()


@pytest.mark.parametrize("weights", ["safetensors", "pickle"])
def test_a_folder_in_transformers_layout_is_converted(full: PreTrainedModel, tmp_path: Path, weights: str) -> None:
    extractor = extractor_of(full)
    save(full, tmp_path / "hub", weights)
    np.save(tmp_path / "km.npy", extractor.centroids.numpy())

    def convert(pickled: bool) -> None:
        convert_extractor(
            tmp_path / "hub",
            tmp_path / "km.npy",
            tmp_path / "units",
            config=None,
            settings=SETTINGS,
            pickled=pickled,
        )

    if weights == "pickle":  # only where it is asked for
        with pytest.raises(InputError, match="pytorch_model.bin, which is pickled, are read with pickled=true alone"):
            convert(False)
    convert(weights == "pickle")
    converted = UnitExtractor.from_pretrained(tmp_path / "units")
    assert converted([sound(12_345)])[0].tolist() == extractor([sound(12_345)])[0].tolist()
    stored = json.loads((tmp_path / "units" / "units.json").read_text())
    assert stored["layer"] == LAYER
    assert stored["centroid_hash"] == extractor.identity
    assert json.loads((tmp_path / "units" / "config.json").read_text())["model_type"] == full.config.model_type


def save(model: PreTrainedModel, folder: Path, weights: str = "safetensors", normalize: bool = True) -> None:
    """As on the hub; the older files are pickled and have weight norm's older names."""
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    if weights == "pickle":
        (folder / "model.safetensors").unlink()
        older = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        state = {}
        for name, value in model.state_dict().items():
            for new, old in older.items():
                name = name.replace(new, old)
            state[name] = value
        torch.save(state, folder / "pytorch_model.bin")


@pytest.mark.parametrize("head", ["ctc", "pretraining"])
def test_models_with_a_head_are_converted(tmp_path: Path, head: str) -> None:
    torch.manual_seed(0)
    if head == "ctc":
        model = HubertForCTC(HubertConfig(**SMALL, **GROUP, vocab_size=9)).eval()
        inner = model.hubert
    else:
        model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**SMALL, **LAYERED)).eval()
        inner = model.wav2vec2
    save(model, tmp_path / "hub")
    np.save(tmp_path / "km.npy", np.random.default_rng(0).normal(size=(NUM_UNITS, WIDTH)))
    converted = convert_extractor(
        tmp_path / "hub", tmp_path / "km.npy", tmp_path / "units", config=None, settings=SETTINGS
    )
    features, _ = converted.features([sound(9_000)])
    torch.testing.assert_close(features[0], reference(inner, sound(9_000)), atol=1e-4, rtol=1e-4)


def test_waveforms_are_normalised_as_the_preprocessor_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = KINDS["hubert-large"]()
    save(model, tmp_path / "hub", normalize=False)
    np.save(tmp_path / "km.npy", np.random.default_rng(0).normal(size=(NUM_UNITS, WIDTH)))
    with pytest.raises(InputError, match="do_normalize=False.*settings.normalize is True"):
        convert_extractor(tmp_path / "hub", tmp_path / "km.npy", tmp_path / "units", config=None, settings=SETTINGS)
    plain = replace(SETTINGS, normalize=False)
    converted = convert_extractor(tmp_path / "hub", tmp_path / "km.npy", tmp_path / "u", config=None, settings=plain)
    with torch.inference_mode():
        expected = model.eval()(sound(9_000)[None], output_hidden_states=True).hidden_states[LAYER + 1]
    torch.testing.assert_close(converted.features([sound(9_000)])[0], expected, atol=1e-4, rtol=1e-4)


def test_folders_that_do_not_serve_are_refused(tmp_path: Path) -> None:
    centroids = tmp_path / "km.npy"
    np.save(centroids, np.zeros((NUM_UNITS, WIDTH), np.float32))

    def convert(folder: Path, settings: UnitSettings = SETTINGS) -> None:
        convert_extractor(folder, centroids, tmp_path / "units", config=None, settings=settings, pickled=True)

    save(KINDS["hubert"](), tmp_path / "hub")
    with pytest.raises(InputError, match="3 layers, so there is no layer 3"):
        convert(tmp_path / "hub", replace(SETTINGS, layer=3))
    with pytest.raises(InputError, match="16000 Hz, but settings.sample_rate is 8000 Hz"):
        convert(tmp_path / "hub", replace(SETTINGS, sample_rate=8_000, unit_rate=50))
    with pytest.raises(InputError, match="unit_rate is 50 Hz.*100 Hz"):
        convert(tmp_path / "hub", replace(SETTINGS, unit_rate=50))
    with pytest.raises(InputError, match=r"\(12, 32\).*13"):
        convert(tmp_path / "hub", replace(SETTINGS, num_units=13))
    weights = tmp_path / "hub" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        convert(tmp_path / "hub")
    weights.unlink()
    torch.save({"a": Path("anything")}, tmp_path / "hub" / "pytorch_model.bin")
    with pytest.raises(InputError, match="more than tensors"):
        convert(tmp_path / "hub")
    (tmp_path / "hub" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="preprocessor_config.json"):
        convert(tmp_path / "hub")
    BertConfig().save_pretrained(tmp_path / "bert")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="'bert', but units come from encoders of wav2vec2, hubert, wavlm"):
        convert(tmp_path / "bert")
    with pytest.raises(InputError, match="nobody/nothing"):
        convert(Path("nobody/nothing"))
    assert not (tmp_path / "units").exists()
