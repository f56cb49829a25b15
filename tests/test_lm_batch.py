"""Many programs in one batch write what each writes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from lm_models import KINDS, SIZES, WRITTEN_OUT, random_ids, random_model, separate_generate
from tiny_models import llama_tokenizer
from transformers import PreTrainedModel

from usdm.lm import ContinuousBatch, GenerateRequest, StageProgram, TokenStream, build_model, finish, play
from usdm.lm import batch as batch_module
from usdm.lm.packed import PackedForward
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.types import InputError, Sampling

Stages = list[list[int]]  # what each stage wrote


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 50))


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, vocabulary: SpeechTextVocabulary) -> PreTrainedModel:
    return random_model(vocabulary, request.param)


def dialog(
    seed: int, vocabulary: SpeechTextVocabulary, sampling: Sequence[Sampling], length: int | None = None
) -> StageProgram[Stages]:
    """Three stages, the first two of text and the last of units; prompts, wordings and lengths differ by seed."""
    masks = vocabulary.text_mask, vocabulary.text_mask, vocabulary.unit_mask
    ids = random_ids(seed, length or 5 + 13 * seed % 60, vocabulary)
    written: Stages = []
    for stage, (allowed, settings) in enumerate(zip(masks, sampling, strict=True)):
        stops = {5 + seed % 3, 5 + seed % 7} if stage < 2 else set()
        generated = yield GenerateRequest(f"stage{stage}", ids, allowed, stops, settings)
        written.append(generated.ids)
        ids = random_ids(seed + 10 * stage, 1 + (seed + stage) % 5, vocabulary)
    return written


def greedy(seed: int) -> list[Sampling]:
    return [Sampling(max_new_tokens=limit + seed % 4) for limit in (9, 7, 12)]


def alone(model: PreTrainedModel, program: StageProgram[Stages]) -> Stages:
    return finish(play(program, TokenStream(model)))


def test_rows_write_what_they_write_alone(model: PreTrainedModel, vocabulary: SpeechTextVocabulary) -> None:
    """Rows enter late and leave early at the lower capacities, and all enter at once at the highest."""
    seeds = range(6)
    expected = {seed: alone(model, dialog(seed, vocabulary, greedy(seed))) for seed in seeds}
    assert len({str(stages) for stages in expected.values()}) == len(seeds)
    for capacity in (1, 3, 8):
        batch = ContinuousBatch(model, capacity)
        results = list(batch.run((seed, dialog(seed, vocabulary, greedy(seed))) for seed in seeds))
        assert sorted(key for key, _ in results) == [*seeds]
        assert dict(results) == expected


def test_a_batch_equals_separate_generate_calls(model: PreTrainedModel, vocabulary: SpeechTextVocabulary) -> None:
    masks = vocabulary.text_mask, vocabulary.unit_mask
    prompts = {seed: random_ids(seed, 4 + 9 * seed, vocabulary) for seed in range(5)}
    stop, limit, wording = 7, 14, [7, 3, 9]

    def two_stages(seed: int) -> StageProgram[Stages]:
        first = yield GenerateRequest("text", prompts[seed], masks[0], {stop}, Sampling(max_new_tokens=limit))
        second = yield GenerateRequest("units", wording, masks[1], (), Sampling(max_new_tokens=limit))
        return [first.ids, second.ids]

    results = dict(ContinuousBatch(model, 4).run((seed, two_stages(seed)) for seed in prompts))
    for seed, prompt in prompts.items():
        text = separate_generate(model, prompt, masks[0], stop, limit)
        text = text[: text.index(stop)] if stop in text else text
        units = separate_generate(model, prompt + text + wording, masks[1], -1, limit)
        assert results[seed] == [text, units]


def test_written_out_kinds(model: PreTrainedModel, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["model"]
    assert isinstance(ContinuousBatch(model, 2)._forward, PackedForward) == (kind in WRITTEN_OUT)


@pytest.mark.parametrize("kind", ["mistral", "gpt_neox"])
def test_seeded_draws_do_not_depend_on_the_batch(vocabulary: SpeechTextVocabulary, kind: str) -> None:
    model = random_model(vocabulary, kind)
    kinds = (
        Sampling(temperature=2.0, seed=1, max_new_tokens=8),
        Sampling(temperature=3.0, top_k=20, top_p=0.9, seed=2, max_new_tokens=9),
        Sampling(repetition_penalty=1.7, max_new_tokens=11),
        Sampling(temperature=1.5, repetition_penalty=1.3, seed=3, max_new_tokens=10),
        Sampling(max_new_tokens=6),
    )

    def program(seed: int) -> StageProgram[Stages]:
        return dialog(seed, vocabulary, [kinds[(seed + stage) % len(kinds)] for stage in range(3)])

    expected = {seed: alone(model, program(seed)) for seed in range(8)}
    for capacity in (2, 5):
        assert dict(ContinuousBatch(model, capacity).run((seed, program(seed)) for seed in range(8))) == expected
    assert dict(ContinuousBatch(model, 4).run([(3, program(3))])) == {3: expected[3]}


@pytest.mark.parametrize("kind", ["window", "qwen2_window"])
def test_long_rows_beside_short_ones(vocabulary: SpeechTextVocabulary, kind: str) -> None:
    """The cache grows while it is in use, and a row moves when another leaves."""
    model = random_model(vocabulary, kind)
    lengths = {0: 250, 1: 3, 2: 600, 3: 2, 4: 130}
    sampling = greedy(0)
    results = dict(
        ContinuousBatch(model, 3).run((k, dialog(k, vocabulary, sampling, length)) for k, length in lengths.items())
    )
    assert results == {k: alone(model, dialog(k, vocabulary, sampling, length)) for k, length in lengths.items()}


def test_many_prompts_are_read_in_parts(vocabulary: SpeechTextVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(vocabulary, "mistral")
    monkeypatch.setattr(batch_module, "IDS_AT_ONCE", 64)
    batch = ContinuousBatch(model, 6)
    sizes: list[int] = []
    forward = batch._forward
    batch._forward = lambda reads: (sizes.append(sum(len(read.ids) for read in reads)), forward(reads))[1]
    batch._forward.logits = forward.logits
    results = dict(batch.run((seed, dialog(seed, vocabulary, greedy(seed), 40)) for seed in range(6)))
    assert results == {seed: alone(model, dialog(seed, vocabulary, greedy(seed), 40)) for seed in range(6)}
    assert max(sizes) <= 64 + 6


def test_scripts_are_taken_when_there_is_room(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "mistral")
    taken, finished = [], []

    def programs() -> Iterator[tuple[int, StageProgram[Stages]]]:
        for seed in range(7):
            taken.append(seed)
            yield seed, dialog(seed, vocabulary, greedy(seed))

    for key, _ in ContinuousBatch(model, 3).run(programs()):
        finished.append(key)
        assert len(taken) - len(finished) < 3
    assert sorted(finished) == taken == [*range(7)]


def test_a_wrong_script_ends_alone(vocabulary: SpeechTextVocabulary) -> None:
    model = build_model(vocabulary, **(SIZES | {"max_position_embeddings": 100}))

    def refuses() -> StageProgram[Stages]:
        raise InputError("no question")
        yield

    def recovers() -> StageProgram[Stages]:
        try:
            yield GenerateRequest("text", random_ids(0, 101, vocabulary), vocabulary.text_mask, (), Sampling())
        except InputError as error:
            assert "101 ids long, the model has 100 positions" in str(error)
        return (yield from dialog(1, vocabulary, greedy(1)))

    programs = {
        "fine": dialog(2, vocabulary, greedy(2)),
        "refuses": refuses(),
        "settings": dialog(3, vocabulary, [*greedy(0)[:2], Sampling(top_p=2.0)]),
        "long": dialog(4, vocabulary, greedy(4), 101),
        "empty": (GenerateRequest("text", [], vocabulary.text_mask, (), Sampling()) for _ in range(1)),
        "recovers": recovers(),
        "fills": dialog(5, vocabulary, [Sampling(max_new_tokens=200)] * 3, 90),
    }
    results = dict(ContinuousBatch(model, 2).run(programs.items()))
    assert results.keys() == programs.keys()
    assert results["fine"] == alone(model, dialog(2, vocabulary, greedy(2)))
    assert results["recovers"] == alone(model, dialog(1, vocabulary, greedy(1)))
    for name, message in (
        ("refuses", "no question"),
        ("settings", "top_p=2.0: it must be"),
        ("long", "101 ids long"),
        ("empty", "nothing to continue"),
        ("fills", "100 positions"),
    ):
        assert isinstance(results[name], InputError) and message in str(results[name]), name


def test_scripts_are_closed_when_nobody_listens(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "mistral")
    closed = []

    def program(seed: int) -> StageProgram[Stages]:
        try:
            return (yield from dialog(seed, vocabulary, greedy(seed)))
        finally:
            closed.append(seed)

    results = ContinuousBatch(model, 3).run((seed, program(seed)) for seed in range(9))
    next(results)
    results.close()
    assert len(closed) == 3

    def broken() -> StageProgram[Stages]:
        raise RuntimeError("a defect")
        yield

    closed.clear()
    with pytest.raises(RuntimeError, match="a defect"):
        list(ContinuousBatch(model, 4).run([(0, program(0)), (1, program(1)), (2, broken())]))
    assert sorted(closed) == [0, 1]


def test_wrong_settings(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "gpt_neox")
    with pytest.raises(InputError, match="capacity=0: a batch holds 1 sequence or more"):
        ContinuousBatch(model, 0)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(InputError, match="attention='flex_attention': a batch of sequences works with sdpa or eager"):
        ContinuousBatch(model, 2)


def test_rows_go_on_from_streams_that_have_read_ahead(model: PreTrainedModel, vocabulary: SpeechTextVocabulary) -> None:
    """Each in its own step of the others, and the streams stay as they are."""
    batch = ContinuousBatch(model, 4)
    expected, found = {}, {}
    for seed, ahead in ((1, 1), (2, 9), (3, 5)):
        ids = random_ids(seed, 40, vocabulary)
        settings = Sampling(max_new_tokens=8)

        def program(rest: Sequence[int], settings: Sampling = settings) -> StageProgram[list[int]]:
            generated = yield GenerateRequest("say", rest, vocabulary.text_mask, set(), settings)
            return generated.ids

        expected[seed] = finish(play(program(ids), TokenStream(model)))
        stream = TokenStream(model)
        stream.extend(ids[:-ahead] + [3, 4, 5])
        stream.rollback(40 - ahead)
        assert batch.enter(seed, program(ids[40 - ahead :]), stream) is None
        batch.step()
        assert stream.ids == ids[: 40 - ahead]
    while batch.is_busy:
        for progress in batch.step():
            if progress.ended:
                found[progress.key] = progress.outcome
    assert found == expected


def test_steps_tell_what_was_written_and_rows_can_leave(
    model: PreTrainedModel, vocabulary: SpeechTextVocabulary
) -> None:
    closed: list[int] = []

    def program(seed: int) -> StageProgram[Stages]:
        try:
            return (yield from dialog(seed, vocabulary, greedy(seed)))
        finally:
            closed.append(seed)

    batch = ContinuousBatch(model, 3)
    for seed in range(3):
        batch.enter(seed, program(seed))
    assert not batch.has_room
    told: dict[int, list[int]] = {seed: [] for seed in range(4)}
    outcomes = {}
    steps = 0
    while batch.is_busy:
        for progress in batch.step():
            told[progress.key] += [written.id for written in progress.written]
            if progress.ended:
                outcomes[progress.key] = progress.outcome
        steps += 1
        if steps == 4:
            batch.leave(0)
            batch.leave(0)
            assert closed == [0] and batch.has_room
            batch.enter(3, program(3))
    assert sorted(outcomes) == [1, 2, 3] and sorted(closed) == [0, 1, 2, 3] and len(told[0]) <= 4
    for seed, stages in outcomes.items():
        assert stages == alone(model, dialog(seed, vocabulary, greedy(seed)))
        assert told[seed] == [id_ for stage in stages for id_ in stage]
