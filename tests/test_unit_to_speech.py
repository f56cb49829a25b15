"""Ways from units to sound other than flow matching: unit HiFi-GAN, codecs, and decoders of one's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hums import write_hums
from random_codecs import CODES, random_codec
from tiny_models import SHORT_TEMPLATE, as_readable_as_new_files, build_random_bundle, save_random_llm

from usdm.audio import MelSettings
from usdm.chain import SpokenDialogPipeline, bundle_locations
from usdm.chain.plan import plan_model
from usdm.chain.streaming import SpokenChunk
from usdm.cli.main import main
from usdm.decoder.frames import units_per_frame
from usdm.evaluation.decoders import Contender, DecoderTable
from usdm.types import InputError, Sampling, Waveform
from usdm.unit_to_speech import DecoderSampling, load_unit_to_speech
from usdm.unit_to_speech.hifigan import UnitHifiGan, UnitHifiGanConfig
from usdm.units.codec import CodecSettings, CodecTokenizer

SMALL = UnitHifiGanConfig(
    num_units=20,
    unit_rate=25,
    sample_rate=16_000,
    embedding_dim=8,
    upsample_initial_channel=32,
    upsample_rates=(8, 5, 4, 4),
    upsample_kernel_sizes=(16, 11, 8, 8),
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3),),
)
FEW = {stage: Sampling(max_new_tokens=8) for stage in ("transcribe", "respond", "speak")}
SHORT = [f"sampling.{stage}.max_new_tokens=8" for stage in ("transcribe", "respond", "speak")]


def hifigan(**settings: object) -> UnitHifiGan:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return UnitHifiGan(UnitHifiGanConfig(**(vars(SMALL) | settings))).eval()


def test_a_unit_hifigan_makes_each_unit_as_long_as_it_lasts(tmp_path: Path) -> None:
    model = hifigan()
    units = [torch.tensor([3, 3, 7, 19]), torch.tensor([0])]
    made = model(units, [None, None], [0, 0], DecoderSampling())
    assert [len(sound) for sound in made.sounds] == [4 * 640, 640] and list(made.timings) == ["decode"]
    model.save_pretrained(tmp_path)
    again = load_unit_to_speech(tmp_path, None)
    assert isinstance(again, UnitHifiGan) and again.config == model.config
    assert torch.equal(again(units, [None, None], [0, 0], DecoderSampling()).sounds[0], made.sounds[0])


def test_units_without_repeats_get_a_length() -> None:
    model = hifigan(predict_durations=True)
    assert model.durations is not None
    with torch.no_grad():
        model.durations.out.weight.zero_()
        model.durations.out.bias.fill_(float(np.log(1 + 3)))
    assert model.lengthened(torch.tensor([5, 5, 2, 5])).tolist() == [5] * 3 + [2] * 3 + [5] * 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"upsample_rates": (8, 5, 4, 2)}, "make 8000 samples of 25 units.*product is 640"),
        ({"upsample_kernel_sizes": (16, 10, 8, 8)}, "kernel of 10 for an upsampling by 5"),
    ],
)
def test_rates_that_do_not_fit(settings: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        UnitHifiGanConfig(**(vars(SMALL) | settings))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return build_random_bundle(tmp_path / "bundle")


def test_a_pipeline_speaks_through_a_unit_hifigan(bundle: Path, tmp_path: Path) -> None:
    hifigan().save_pretrained(tmp_path / "hifigan")
    pipeline = SpokenDialogPipeline.from_pretrained(bundle, decoder=tmp_path / "hifigan")
    assert pipeline.sample_rate == 16_000 and list(pipeline.folders) == ["units", "llm", "decoder"]
    events = list(pipeline.stream(text="how are you", sampling=FEW))
    chunks = [event.samples for event in events if isinstance(event, SpokenChunk)]
    reply = pipeline.respond(text="how are you", sampling=FEW)
    assert reply.agent_units is not None and reply.waveform is not None
    assert len(reply.waveform) == 640 * len(reply.agent_units)
    assert torch.equal(torch.cat(chunks), reply.waveform)
    with pytest.raises(InputError, match="a reference voice for UnitHifiGan"):
        pipeline.respond(text="how are you", reference=Waveform(0.1 * torch.randn(16_000), 16_000))
    with pytest.raises(InputError, match="this model makes sound by UnitHifiGan"):
        pipeline.parts.flow_matching  # noqa: B018
    shutil.rmtree(bundle / "decoder")
    shutil.copytree(tmp_path / "hifigan", bundle / "decoder")
    with pytest.raises(InputError, match="makes sound by itself; give vocoder=null"):
        SpokenDialogPipeline.from_pretrained(bundle, vocoder=bundle / "vocoder")
    shutil.rmtree(bundle / "vocoder")
    assert SpokenDialogPipeline.from_pretrained(bundle).sample_rate == 16_000


def test_a_plan_counts_a_unit_hifigan(bundle: Path, tmp_path: Path) -> None:
    model = hifigan(predict_durations=True)
    model.save_pretrained(tmp_path / "hifigan")
    plan = plan_model(bundle_locations(bundle, {"decoder": tmp_path / "hifigan"}))
    parameters = {part.part: part.parameters for part in plan.parts}
    assert list(parameters) == ["units", "llm", "decoder"]
    assert parameters["decoder"] == sum(weight.numel() for weight in model.parameters())


def test_a_whole_system_on_a_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    CodecTokenizer(random_codec("dac"), CodecSettings("delayed", 2)).save_pretrained("codec")
    save_random_llm(Path("llm"), 2 * CODES + 1, SHORT_TEMPLATE)
    pipeline = SpokenDialogPipeline.from_parts("codec", "llm", "codec")
    question = Waveform(0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0)), 16_000)
    reply = pipeline.respond(question.samples, question.sample_rate, sampling=FEW)
    assert reply.user_units is not None and len(reply.user_units) == 2 * (50 + 1)
    listener = pipeline.listen(16_000)
    for block in question.samples.split(3_000):
        listener.push(block)
    heard = listener.respond(sampling=FEW)
    assert torch.equal(heard.user_units, reply.user_units) and heard.user_text == reply.user_text
    again = pipeline.resynthesize(question.samples, question.sample_rate)
    assert again.sample_rate == 16_000 and len(again.samples) == 16_000
    soundfile.write("question.wav", question.samples.numpy(), 16_000)
    parts = ["model.units=codec", "model.llm=llm", "model.decoder=codec", "model.vocoder=null"]
    assert main(["respond", "model=usdm_dailytalk", *parts, "input=question.wav", "trace=reply.json", *SHORT]) == 0
    assert max(json.loads(Path("reply.json").read_text())["agent_units"]) <= 2 * CODES
    Path("requests.jsonl").write_text('{"id": "1", "text": "how are you"}\n')
    batch = ["requests=requests.jsonl", "output_dir=replies", *SHORT]
    assert main(["synthesize", "model=usdm_dailytalk", *parts, *batch]) in (0, 1)  # a random model may say nothing
    assert main(["plan", "model=usdm_dailytalk", *parts]) == 0


def test_contenders_draw_as_the_model_does_or_as_they_are_told(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(contenders: Sequence[Contender], *_: object, **__: object) -> DecoderTable:
        drawn.update({each.name: each.sampling for each in contenders})
        return DecoderTable((), {})

    drawn: dict[str, DecoderSampling] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("usdm.cli.compare_decoders.compare_decoders", listed)  # which would measure pitch for seconds
    parts = f"decoder: {bundle}/decoder, vocoder: {bundle}/vocoder"
    contenders = f"[{{name: same, {parts}}}, {{name: more, {parts}, decoding: {{steps: 3}}}}]"
    judges = ["speaker=false", "quality=false", "items=1"]
    assert main(["compare_decoders", f"contenders={contenders}", f"model.name={bundle}", *judges]) == 0
    assert drawn["same"] == drawn["model"]
    assert drawn["more"] == replace(drawn["model"], steps=3) != drawn["model"]


@pytest.mark.slow
def test_acoustic_units_from_recordings_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec is trained, becomes a tokenizer, gives a corpus; a unit HiFi-GAN is trained on that; all are compared."""
    monkeypatch.chdir(tmp_path)
    write_hums(tmp_path / "speech")
    few = [
        "loop.steps=2",
        "loop.warmup_steps=1",
        "loop.validate_every=1",
        "loop.log_every=1",
        "loop.save_every=1",
        "loop.threads=1",
    ]
    here = ["corpora=[speech]", "shared.folder=run"]
    sizes = ["codec.encoder_hidden_size=4", "codec.decoder_hidden_size=32", "codec.codebook_size=16"]
    assert main(["train_codec", *here, *few, *sizes, "task.batch_size=2", "task.crop_frames=10"]) == 0
    layout = ["settings.layout=first", "settings.codebooks=1", "output_dir=run/codec_units"]
    assert main(["convert_codec", "checkpoint=run/codec/model", *layout]) == 0
    assert main(["extract_units", *here, "extractor=run/codec_units", "processes=1"]) == 0
    gan = ["shared.num_units=16", "unit_hifigan.upsample_initial_channel=32", "unit_hifigan.embedding_dim=8"]
    gan += ["unit_hifigan.predict_durations=true", "task.batch_size=2", "task.crop_units=10", "task.period_width=2"]
    assert main(["train_unit_hifigan", *here, *few, *gan, "task.resolution_width=2"]) == 0
    assert all(as_readable_as_new_files(Path("run", stage, "model")) for stage in ("codec", "unit_hifigan"))
    assert json.loads(Path("run/unit_hifigan/model/unit_source.json").read_text())["num_units"] == 16
    contenders = "[{name: gan, units: run/codec_units, decoder: run/unit_hifigan/model}, "
    contenders += "{name: codec, units: run/codec_units, decoder: run/codec_units}]"
    judges = ["speaker=false", "quality=false", "items=1", "output_dir=table"]
    assert main(["compare_decoders", f"contenders={contenders}", *judges]) == 0
    rows = json.loads(Path("table/decoders.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["recordings", "model", "gan", "codec"]
    assert rows[1]["word_errors"]["rate"] < rows[2]["word_errors"]["rate"]  # two steps have taught nothing
    assert rows[0]["semitones"] is None and 0 <= rows[1]["voicing"] <= 1


def test_units_at_a_fractional_rate_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mimi's first codebook: 12.5 units a second."""
    monkeypatch.chdir(tmp_path)
    write_hums(tmp_path / "speech")
    CodecTokenizer(random_codec("mimi"), CodecSettings("first", 1)).save_pretrained("mimi")
    here = ["corpora=[speech]", "shared.folder=run"]
    assert main(["extract_units", *here, "extractor=mimi", "processes=1"]) == 0
    few = ["loop.steps=1", "loop.warmup_steps=1", "loop.log_every=1", "loop.save_every=1", "loop.threads=1"]
    gan = ["shared.unit_rate=12.5", f"shared.num_units={CODES}", "unit_hifigan.upsample_initial_channel=32"]
    gan += ["unit_hifigan.upsample_rates=[10,8,4,4]", "unit_hifigan.upsample_kernel_sizes=[20,16,8,8]"]
    gan += ["task.batch_size=1", "task.crop_units=5", "task.period_width=2", "task.resolution_width=2"]
    assert main(["train_unit_hifigan", *here, *few, *gan]) == 0
    speaker = load_unit_to_speech("run/unit_hifigan/model", None)
    assert speaker.unit_rate == 12.5
    sound = speaker([torch.tensor([1, 2, 3])], [None], [0], DecoderSampling()).sounds[0]
    assert len(sound) == 3 * 1280
    assert len(units_per_frame(torch.arange(4), 12.5, MelSettings())) == int(4 * 22_050 / 12.5) // 256


def test_a_decoder_of_one_s_own(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_tones.py").write_text(OWN_DECODER)
    monkeypatch.syspath_prepend(tmp_path / "code")
    (tmp_path / "tones").mkdir()
    (tmp_path / "tones" / "config.json").write_text(json.dumps({"class": "own_tones.Tones"}))
    reply = SpokenDialogPipeline.from_pretrained(bundle, decoder=tmp_path / "tones").respond(
        text="how are you", sampling=FEW
    )
    assert reply.sample_rate == 8_000 and reply.agent_units is not None and reply.waveform is not None
    assert len(reply.waveform) == 320 * len(reply.agent_units)
    plan = plan_model(bundle_locations(bundle, {"decoder": tmp_path / "tones"}))
    assert [part.parameters for part in plan.parts if part.part == "decoder"] == [0]


OWN_DECODER = '''
"""A tone for each unit: a decoder of one's own, whole."""
import torch
from usdm.unit_to_speech import UnitToSpeech
from usdm.unit_to_speech.protocol import Synthesis

class Tones(UnitToSpeech):
    num_units, unit_rate, sample_rate, device = 20, 25, 8_000, torch.device("cpu")

    def forward(self, units, voices, seeds, sampling):
        time = torch.arange(320) / self.sample_rate
        return Synthesis([torch.sin(6.28 * (100 + 20 * row[:, None]) * time).view(-1) for row in units], {})

    @classmethod
    def from_pretrained(cls, folder):
        return cls()
'''
