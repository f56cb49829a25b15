"""Turns outside a model's domain: what is fitted, and who refuses, however a reply is made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import as_readable_as_new_files, build_random_bundle

from usdm.audio import read_audio
from usdm.chain import DecoderSampling, GenerationSettings, Question, SpokenDialogPipeline
from usdm.chain.rejection import EvidenceReader, Refusing, Rejection, heard_turn
from usdm.cli.main import main
from usdm.data.unit_corpus import UnitCorpus, UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.data.user_turns import read_user_turns
from usdm.lm import in_transformers, log_probabilities
from usdm.tokens import TurnContent
from usdm.training.package import PARTS, package_model
from usdm.training.rejection_evaluation import evaluate_rejection
from usdm.types import InputError, Sampling, SpokenReply

REFUSAL = "sorry, i did not understand that."
STAGES = ("transcribe", "respond", "speak")
WORDS = ("a table", "two tickets", "the weather", "some music")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle of random weights, a corpus of its units, and what is fitted on them."""
    folder = tmp_path_factory.mktemp("rejection")
    bundle = build_random_bundle(folder / "bundle", num_units=20)
    GenerationSettings({stage: Sampling(max_new_tokens=8) for stage in STAGES}, DecoderSampling(steps=1)).save(bundle)
    identity = SpokenDialogPipeline.from_pretrained(bundle).parts.units.identity
    random = np.random.default_rng(0)
    with UnitCorpusWriter(folder / "units" / "one.parquet", UnitSource(20, 25.0, identity)) as writer:
        for number in range(60):
            name = "not-understood-1" if number % 20 == 19 else f"dialog-{number}"
            units = random.integers(20, size=random.integers(5, 12)).astype(np.uint16)
            split = "dev" if number % 3 == 0 else "train"
            text = f"{WORDS[number % 4]} for {WORDS[number % 3]}"
            writer.write(UnitUtterance(f"{name}-{number}", "me", "user", name, 0, split, text, units))
    assert main(fit(folder)) == 0
    assert as_readable_as_new_files(folder / "fit/model")
    soundfile.write(folder / "question.wav", random.uniform(-0.5, 0.5, 12_000), 16_000)
    return folder


def fit(folder: Path, *settings: str) -> list[str]:
    given = [f"model.name={folder}/bundle", f"corpora=[{folder}/units]", f"output_dir={folder}/fit"]
    return ["fit_rejection", *given, *settings]


def pipeline_that_refuses(fitted: Path, threshold: float | None, score: str = "combined") -> SpokenDialogPipeline:
    pipeline = SpokenDialogPipeline.from_pretrained(fitted / "bundle")
    pipeline.refuse_by(Refusing(score, fitted / "fit" / "model", threshold))
    return pipeline


def test_a_second_fit_is_the_first_and_another_one_is_refused(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (fitted / "fit/model/model.safetensors").stat().st_mtime_ns
    assert main(fit(fitted)) == 0
    assert "fitted on 38 turns; on 19 others 95 % pass" in capsys.readouterr().out  # three are left out
    assert (fitted / "fit/model/model.safetensors").stat().st_mtime_ns == before
    assert main(fit(fitted, "kept=0.9")) == 2
    assert main(fit(fitted, "kept=1.5")) == 2
    assert main(fit(fitted, "refused_dialogs=['']")) == 2  # nothing is left
    capsys.readouterr()
    assert main(fit(fitted, "quantization=int8")) == 2  # other states, and other thresholds
    assert "precision: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("turns=1", "1 turns of split 'train' say nothing of how turns vary; take 2 or more"),
        ("dev_turns=1", "1 turns of split 'dev'"),
        ("dev_turns=0", "0 turns of split 'dev'"),
        ("reply=' '", "reply=' ': give what is to be said"),
    ],
)
def test_turns_that_say_nothing_are_told(
    fitted: Path, tmp_path: Path, setting: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit(fitted, f"output_dir={tmp_path}", setting)) == 2
    assert told in capsys.readouterr().err


def test_noise_alone_and_other_units_say_nothing_of_turns_outside(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise, other = tmp_path / "noise.parquet", tmp_path / "other.parquet"
    for path, source in ((noise, UnitCorpus(fitted / "units").source), (other, UnitSource(20, 25.0, "another's"))):
        with UnitCorpusWriter(path, source) as writer:
            writer.write(UnitUtterance("n", "me", "user", "n", 0, "test", "", np.arange(9, dtype=np.uint16)))
    assert main(fit(fitted, f"output_dir={tmp_path}/fit", f"corpora=[{other}]")) == 2
    assert "hold different units" in capsys.readouterr().err
    pipeline, folder = SpokenDialogPipeline.from_pretrained(fitted / "bundle"), fitted / "fit" / "model"
    how: dict[str, Any] = {"refused_dialogs": [], "phrase": "sorry", "capacity": 2, "seed": 0}
    with pytest.raises(InputError, match="hold different units: centroid_hash"):
        evaluate_rejection(pipeline, folder, [noise], [other], **how, turns=None)
    with pytest.raises(InputError, match="none of its 1 turns has words"):
        evaluate_rejection(pipeline, folder, [noise], [noise], **how, turns=None)
    with pytest.raises(InputError, match="turns=0: give 1 turn inside or more"):
        evaluate_rejection(pipeline, folder, [noise], [noise], **how, turns=0)


@pytest.mark.parametrize("score", ["mahalanobis", "log_probability", "refusal", "combined"])
def test_a_threshold_keeps_the_wanted_share_of_dev_turns(fitted: Path, score: str) -> None:
    pipeline = pipeline_that_refuses(fitted, None, score)
    found = read_user_turns([fitted / "units"])
    dev = [turn for turn in found if turn.split == "dev" and not turn.dialog.startswith("not")]
    chain, sampling = pipeline.chain(), pipeline.settings.sampling
    replies = [chain.answer(Question(units=turn.units), sampling, speak=False).agent_text for turn in dev]
    assert len(dev) - replies.count(REFUSAL) == np.ceil(0.95 * len(dev))


def test_evidence_is_what_the_model_itself_computes(fitted: Path) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained(fitted / "bundle")
    template, model = pipeline.parts.template, pipeline.parts.llm
    reader = EvidenceReader(model, template, REFUSAL)
    turns = [turn for turn in read_user_turns([fitted / "units"])][:3]
    heard = [
        heard_turn(template, "multi_step", TurnContent(user_units=turn.units, user_text=turn.text)) for turn in turns
    ]
    together = reader(heard)
    for place, turn in enumerate(turns):
        content = TurnContent(user_units=turn.units, user_text=turn.text)
        before = template.prompt("transcribe", content, layout="multi_step")
        prompt = template.prompt("respond", content, layout="multi_step")
        states = in_transformers(model)(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1]
        of_words = states[0, len(before) - 1 :].detach().mean(0)
        torch.testing.assert_close(together.states[place], of_words, atol=1e-4, rtol=1e-4)
        end = prompt.index(template.stop_id("transcribe"), len(before)) + 1
        (said,) = log_probabilities(model, [prompt[:end]], template.allowed("transcribe"), len(before))
        torch.testing.assert_close(together.transcripts[place], said.sum(), atol=1e-3, rtol=1e-4)
        reply = [*template.reply_ids(REFUSAL), template.stop_id("respond")]
        (refused,) = log_probabilities(model, [[*prompt, *reply]], template.allowed("respond"), len(prompt))
        torch.testing.assert_close(together.refusals[place], refused.sum(), atol=1e-3, rtol=1e-4)


def made_in_every_way(pipeline: SpokenDialogPipeline, recording: Path) -> list[SpokenReply]:
    sound = read_audio(recording)
    listener = pipeline.listen(sound.sample_rate)
    for block in sound.samples.split(1600):
        listener.push(block)
    streams: Sequence[object] = [*pipeline.stream(sound.samples, sound.sample_rate)]
    replies = [pipeline.respond(sound.samples, sound.sample_rate), streams[-1], listener.respond()]
    assert all(isinstance(reply, SpokenReply) for reply in replies)
    return replies  # type: ignore[return-value]


def test_a_refusal_is_spoken_however_the_reply_is_made(fitted: Path) -> None:
    pipeline = pipeline_that_refuses(fitted, 1e9)
    replies = made_in_every_way(pipeline, fitted / "question.wav")
    for reply in replies:
        assert reply.agent_text == REFUSAL and reply.user_text == replies[0].user_text
        assert reply.agent_units is not None and reply.waveform is not None
        torch.testing.assert_close(reply.agent_units, replies[0].agent_units)


def test_a_refusal_sounds_as_if_it_had_been_asked_for(fitted: Path) -> None:
    sound = read_audio(fitted / "question.wav")
    refused = pipeline_that_refuses(fitted, 1e9).respond(sound.samples, sound.sample_rate, transcript="a table")
    plain = SpokenDialogPipeline.from_pretrained(fitted / "bundle")
    asked = plain.respond(sound.samples, sound.sample_rate, transcript="a table", reply=REFUSAL)
    assert refused.agent_text == asked.agent_text == REFUSAL
    torch.testing.assert_close(refused.agent_units, asked.agent_units)


def test_a_turn_that_passes_is_answered_as_without(fitted: Path) -> None:
    plain = SpokenDialogPipeline.from_pretrained(fitted / "bundle")
    ways = zip(
        made_in_every_way(pipeline_that_refuses(fitted, -1e9), fitted / "question.wav"),
        made_in_every_way(plain, fitted / "question.wav"),
        strict=True,
    )
    for ours, theirs in ways:
        assert ours.agent_text == theirs.agent_text != REFUSAL
        torch.testing.assert_close(ours.agent_units, theirs.agent_units)


def test_the_verbs_refuse(fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(fitted)
    reject = ["reject=mahalanobis", "reject.folder=fit/model", "reject.threshold=1e9", "model.name=bundle"]
    assert main(["respond", "text=hello", "reply=text", *reject]) == 0
    assert f"reply: {REFUSAL}" in capsys.readouterr().out
    Path("requests.jsonl").write_text('{"id": "a", "audio": "question.wav"}\n{"id": "b", "text": "hello"}\n')
    assert main(["synthesize", "requests=requests.jsonl", "output_dir=replies", *reject]) == 0
    rows = [json.loads(line) for line in Path("replies/results.jsonl").read_text().splitlines()]
    assert [row["agent_text"] for row in rows] == [REFUSAL] * 2
    assert (
        main(["synthesize", "requests=requests.jsonl", "output_dir=replies", "model.name=bundle"]) == 2
    )  # other results


def test_what_does_not_fit_is_told(fitted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = pipeline_that_refuses(fitted, None)
    with pytest.raises(InputError, match="chain=units_to_units: turns are refused in multi_step, typed alone"):
        pipeline.respond(text="hello", chain="units_to_units")
    with pytest.raises(InputError, match="this model cannot tell turns outside its domain"):
        pipeline.refuse_by(Refusing("combined"))
    with pytest.raises(InputError, match="there are mahalanobis"):
        pipeline.refuse_by(Refusing("guess", fitted / "fit" / "model"))
    other = build_random_bundle(tmp_path / "other", num_units=20, seed=1)
    with pytest.raises(InputError, match="fitted to another language model"):
        Rejection.load(fitted / "fit" / "model", other / "llm")
    (tmp_path / "scales").mkdir()
    (tmp_path / "scales" / "scales.json").write_text("{}")
    with pytest.raises(InputError, match="another language model than .* under .*scales"):
        Rejection.load(fitted / "fit" / "model", fitted / "bundle" / "llm", scales=tmp_path / "scales")


def test_a_packaged_model_refuses_by_what_was_fitted_to_it(fitted: Path, tmp_path: Path) -> None:
    def package(**further: str) -> None:
        package_model(
            str(tmp_path / "model"),
            parts={name: str(fitted / "bundle" / name) for name in PARTS},
            runs={},
            facts={},
            license_id="mit",
            generation=GenerationSettings.load(fitted / "bundle"),
            **further,
        )

    with pytest.raises(InputError, match="fitted to another language model"):  # to the one before it was halved
        package(rejection=str(fitted / "fit" / "model"))
    assert not (tmp_path / "model").exists()
    package()
    own = [f"model.name={tmp_path}/model", f"output_dir={tmp_path}/fit"]
    assert main(["fit_rejection", f"corpora=[{fitted}/units]", *own]) == 0
    package(rejection=str(tmp_path / "fit/model"))
    pipeline = SpokenDialogPipeline.from_pretrained(tmp_path / "model")
    pipeline.refuse_by(Refusing("combined", threshold=1e6))
    assert pipeline.respond(text="hello", seed=0).agent_text == REFUSAL


def test_the_embedded_model_is_not_sure_of_what_it_hears_backwards() -> None:
    pipeline = SpokenDialogPipeline.from_pretrained("tiny")
    pipeline.refuse_by(Refusing("log_probability"))
    sound = read_audio(Path(__file__).parents[1] / "usdm/assets/question.wav")
    units, template = pipeline._units(sound), pipeline.parts.template
    rejection, reader = pipeline.rejection, EvidenceReader(pipeline.parts.llm, template, REFUSAL)
    assert rejection is not None
    refused = []
    for heard in (units, units.flip(0)):
        answer = pipeline.own_chain().answer(Question(units=heard), pipeline.settings.sampling, speak=False)
        words = template.transcript_ids(answer.user_text or "")
        refused.append(rejection.refuses(reader, heard_turn(template, "multi_step", TurnContent(heard), words)))
    assert refused == [False, True]


def test_noise_without_words_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded model hears "..." in it, which nobody could type."""
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48_000), 16_000)
    assert main(["respond", f"input={path}", "reject=combined", "reply=text"]) == 0
    assert "did not understand" in capsys.readouterr().out
