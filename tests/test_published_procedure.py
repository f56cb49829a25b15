"""The published procedure gives the same answers as the chain that it is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import build_random_bundle
from torch import Tensor

from usdm.audio import read_audio
from usdm.benchmark.reference_pipeline import REFERENCE_DECODER, forbidden_ids, reference_respond, turn_so_far
from usdm.chain import SpokenDialogPipeline
from usdm.lm import in_transformers
from usdm.tokens import TurnContent
from usdm.types import InputError, Sampling, Waveform

QUESTION = Path(__file__).resolve().parents[1] / "usdm" / "assets" / "question.wav"
SHORT = {stage: Sampling(max_new_tokens=12) for stage in ("transcribe", "respond", "speak")}


def noise(seed: int, seconds: float = 1.0) -> Waveform:
    return Waveform(torch.rand(int(seconds * 16_000), generator=torch.Generator().manual_seed(seed)) - 0.5, 16_000)


@pytest.fixture(scope="module")
def embedded() -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained("tiny")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("layout", ["multi_step", "units_text_units", "units_to_units"])
def test_random_weights_answer_alike(tmp_path: Path, seed: int, layout: str) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained(build_random_bundle(tmp_path, seed=seed))
    question = noise(seed)
    ours = pipeline.respond(question.samples, 16_000, chain=layout, sampling=SHORT)
    reference = reference_respond(pipeline.parts, question, sampling=SHORT, layout=layout)
    assert_alike(reference.user_units, ours.user_units)
    assert_alike(reference.agent_units, ours.agent_units)
    assert (reference.user_text, reference.agent_text) == (ours.user_text, ours.agent_text)
    assert reference.truncated == ours.truncated
    assert set(reference.timings) == set(ours.timings)


def test_sampling_settings_mean_the_same(tmp_path: Path) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained(build_random_bundle(tmp_path, seed=2))
    sampling = {stage: Sampling(repetition_penalty=1.7, max_new_tokens=12) for stage in SHORT}
    ours = pipeline.respond(noise(1).samples, 16_000, sampling=sampling)
    reference = reference_respond(pipeline.parts, noise(1), sampling=sampling)
    assert_alike(reference.agent_units, ours.agent_units)
    assert reference.user_text == ours.user_text
    plain = reference_respond(pipeline.parts, noise(1), sampling=SHORT)
    assert reference.agent_units is not None and plain.agent_units is not None
    assert reference.agent_units.tolist() != plain.agent_units.tolist()

    drawn = {stage: Sampling(temperature=1.0, top_k=5, max_new_tokens=12, seed=3) for stage in SHORT}
    state = torch.random.get_rng_state()
    first, again = (reference_respond(pipeline.parts, noise(1), sampling=drawn).agent_units for _ in range(2))
    assert_alike(first, again)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("seed", range(3))
def test_beams_mean_the_same(tmp_path: Path, seed: int) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained(build_random_bundle(tmp_path, seed=seed))
    sampling = {stage: Sampling(num_beams=3, max_new_tokens=12) for stage in SHORT}
    ours = pipeline.respond(noise(1).samples, 16_000, sampling=sampling)
    reference = reference_respond(pipeline.parts, noise(1), sampling=sampling)
    assert_alike(reference.agent_units, ours.agent_units)
    assert (reference.user_text, reference.truncated) == (ours.user_text, ours.truncated)
    plain = pipeline.respond(noise(1).samples, 16_000, sampling=SHORT)
    assert ours.user_text != plain.user_text


def test_the_embedded_model_answers_alike(embedded: SpokenDialogPipeline) -> None:
    question = read_audio(QUESTION)
    ours = embedded.respond(question.samples, question.sample_rate)
    reference = reference_respond(embedded.parts, question, sampling=embedded.settings.sampling)
    assert_alike(reference.agent_units, ours.agent_units)
    assert (reference.user_text, reference.agent_text) == (ours.user_text, ours.agent_text)
    assert reference.changed == ()  # what it writes is tokenized again as it was written
    assert reference.waveform is not None and ours.waveform is not None
    assert reference.waveform.shape == ours.waveform.shape
    assert torch.isfinite(reference.waveform).all()


def test_every_call_reads_the_whole_prompt_and_forbids_by_lists(
    embedded: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    model = in_transformers(embedded.parts.llm)
    generate = model.generate

    def recorded(input_ids: Tensor, **options: object) -> Tensor:
        calls.append((input_ids[0].tolist(), options))
        output: Tensor = generate(input_ids, **options)
        return output

    evaluations = []
    estimator = embedded.parts.flow_matching.decoder.estimator
    handle = estimator.register_forward_pre_hook(lambda module, inputs: evaluations.append(len(inputs[1])))
    monkeypatch.setattr(model, "generate", recorded)
    try:
        reference_respond(embedded.parts, read_audio(QUESTION), sampling=embedded.settings.sampling)
    finally:
        handle.remove()
    prompts = [prompt for prompt, _ in calls]
    assert len(prompts) == 3
    assert prompts[1][: len(prompts[0])] == prompts[0] and prompts[2][: len(prompts[1])] == prompts[1]
    vocabulary = embedded.parts.template.vocabulary
    for (_, options), stage in zip(calls, ("transcribe", "respond", "speak"), strict=True):
        allowed = embedded.parts.template.allowed(stage)
        assert options["bad_words_ids"] == forbidden_ids(allowed)
        assert len(forbidden_ids(allowed)) == len(vocabulary) - int(allowed.sum()) > 500
    assert sum(evaluations) == 98  # 49 with a batch of two: with and without the units
    assert REFERENCE_DECODER.steps == 50


def test_the_turn_as_text(embedded: SpokenDialogPipeline) -> None:
    content = TurnContent(user_units=torch.tensor([3, 14]), user_text="hello", agent_text="hi there")
    assert turn_so_far(embedded.parts.template, content, "transcribe") == "user\n<|unit3|><|unit14|><|correspond|>"
    assert turn_so_far(embedded.parts.template, content, "speak").endswith(
        "<|correspond|>hello\nagent\nhi there<|correspond|>"
    )


def test_what_cannot_be_answered(embedded: SpokenDialogPipeline) -> None:
    with pytest.raises(InputError, match="begins with user_text"):
        reference_respond(embedded.parts, noise(0), layout="typed")
    with pytest.raises(InputError, match="max_new_tokens=0"):
        reference_respond(embedded.parts, noise(0), sampling={"transcribe": Sampling(max_new_tokens=0)})


def assert_alike(one: Tensor | None, other: Tensor | None) -> None:
    assert one is not None and other is not None and one.tolist() == other.tolist()
