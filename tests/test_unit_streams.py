"""Sound while units still come, of decoders that are networks of convolutions: exactly what they say at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from random_codecs import CODES, random_codec
from test_unit_to_speech import hifigan
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import FeatureExtractor
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from usdm.cli.main import main
from usdm.types import InputError
from usdm.unit_to_speech import DecoderSampling, UnitToSpeech, load_unit_to_speech
from usdm.unit_to_speech.codec import CodecToSpeech
from usdm.unit_to_speech.vocos import VocosUnits, convert_vocos
from usdm.units.codec import CodecSettings, CodecTokenizer


def streamed(speaker: UnitToSpeech, units: Tensor, block: int) -> tuple[Tensor, int]:
    """The whole sound, and how many units had come when it began."""
    stream = speaker.stream(None, 0, DecoderSampling())
    sounds, heard, first = [], 0, 0
    for part in units.split(block):
        heard += len(part)
        sounds.append(stream.push(part))
        first = first or (heard if len(sounds[-1]) else 0)
    sounds.append(stream.finish())
    assert stream.timings["decode"] > 0
    return torch.cat(sounds), first or len(units) + 1


def check_stream(speaker: UnitToSpeech, units: Tensor, latest: int) -> None:
    """`latest`: when units before it have come, it speaks."""
    whole = speaker([units], [None], [0], DecoderSampling()).sounds[0]
    for block in (1, 7):
        sound, first = streamed(speaker, units, block)
        torch.testing.assert_close(sound, whole, atol=2e-5, rtol=0)
        assert first <= latest + block


@pytest.mark.parametrize("durations", [False, True])
def test_a_unit_hifigan(durations: bool) -> None:
    model = hifigan(predict_durations=durations)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)  # so that far units are heard
    units = torch.randint(20, (70,), generator=torch.Generator().manual_seed(0))
    assert model.config.context.left == 7
    check_stream(model, units, latest=20)
    assert len(streamed(model, torch.tensor([3]), 1)[0]) % 640 == 0
    with pytest.raises(InputError, match="this decoder knows 0..19"):
        model.stream(None, 0, DecoderSampling()).push(torch.tensor([20]))


@pytest.mark.parametrize("layout", ["flattened", "delayed"])
@pytest.mark.parametrize(("kind", "waits"), [("dac", 16), ("encodec", 20), ("mimi", 3)])
def test_a_codec(kind: str, waits: int, layout: Any) -> None:
    tokenizer = CodecTokenizer(random_codec(kind), CodecSettings(layout, 2))
    units = tokenizer([0.1 * torch.randn(24_000, generator=torch.Generator().manual_seed(0))])[0].clone()
    units[9] = units[8]  # out of order: the code before stands for it
    check_stream(CodecToSpeech(tokenizer), units, latest=2 * (waits + 8))


def test_a_codec_that_looks_at_everything_waits() -> None:
    tokenizer = CodecTokenizer(random_codec("xcodec2"), CodecSettings("first", 1))
    units = torch.randint(CODES, (30,), generator=torch.Generator().manual_seed(0))
    sound, first = streamed(CodecToSpeech(tokenizer), units, 5)
    assert first == 31 and len(sound) == 30 * 320


# Vocos on EnCodec's codes

BACKBONE = {"input_channels": 16, "dim": 12, "intermediate_dim": 16, "num_layers": 2, "adanorm_num_embeddings": 3}
HEAD = {"dim": 12, "n_fft": 1280, "hop_length": 320, "padding": "same"}
BANDWIDTHS = [0.9, 1.8, 3.6]  # kbit/s: 2, 4 and 8 codebooks of 6 bits


def published(folder: Path) -> Vocos:
    """Small random weights in the published files. (For its features the package would download a whole EnCodec.)"""
    torch.manual_seed(0)
    vocos = Vocos(FeatureExtractor(), VocosBackbone(**BACKBONE), ISTFTHead(**HEAD)).eval()
    with torch.no_grad():
        for weight in vocos.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    table = torch.randn(8 * CODES, 16)
    folder.mkdir()
    features = {"class_path": "vocos.feature_extractors.EncodecFeatures", "init_args": {"bandwidths": BANDWIDTHS}}
    parts = {
        "feature_extractor": features,
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": BACKBONE},
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": HEAD},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(parts))
    state = {"feature_extractor.codebook_weights": table, **vocos.state_dict()}
    torch.save(state, folder / "pytorch_model.bin")
    return vocos


def encodec(folder: Path, codebooks: int) -> CodecTokenizer:
    tokenizer = CodecTokenizer(random_codec("encodec"), CodecSettings("delayed", codebooks))
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_vocos_on_units_is_the_package_s_own(tmp_path: Path) -> None:
    vocos = published(tmp_path / "vocos")
    tokenizer = encodec(tmp_path / "units", 4)
    given = [f"checkpoint={tmp_path / 'vocos'}", f"tokenizer={tmp_path / 'units'}", f"output_dir={tmp_path / 'speech'}"]
    assert main(["convert_vocos", *given]) == 0
    speaker = load_unit_to_speech(tmp_path / "speech", None)
    assert isinstance(speaker, VocosUnits)
    assert (speaker.num_units, speaker.unit_rate, speaker.sample_rate) == (4 * CODES + 1, 300, 24_000)
    codes = torch.randint(CODES, (4, 40), generator=torch.Generator().manual_seed(0))
    units = tokenizer.codebooks.units(codes)
    whole = speaker([units], [None], [0], DecoderSampling()).sounds[0]
    table = torch.load(tmp_path / "vocos" / "pytorch_model.bin", weights_only=True)[
        "feature_extractor.codebook_weights"
    ]
    features = sum(table[row + CODES * number] for number, row in enumerate(codes))
    assert isinstance(features, Tensor)
    theirs = vocos.decode(features.T[None], bandwidth_id=torch.tensor([1]))[0]
    torch.testing.assert_close(whole, theirs, atol=1e-6, rtol=0)
    check_stream(speaker, units, latest=4 * (11 + 12 + 4))


def test_vocos_that_does_not_fit(tmp_path: Path) -> None:
    published(tmp_path / "vocos")
    encodec(tmp_path / "three", 3)
    with pytest.raises(InputError, match=r"codebooks=3: this Vocos was trained with \(2, 4, 8\)"):
        convert_vocos(tmp_path / "vocos", tmp_path / "three", tmp_path / "out")
    with pytest.raises(InputError, match="no Vocos can be read from there"):
        convert_vocos(tmp_path / "nowhere", tmp_path / "three", tmp_path / "out")
    CodecTokenizer(random_codec("dac"), CodecSettings("first", 1)).save_pretrained(tmp_path / "dac")
    with pytest.raises(InputError, match="codes of dac; Vocos speaks those of EnCodec"):
        convert_vocos(tmp_path / "vocos", tmp_path / "dac", tmp_path / "out")
