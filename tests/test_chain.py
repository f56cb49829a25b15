"""The pipeline from question to spoken reply, with random weights through the real path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import SHORT_TEMPLATE, UNIT_RATE, build_random_bundle, random_decoder, save_random_llm

import usdm
from usdm.audio import MelSettings
from usdm.chain import (
    Answer,
    DecoderSampling,
    GenerationSettings,
    LoadOptions,
    Question,
    SpokenDialogPipeline,
)
from usdm.chain.components import fingerprint
from usdm.chain.sound import speech
from usdm.lm import in_transformers
from usdm.runs import identity
from usdm.tokens import TurnContent
from usdm.types import InputError, Sampling, Turn, Waveform
from usdm.vocoder import VocosSettings, VocosVocoder

RATE = 16_000  # Hz
FEW = {stage: Sampling(max_new_tokens=12) for stage in ("transcribe", "respond", "speak")}
QUICK = DecoderSampling(steps=2, solver="euler")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_random_bundle(tmp_path_factory.mktemp("bundle"))
    GenerationSettings(FEW, QUICK).save(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained(bundle)


def noise(seconds: float = 1.2, rate: int = RATE, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(int(seconds * rate), generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)


# A reply


def test_a_spoken_reply(pipeline: SpokenDialogPipeline) -> None:
    reply = pipeline.respond(noise(), RATE)
    assert reply.user_units is not None and reply.agent_units is not None and reply.waveform is not None
    assert abs(len(reply.user_units) - 1.2 * UNIT_RATE) <= 1
    assert 0 <= int(reply.user_units.min()) <= int(reply.user_units.max()) < 20
    assert isinstance(reply.user_text, str) and isinstance(reply.agent_text, str)
    assert 0 < len(reply.agent_units) <= 12
    assert reply.sample_rate == pipeline.sample_rate == 22_050
    seconds = len(reply.waveform) / reply.sample_rate
    assert abs(seconds - len(reply.agent_units) / UNIT_RATE) < 256 / 22_050
    assert torch.isfinite(reply.waveform).all() and reply.waveform.dtype == torch.float32
    assert list(reply.timings) == ["units", "transcribe", "respond", "speak", "decode", "vocode"]
    assert all(seconds > 0 for seconds in reply.timings.values())


def test_the_stages_are_one_sequence_of_the_template(pipeline: SpokenDialogPipeline) -> None:
    """Each stage is what separate greedy decoding with the stage's own prompt gives."""
    reply = pipeline.respond(noise(), RATE)
    template, model = pipeline.parts.template, in_transformers(pipeline.parts.llm)
    vocabulary = template.vocabulary
    ids = template.prompt("transcribe", TurnContent(user_units=reply.user_units))
    texts = []
    for stage in ("transcribe", "respond", "speak"):
        allowed, written = template.allowed(stage), []
        while len(written) < 12:
            with torch.no_grad():
                logits = model(torch.tensor([ids + written])).logits[0, -1]
            id_ = int(logits.masked_fill(~allowed, -torch.inf).argmax())
            if id_ == template.stop_id(stage):
                break
            written.append(id_)
        assert (stage in reply.truncated) == (len(written) == 12)
        texts.append(written)
        ids = ids + written + template.following(stage)
    assert reply.user_text == vocabulary.decode_text(texts[0])
    assert reply.agent_text == vocabulary.decode_text(texts[1])
    assert reply.agent_units.tolist() == vocabulary.decode_units(texts[2]).tolist()


def test_seeds_make_replies_repeatable(pipeline: SpokenDialogPipeline) -> None:
    hot = {stage: Sampling(temperature=2.0, max_new_tokens=12) for stage in FEW}
    settings, pipeline.settings = pipeline.settings, GenerationSettings(hot, QUICK)
    first, again, other = (pipeline.respond(noise(), RATE, seed=seed) for seed in (3, 3, 4))
    pipeline.settings = settings
    assert torch.equal(first.agent_units, again.agent_units) and torch.equal(first.waveform, again.waveform)
    assert (first.user_text, first.agent_text) == (again.user_text, again.agent_text)
    assert not torch.equal(first.agent_units, other.agent_units)
    one = pipeline.respond(noise(), RATE, sampling={"speak": Sampling(temperature=2.0, seed=5, max_new_tokens=9)})
    greedy = pipeline.respond(noise(), RATE)
    assert (one.user_text, one.agent_text) == (greedy.user_text, greedy.agent_text)
    assert len(one.agent_units) <= 9 and not torch.equal(one.agent_units, greedy.agent_units)


def test_typed_question_and_text_reply(pipeline: SpokenDialogPipeline) -> None:
    reply = pipeline.respond(text="How are you?")
    assert reply.user_units is None and reply.user_text == "How are you?"
    assert reply.agent_text is not None and reply.waveform is not None
    assert list(reply.timings) == ["respond", "speak", "decode", "vocode"]
    silent = pipeline.respond(text="How are you?", speak=False)
    assert silent.agent_text == reply.agent_text
    assert silent.agent_units is None and silent.waveform is None
    assert list(silent.timings) == ["respond"]


def test_other_chains(pipeline: SpokenDialogPipeline) -> None:
    short = pipeline.respond(noise(), RATE, chain="units_to_units")
    assert (short.user_text, short.agent_text) == (None, None)
    assert short.waveform is not None and "respond" not in short.timings
    middle = pipeline.respond(noise(), RATE, chain="units_text_units")
    assert middle.user_text is None and middle.agent_text is not None and middle.waveform is not None
    with pytest.raises(InputError, match="chain=units_to_units works on speech alone"):
        pipeline.respond(text="hi", chain="units_to_units")
    with pytest.raises(InputError, match="chain=units_to_units writes no text"):
        pipeline.respond(noise(), RATE, chain="units_to_units", speak=False)
    with pytest.raises(InputError, match="layout='cascade': there are multi_step"):
        pipeline.respond(noise(), RATE, chain="cascade")


class Parrot:
    """A chain of another kind."""

    def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
        return Answer(None, "so you say", question.units, {"repeat": 0.001})


def test_a_chain_of_another_kind(pipeline: SpokenDialogPipeline) -> None:
    reply = pipeline.respond(noise(), RATE, chain=Parrot())
    assert reply.agent_text == "so you say" and torch.equal(reply.agent_units, reply.user_units)
    assert list(reply.timings) == ["units", "repeat", "decode", "vocode"]
    again = pipeline.resynthesize(noise(), RATE)  # the same units through the same decoder
    assert torch.equal(again.samples, reply.waveform) and again.sample_rate == 22_050


def test_a_reply_without_units_makes_no_sound(pipeline: SpokenDialogPipeline) -> None:
    class Silent:
        def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
            return Answer(None, "", torch.zeros(0, dtype=torch.int64))

    reply = pipeline.respond(noise(), RATE, chain=Silent())
    assert reply.waveform is None and len(reply.agent_units) == 0


def test_history_is_read(pipeline: SpokenDialogPipeline) -> None:
    history = (Turn("user", "hi"), Turn("agent", "hello, what is it?"))
    alone, later = pipeline.respond(noise(), RATE), pipeline.respond(noise(), RATE, history=history)
    assert alone.agent_units.tolist() != later.agent_units.tolist()
    again = pipeline.respond(noise(), RATE, history=(Turn("user", "x" * 500), *history))  # the first does not fit
    assert again.agent_units.tolist() == later.agent_units.tolist()


def test_reference_voice(pipeline: SpokenDialogPipeline) -> None:
    recording = Waveform(noise(0.8, 24_000, seed=3), 24_000)
    voice = pipeline.voice(recording)
    assert voice.mel.shape == (80, int(0.8 * 22_050) // 256)
    assert abs(len(voice.units) - 0.8 * UNIT_RATE) <= 1
    plain = pipeline.respond(noise(), RATE)
    spoken = pipeline.respond(noise(), RATE, reference=recording)
    assert torch.equal(plain.agent_units, spoken.agent_units)
    assert not torch.equal(plain.waveform, spoken.waveform)
    assert torch.equal(spoken.waveform, pipeline.respond(noise(), RATE, reference=voice).waveform)
    assert "voice" in spoken.timings and "voice" not in plain.timings


# What comes in


def test_all_kinds_of_sound_are_one() -> None:
    samples = noise(0.5)
    samples = samples / samples.abs().max() * 0.9
    reference = speech(samples, RATE).samples
    assert torch.equal(reference, samples)
    stereo = torch.stack([samples * 1.1, samples * 0.9])
    for given in (
        samples.numpy(),
        samples.tolist(),
        samples.double(),
        stereo,
        stereo.T,
        stereo.numpy().T,
        samples[None],
    ):
        torch.testing.assert_close(speech(given, RATE).samples, samples)
    for bits, kind in ((8, np.int8), (16, np.int16), (32, np.int32)):
        whole = (samples.double() * 2 ** (bits - 1)).round().numpy().astype(kind)
        torch.testing.assert_close(speech(whole, RATE).samples, samples, atol=2.0 ** (1 - bits), rtol=0)
    unsigned = (samples * 128 + 128).round().to(torch.uint8)
    torch.testing.assert_close(speech(unsigned, RATE).samples, samples, atol=2**-7, rtol=0)
    torch.testing.assert_close(speech(samples * 5, RATE).samples, samples / 0.9)  # beyond full scale


@pytest.mark.parametrize(
    ("samples", "rate", "complaint"),
    [
        (noise(), None, "sample_rate=None: give the recording's own rate"),
        (noise(), 100, "sample_rate=100"),
        (torch.zeros(0), RATE, "at least 0.1 s"),
        (torch.zeros(RATE), RATE, "silent"),
        (noise(0.05), RATE, "at least 0.1 s"),
        (torch.full((RATE,), torch.nan), RATE, "not finite"),
        (torch.zeros(2, 2, 8), RATE, r"shape \(2, 2, 8\)"),
        (torch.zeros(RATE, dtype=torch.bool), RATE, "type torch.bool"),
        (np.array(["a"]), RATE, "cannot be made of a ndarray"),
    ],
)
def test_what_is_no_speech(samples: Any, rate: int | None, complaint: str, pipeline: SpokenDialogPipeline) -> None:
    with pytest.raises(InputError, match=complaint):
        pipeline.respond(samples, rate)


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_any_rate(pipeline: SpokenDialogPipeline, rate: int) -> None:
    reply = pipeline.respond(noise(1.2, rate), rate, chain=Parrot())
    assert abs(len(reply.user_units) - 1.2 * UNIT_RATE) <= 1


def test_questions_that_cannot_be_answered(pipeline: SpokenDialogPipeline) -> None:
    with pytest.raises(InputError, match="either a recording or a text"):
        pipeline.respond()
    with pytest.raises(InputError, match="either a recording or a text"):
        pipeline.respond(noise(), RATE, text="hi")
    with pytest.raises(InputError, match=r"lasts 30\.0 s; this model holds 20 s at most"):
        pipeline.respond(noise(30), RATE)
    with pytest.raises(InputError, match="model has 512 positions: give a shorter recording"):
        pipeline.respond(noise(20.4), RATE)
    with pytest.raises(InputError, match="which the model reserves"):
        pipeline.respond(text="<|unit3|>")
    with pytest.raises(InputError, match="sampling for stage 'think': there are transcribe"):
        pipeline.respond(noise(), RATE, sampling={"think": Sampling()})
    with pytest.raises(InputError, match=r"top_p=2\.0: it must be"):
        pipeline.respond(noise(), RATE, sampling={"speak": Sampling(top_p=2.0)})
    with pytest.raises(InputError, match="steps=0"):
        pipeline.respond(noise(), RATE, decoder=DecoderSampling(steps=0))


# Finding and fitting parts


def test_a_bundle_s_own_settings(bundle: Path, pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    assert pipeline.settings == GenerationSettings(FEW, QUICK)
    assert GenerationSettings.load(tmp_path) == GenerationSettings()
    (tmp_path / "generation.json").write_text('{"sampling": {"speak": {"temprature": 1}}, "decoder": {}}')
    with pytest.raises(InputError, match=r"generation\.json: not settings .*temprature"):
        GenerationSettings.load(tmp_path)


def test_fingerprint_names_the_weights(bundle: Path, pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "llm" / "README.md").write_text("a card")
    assert SpokenDialogPipeline.from_pretrained(copy).fingerprint == pipeline.fingerprint
    other = replace(SHORT_TEMPLATE, history_tokens=1)
    other.save(copy / "llm")
    assert SpokenDialogPipeline.from_pretrained(copy).fingerprint != pipeline.fingerprint


def test_large_weights_are_read_once_for_the_fingerprint(
    bundle: Path, pipeline: SpokenDialogPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven billion of them would take most of a minute at every trace, shard and evaluation."""
    monkeypatch.setattr(identity, "REMEMBERED", tmp_path / "digests.jsonl")
    monkeypatch.setattr(identity, "LARGE", 10_000)
    read, hashed = identity._sha256, []
    monkeypatch.setattr(identity, "_sha256", lambda path: hashed.append(path.name) or read(path))
    first = fingerprint(pipeline.folders)
    assert "model.safetensors" in hashed
    hashed.clear()
    identity._remembered.cache_clear()  # as another process
    assert fingerprint(pipeline.folders) == first == pipeline.fingerprint
    assert hashed and "model.safetensors" not in hashed


def test_parts_from_the_hub_have_commits(bundle: Path, pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--somebody--llm" / "snapshots" / "0123abcd"
    shutil.copytree(bundle / "llm", snapshot)
    assert pipeline.commits == {}
    assert SpokenDialogPipeline.from_pretrained(bundle, llm=snapshot).commits == {"llm": "0123abcd"}


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: neither an embedded model .* nor a folder .*nowhere"):
        SpokenDialogPipeline.from_pretrained("nowhere")
    (tmp_path / "units").mkdir()
    with pytest.raises(InputError, match="no folder .*llm, .*decoder, .*vocoder; a bundle holds"):
        SpokenDialogPipeline.from_pretrained(tmp_path)


def test_missing_parts_are_listed_at_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        SpokenDialogPipeline.from_parts(
            bundle / "units", "some-lab/USDM-DailyTalk", bundle / "gone", "some-lab/vocoder"
        )
    first, *lines = str(caught.value).splitlines()
    assert first == "3 of 4 parts are missing:"
    llm, decoder, vocoder = (line for line in lines if line.startswith(("  llm:", "  decoder:", "  vocoder:")))
    assert "some-lab/USDM-DailyTalk is not at" in llm and "the hub (" in llm
    assert "in Python, llm=FOLDER" in str(caught.value)
    assert str(bundle / "gone") in decoder and "hub" not in decoder


def test_no_such_device(bundle: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match="device=cuda cannot be used .* take device=cpu"):
        SpokenDialogPipeline.from_pretrained(bundle, LoadOptions(device="cuda"))


def test_parts_of_different_systems(bundle: Path, tmp_path: Path) -> None:
    def load(**others: Path) -> None:
        places = {part: bundle / part for part in ("units", "llm", "decoder", "vocoder")} | others
        SpokenDialogPipeline.from_parts(**places)

    save_random_llm(tmp_path / "llm", 30, SHORT_TEMPLATE)
    with pytest.raises(InputError, match="number of units: units has 20, llm has 30, decoder has 20"):
        load(llm=tmp_path / "llm")
    random_decoder(25).save_pretrained(tmp_path / "decoder")
    with pytest.raises(InputError, match="number of units: .*decoder has 25"):
        load(decoder=tmp_path / "decoder")
    config = json.loads((bundle / "decoder" / "config.json").read_text())
    shutil.copytree(bundle / "decoder", tmp_path / "fast")
    (tmp_path / "fast" / "config.json").write_text(json.dumps(config | {"unit_rate": 50}))
    with pytest.raises(InputError, match=r"unit rate \(Hz\): units has 25, decoder has 50"):
        load(decoder=tmp_path / "fast")
    mel = MelSettings(hop_length=512)
    VocosVocoder(VocosSettings(dim=16, intermediate_dim=32, num_layers=1, mel=mel)).save_pretrained(
        tmp_path / "vocoder"
    )
    with pytest.raises(InputError, match="mel setting hop_length: decoder has 256, vocoder has 512"):
        load(vocoder=tmp_path / "vocoder")
    shutil.copytree(bundle / "llm", tmp_path / "mixed")
    shutil.copy(tmp_path / "llm" / "model.safetensors", tmp_path / "mixed")
    shutil.copy(tmp_path / "llm" / "config.json", tmp_path / "mixed")
    with pytest.raises(InputError, match="the model has .* rows, its tokenizer .* ids"):
        load(llm=tmp_path / "mixed")


def test_the_package_imports_fast() -> None:
    """Listing what the package offers takes neither torch nor transformers."""
    code = "import sys, usdm; assert 'torch' not in sys.modules; assert usdm.__version__; print(sorted(usdm.__all__))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "SpokenDialogPipeline" in output.stdout
    assert usdm.SpokenDialogPipeline is SpokenDialogPipeline
    with pytest.raises(AttributeError, match="no attribute 'pipline'"):
        _ = usdm.pipline
