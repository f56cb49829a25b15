"""Recognisers of the group `asr`: the same words alone and in a batch, and one from outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import build_random_bundle
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from usdm.asr.chain import ChainRecogniser
from usdm.asr.ctc import CtcRecogniser
from usdm.asr.recogniser import ConfidentRecogniser, Recogniser
from usdm.asr.whisper import WhisperRecogniser
from usdm.chain import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.types import InputError, Sampling, Waveform


def noise(seconds: float, seed: int = 0, sample_rate: int = 16_000) -> Waveform:
    samples = np.random.default_rng(seed).normal(0, 0.1, int(sample_rate * seconds))
    return Waveform(torch.from_numpy(samples).float(), sample_rate)


SILENCE = Waveform(torch.zeros(16_000), 16_000)


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wav2Vec2 with random weights and a CTC head over six letters."""
    folder = tmp_path_factory.mktemp("ctc")
    letters = {"<pad>": 0, "|": 1, **{letter: place for place, letter in enumerate("abcdef", start=2)}}
    (folder / "vocab.json").write_text(json.dumps(letters))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), unk_token="<pad>", pad_token="<pad>").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        vocab_size=len(letters), pad_token_id=0, feat_extract_norm="layer", num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config)
    torch.nn.init.normal_(model.lm_head.weight, std=3.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_random_bundle(tmp_path_factory.mktemp("bundle"))
    stages = ("transcribe", "respond", "speak")
    GenerationSettings({stage: Sampling(max_new_tokens=8) for stage in stages}, DecoderSampling(steps=1)).save(folder)
    return folder


def test_a_ctc_model_hears_each_sound_as_if_it_were_alone(ctc: Path) -> None:
    recogniser = CtcRecogniser(str(ctc), batch=3)
    sounds = [noise(1.0), noise(0.6, 1), SILENCE, noise(1.3, 2, 24_000)]
    together = recogniser(sounds)
    assert together == [recogniser([sound])[0] for sound in sounds]
    assert together[2] == "" and len(set(together)) == 4 and set("".join(together)) <= set("abcdef ")
    assert isinstance(recogniser, ConfidentRecogniser)
    assert all(heard.confidence < 0 for heard in recogniser.hear(sounds[:2]))


def test_the_chains_ears_hear_what_the_chain_transcribes(bundle: Path) -> None:
    recogniser: Recogniser = ChainRecogniser(str(bundle), batch=2)
    sounds = [noise(1.0), SILENCE, noise(0.7, 1)]
    pipeline = SpokenDialogPipeline.from_pretrained(bundle)
    told = [pipeline.respond(sound.samples, sound.sample_rate, seed=0).user_text for sound in (sounds[0], sounds[2])]
    assert recogniser(sounds) == [told[0], "", told[1]]


@pytest.mark.parametrize("kind", [CtcRecogniser, WhisperRecogniser])
def test_what_is_no_recogniser_is_refused(kind: type, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        kind(str(tmp_path))
