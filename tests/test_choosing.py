"""Several answers to one question, and who chooses among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from tiny_models import build_random_bundle

from usdm.chain import DecoderSampling, GenerationSettings, LanguageModelChain, Question, SpokenDialogPipeline
from usdm.chain.candidates import Asked, Candidate, complete, draw_candidates, log_probabilities
from usdm.chain.choosing import ChoosingChain, Likeliest
from usdm.chain.requests import SynthesisRequest
from usdm.chain.synthesis import synthesize
from usdm.cli.main import main
from usdm.lm import TokenStream, in_transformers
from usdm.lm.head import AllowedIds
from usdm.types import InputError, Sampling, Turn

FEW = {stage: Sampling(max_new_tokens=10) for stage in ("transcribe", "respond", "speak")}
HEARD = Question(units=torch.tensor([1, 4, 4, 9, 0, 2]), history=(Turn("user", "hi"), Turn("agent", "hello")))
TYPED = Question(text="how are you?")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_random_bundle(tmp_path_factory.mktemp("bundle"))
    GenerationSettings(FEW, DecoderSampling(steps=2)).save(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained(bundle)


@pytest.fixture
def chain(pipeline: SpokenDialogPipeline) -> LanguageModelChain:
    return LanguageModelChain(pipeline.parts.llm, pipeline.parts.template)


@dataclass(frozen=True)
class Longest:
    """A chooser of one's own."""

    chain: LanguageModelChain
    stage: Literal["respond", "speak"] = "respond"

    def best(self, question: Question, answers: Sequence[Candidate]) -> int:
        lengths = [len(each.ids) for each in answers]
        return lengths.index(max(lengths))


def drawn(chain: LanguageModelChain, question: Question, stage: str, count: int, seed: int = 0) -> list[Candidate]:
    [found] = draw_candidates(chain, [Asked(question, seeded(seed))], stage, count)
    assert not isinstance(found, InputError)
    return found


def seeded(seed: int) -> dict[str, Sampling]:
    return {stage: replace(own, seed=seed) for stage, own in FEW.items()}


@pytest.mark.parametrize("question", [HEARD, TYPED])
@pytest.mark.parametrize("stage", ["respond", "speak"])
def test_candidates_are_what_the_chain_samples_with_each_seed(
    chain: LanguageModelChain, question: Question, stage: str
) -> None:
    found = drawn(chain, question, stage, 5)
    assert len({each.prefix for each in found}) == 1 and len({each.ids for each in found}) > 1
    assert [each.ids for each in drawn(chain, question, stage, 3)] == [each.ids for each in found[:3]]
    for number, candidate in enumerate(found):
        sampling = {**FEW, stage: replace(FEW[stage], temperature=1.0, top_p=0.9, seed=number)}
        alone = chain.answer(question, sampling, speak=True)
        assert (candidate.answer.user_text, candidate.answer.agent_text) == (alone.user_text, alone.agent_text)
        assert (stage in candidate.answer.truncated) == (stage in alone.truncated)
        if stage == "respond":
            assert candidate.answer.agent_units is None
            [whole] = complete(chain, [Asked(question, sampling)], [candidate])
        else:
            whole = candidate.answer
        assert not isinstance(whole, InputError) and whole.agent_units is not None and alone.agent_units is not None
        assert whole.agent_units.tolist() == alone.agent_units.tolist() and whole.truncated == alone.truncated


def test_log_probabilities_are_the_models_own_among_what_the_stage_may_write(chain: LanguageModelChain) -> None:
    found = drawn(chain, HEARD, "speak", 3)
    for candidate, scored in zip(found, log_probabilities(chain, found), strict=True):
        ids = torch.tensor([[*candidate.prefix, *candidate.ids]])
        logits = in_transformers(chain.model)(ids).logits[0, len(candidate.prefix) - 1 : -1]
        wanted = logits.masked_fill(~candidate.allowed, -torch.inf).log_softmax(1)
        picked = wanted.gather(1, torch.tensor(candidate.ids)[:, None])[:, 0]
        torch.testing.assert_close(scored, picked, atol=1e-5, rtol=1e-5)


def test_the_likeliest_is_that_of_brute_force(chain: LanguageModelChain) -> None:
    found = drawn(chain, HEARD, "respond", 6)
    means = []
    for candidate in found:
        stream, total = TokenStream(chain.model), 0.0
        stream.extend(candidate.prefix)
        allowed = AllowedIds.of(candidate.allowed, chain.model.device)
        for id_ in candidate.ids:
            total += float(stream.log_probabilities(allowed)[allowed.ids.index(id_)])
            stream.extend([id_])
        means.append(total / len(candidate.ids))
    assert Likeliest(chain).best(HEARD, found) == means.index(max(means))
    assert Likeliest(chain).best(HEARD, [found[2], found[2]]) == 0


def test_many_questions_at_once_are_answered_as_one_by_one(chain: LanguageModelChain) -> None:
    for stage in ("respond", "speak"):
        best_of = ChoosingChain(chain, lambda own, stage=stage: Longest(own, stage), 3)  # type: ignore[misc]
        asked = [Asked(HEARD, seeded(0)), Asked(TYPED, seeded(7)), Asked(HEARD, seeded(5))]
        for each, answer in zip(asked, best_of.answers(asked, capacity=4), strict=True):
            alone = best_of.answer(each.question, each.sampling)
            assert not isinstance(answer, InputError) and answer.agent_units is not None
            assert alone.agent_units is not None and answer.agent_units.tolist() == alone.agent_units.tolist()
            assert answer.agent_text == alone.agent_text and {"candidates", "choose"} <= set(answer.timings)
            [own] = draw_candidates(chain, [each], stage, 3)
            assert not isinstance(own, InputError)
            longest = own[Longest(chain).best(each.question, own)]
            assert answer.agent_text == longest.answer.agent_text


def test_what_cannot_be_chosen_is_told_and_spoils_no_other(chain: LanguageModelChain) -> None:
    best_of = ChoosingChain(chain, Likeliest, 2)
    settled = replace(TYPED, reply="fine")
    good, bad = best_of.answers([Asked(TYPED, FEW), Asked(settled, FEW)], capacity=8)
    assert not isinstance(good, InputError) and isinstance(bad, InputError) and "settled" in str(bad)
    with pytest.raises(InputError, match="stage respond is settled"):
        best_of.answer(settled, FEW)
    with pytest.raises(InputError, match="candidates=0"):
        ChoosingChain(chain, Likeliest, 0)
    with pytest.raises(InputError, match="stays text"):
        ChoosingChain(chain, lambda own: Likeliest(own, "speak"), 2).answer(TYPED, FEW, speak=False)


def test_synthesis_takes_the_best_and_tells_its_results_apart(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    requests = [SynthesisRequest("a", text="how are you?", seed=3), SynthesisRequest("b", units=(1, 2, 3))]
    chain = LanguageModelChain(pipeline.parts.llm, pipeline.parts.template)
    best_of = ChoosingChain(chain, Longest, 4)
    synthesize(pipeline, requests, tmp_path, chain=best_of)
    results = {row["id"]: row for row in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())}
    alone = best_of.answer(TYPED, {stage: replace(own, seed=3) for stage, own in FEW.items()})
    assert results["a"]["agent_text"] == alone.agent_text and results["b"]["agent_units"] == [1, 2, 3]
    assert synthesize(pipeline, requests, tmp_path, chain=ChoosingChain(chain, Longest, 4)).earlier == 2
    for other in (ChoosingChain(chain, Longest, 5), ChoosingChain(chain, Likeliest, 4), None):
        with pytest.raises(InputError):
            synthesize(pipeline, requests, tmp_path, chain=other)


def test_the_verbs_choose(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asked.jsonl").write_text('{"id": "one", "text": "how are you?"}\n')
    model, choice = [f"model.{part}={bundle / part}" for part in ("units", "llm", "decoder", "vocoder")], "likelihood"
    few = [f"sampling.{stage}.max_new_tokens=8" for stage in FEW]
    asked = ["text='how are you?'", "reply=text", "trace=trace.json", *model, *few]
    assert main(["respond", *asked, "candidates=4", f"choose={choice}"]) == 0
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert set(trace["timings"]) >= {"candidates", "choose"}
    assert main(["synthesize", "requests=asked.jsonl", *model, *few, "candidates=4", f"choose={choice}"]) in (0, 1)
    [row] = map(json.loads, (tmp_path / "replies" / "results.jsonl").read_text().splitlines())
    assert row["agent_text"] == trace["agent_text"]
    held_out = [
        "predict",
        "limit=1",
        "output_dir=held",
        *model,
        "system.candidates=2",
        f"choose@system.choose={choice}",
    ]
    assert main(held_out) in (0, 1)
    assert "Likeliest" in (tmp_path / "held" / "run.json").read_text()
    assert main(["respond", *asked, "candidates=4"]) != 0  # and nobody to choose
    assert main(["respond", *asked, f"choose={choice}"]) == 2  # of one
