"""Beam search: what it finds against `transformers` and against all texts there are, alone and in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
import torch
from lm_models import KINDS, SIZES, random_ids, random_model
from tiny_models import llama_tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from usdm.lm import ContinuousBatch, GenerateRequest, StageProgram, TokenStream, build_model, finish, play
from usdm.lm.beams import BeamSearch
from usdm.lm.cuda_graph import GraphForward
from usdm.lm.head import AllowedIds
from usdm.lm.slots import SlotCache
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.types import InputError, Sampling

Stages = list[tuple[list[int], bool]]  # what each stage wrote, and whether it stopped by itself


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 50))


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, vocabulary: SpeechTextVocabulary) -> PreTrainedModel:
    return random_model(vocabulary, request.param)


def beams(num_beams: int, limit: int = 12) -> Sampling:
    return Sampling(num_beams=num_beams, max_new_tokens=limit)


def dialog(seed: int, vocabulary: SpeechTextVocabulary, sampling: Sequence[Sampling]) -> StageProgram[Stages]:
    """A stage for each of `sampling`, of text and of units in turn."""
    masks = vocabulary.text_mask, vocabulary.unit_mask
    ids = random_ids(seed, 5 + 13 * seed % 60, vocabulary)
    written: Stages = []
    for stage, settings in enumerate(sampling):
        stops = {5 + seed % 3, 5 + seed % 7} if stage % 2 == 0 else set()
        generated = yield GenerateRequest(f"stage{stage}", ids, masks[stage % 2], stops, settings)
        written.append((generated.ids, generated.stopped))
        ids = random_ids(seed + 10 * stage, 1 + (seed + stage) % 5, vocabulary)
    return written


def alone(model: PreTrainedModel, program: StageProgram[Stages]) -> Stages:
    return finish(play(program, TokenStream(model)))


@pytest.mark.parametrize("num_beams", [2, 5])
def test_it_finds_what_transformers_finds(
    model: PreTrainedModel, vocabulary: SpeechTextVocabulary, num_beams: int
) -> None:
    """Stop ids are many or one, so that some texts end early and some meet the limit."""
    ended = set()
    for seed in range(8):
        stops = {*range(5, len(vocabulary), 5)} if seed % 2 else {5}
        prompt = random_ids(seed, 4 + 9 * seed, vocabulary)
        stream = TokenStream(model)
        stream.extend(prompt)
        generated = stream.generate(torch.ones(len(vocabulary), dtype=torch.bool), stops, beams(num_beams))
        input_ids = torch.tensor([prompt])
        expected = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            num_beams=num_beams,
            do_sample=False,
            early_stopping=True,
            max_new_tokens=12,
            eos_token_id=sorted(stops),
            pad_token_id=vocabulary.pad_id,
        )[0, len(prompt) :].tolist()
        ended.add(generated.stopped)
        assert generated.ids == (expected[:-1] if generated.stopped else expected)
        assert generated.stopped == (expected[-1] in stops)
        assert stream.ids == prompt + generated.ids
    assert ended == {False, True}


def test_enough_beams_find_the_best_of_all_texts(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "mistral")
    letters, stop, limit = [10, 11, 12], 7, 4
    allowed = torch.zeros(len(vocabulary), dtype=torch.bool)
    allowed[[*letters, stop]] = True
    prompt = random_ids(0, 20, vocabulary)

    def mean_log_probability(text: Sequence[int]) -> float:
        logits: Tensor = model(torch.tensor([[*prompt, *text]])).logits[0, len(prompt) - 1 : -1]
        scores = logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)
        return float(scores[range(len(text)), list(text)].mean())

    texts = [(*ids, stop) for length in range(limit) for ids in product(letters, repeat=length)]
    texts += product(letters, repeat=limit)
    with torch.inference_mode():
        best = max(texts, key=mean_log_probability)
    stream = TokenStream(model)
    stream.extend(prompt)
    generated = stream.generate(allowed, {stop}, beams(len(texts), limit))
    assert (*generated.ids, *([stop] if generated.stopped else [])) == best


def test_rows_write_what_they_write_alone(model: PreTrainedModel, vocabulary: SpeechTextVocabulary) -> None:
    """Rows that search, rows that draw and rows that do either come and go beside each other."""
    greedy, drawn = Sampling(max_new_tokens=9), Sampling(temperature=2.0, seed=1, max_new_tokens=8)
    kinds = (beams(4, 11), greedy, beams(3, 7), drawn)

    def program(seed: int) -> StageProgram[Stages]:
        return dialog(seed, vocabulary, [kinds[(seed + stage) % len(kinds)] for stage in range(3)])

    expected = {seed: alone(model, program(seed)) for seed in range(8)}
    assert len({str(stages) for stages in expected.values()}) == len(expected)
    assert expected != {seed: alone(model, dialog(seed, vocabulary, [greedy] * 3)) for seed in range(8)}
    for capacity in (1, 3, 8):
        assert dict(ContinuousBatch(model, capacity).run((seed, program(seed)) for seed in range(8))) == expected


def test_fixed_steps_find_the_same(vocabulary: SpeechTextVocabulary) -> None:
    """What a GPU runs as graphs; its buffers follow a cache that becomes wider."""
    model = random_model(vocabulary, "mistral")
    programs = {seed: [beams(4), Sampling(max_new_tokens=9)] for seed in range(5)}
    expected = {seed: alone(model, dialog(seed, vocabulary, stages)) for seed, stages in programs.items()}
    batch = ContinuousBatch(model, 2)
    batch._forward = GraphForward(model, batch._cache)
    assert dict(batch.run((k, dialog(k, vocabulary, stages)) for k, stages in programs.items())) == expected
    stream = TokenStream(model)
    stream._forward, stream._single = GraphForward(model, SlotCache(model.config.num_hidden_layers, 1)), None
    assert finish(play(dialog(3, vocabulary, programs[3]), stream)) == expected[3]


def test_the_stream_goes_on_from_what_was_found(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "mistral")
    prompt = random_ids(1, 30, vocabulary)
    stream = TokenStream(model)
    stream.extend(prompt)
    found = stream.generate(vocabulary.text_mask, {5}, beams(3)).ids
    fresh = TokenStream(model)
    fresh.extend(prompt + found)
    after = [each.generate(vocabulary.unit_mask, (), Sampling(max_new_tokens=10)).ids for each in (stream, fresh)]
    assert after[0] == after[1]


def test_the_model_s_positions_are_the_limit(vocabulary: SpeechTextVocabulary) -> None:
    model = build_model(vocabulary, **(SIZES | {"max_position_embeddings": 40}))
    stages = [beams(3, 50)]
    ids, stopped = alone(model, dialog(2, vocabulary, stages))[0]
    prompt = 5 + 13 * 2 % 60
    assert stopped or len(ids) == 40 - prompt
    assert dict(ContinuousBatch(model, 2).run([(2, dialog(2, vocabulary, stages))])) == {2: [(ids, stopped)]}


def test_all_candidates_may_be_stop_ids() -> None:
    allowed = AllowedIds.of(torch.tensor([False, True, True, True]), torch.device("cpu"))
    search = BeamSearch(2, allowed, {1, 2, 3}, limit=5)
    assert search.advance(torch.tensor([[0.0, 2.0, 1.0]])) == []
    assert search.best.ids == () and search.best.stopped
    assert search.best.log_probability == pytest.approx(float(torch.tensor([0.0, 2.0, 1.0]).log_softmax(0)[1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, "num_beams=0: it must be 1"),
        (
            {"num_beams": 4, "temperature": 0.5},
            r"temperature=0.5 with num_beams=4: .* temperature=0 or num_beams=1",
        ),
        ({"num_beams": 4, "repetition_penalty": 1.2}, "repetition_penalty=1.2 with num_beams=4"),
    ],
)
def test_settings_that_mean_nothing(vocabulary: SpeechTextVocabulary, settings: dict[str, float], message: str) -> None:
    model = random_model(vocabulary, "mistral")
    with pytest.raises(InputError, match=message):
        alone(model, dialog(1, vocabulary, [Sampling(**settings)]))
