"""The language model's loading and growing, and generation over one cache against `transformers`' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lm_models import KINDS, SIZES, WRITTEN_OUT, random_ids, random_model, separate_generate
from tiny_models import llama_tokenizer
from transformers import PreTrainedModel

from usdm.lm import (
    Mistral,
    TokenStream,
    build_model,
    check_model,
    extend_embeddings,
    in_transformers,
    load_for_generation,
    load_model,
    num_rows,
)
from usdm.lm.head import AllowedIds
from usdm.lm.sampling import Sampler, distribution
from usdm.lm.slots import ForwardInput
from usdm.lm.weights import is_llama_like, is_on_cpu_in_float32
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.types import InputError, Sampling


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 50))


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, vocabulary: SpeechTextVocabulary) -> PreTrainedModel:
    return random_model(vocabulary, request.param)


def next_logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1]


# Generation


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_three_stages_equal_three_generate_calls(
    model: PreTrainedModel, vocabulary: SpeechTextVocabulary, precision: torch.dtype
) -> None:
    """In float32 most kinds go through the forwards of this package; in float64 all go through the model's own."""
    model = model.to(precision)
    masks = vocabulary.text_mask, vocabulary.text_mask, vocabulary.unit_mask
    for seed in range(2):
        stream = TokenStream(model)
        stream.extend(random_ids(seed, 20 + 7 * seed, vocabulary))
        sequence = list(stream.ids)
        for allowed in masks:
            free = stream.generate(allowed, {}, Sampling(max_new_tokens=25))
            stop = free.ids[10 + seed]  # an id that is sure to come
            stream.rollback(len(sequence))
            generated = stream.generate(allowed, {stop}, Sampling(max_new_tokens=25))
            assert generated.stopped
            assert [*generated.ids, stop] == separate_generate(model, sequence, allowed, stop, limit=25)
            following = [stop, *random_ids(seed + 10, 4, vocabulary)]  # the wording before the next stage
            stream.extend(following)
            sequence += generated.ids + following
            assert stream.ids == sequence
        assert free.ids == separate_generate(model, sequence[: -len(following) - len(generated.ids)], allowed, -1, 25)
    model.to(torch.float32)


def test_kinds_written_out(model: PreTrainedModel, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["model"]
    assert is_llama_like(model) == (kind in WRITTEN_OUT)
    assert is_on_cpu_in_float32(model)


def test_generation_stops_and_says_so(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "mistral")
    prompt = random_ids(0, 12, vocabulary)
    stream = TokenStream(model)
    stream.extend(prompt)
    free = stream.generate(vocabulary.text_mask, [], Sampling(max_new_tokens=10))
    assert len(free.ids) == 10 and not free.stopped
    stop = free.ids[6]
    stream.rollback(len(prompt))
    generated = stream.generate(vocabulary.text_mask, [stop], Sampling(max_new_tokens=10))
    assert generated.stopped
    assert generated.ids == free.ids[: free.ids.index(stop)]
    assert stream.ids == prompt + generated.ids  # the stop id is not part of it


def test_nothing_is_read_twice(model: PreTrainedModel, vocabulary: SpeechTextVocabulary) -> None:
    """Ids that pass the model, several at once or one by one, are those of the sequence, once each."""
    stream = TokenStream(model)
    read: list[int] = []
    forward, single = stream._forward, stream._single

    class Recorded:
        logits = staticmethod(forward.logits)

        def __call__(self, reads: list[ForwardInput]) -> torch.Tensor:
            read.extend(reads[0].ids)
            return forward(reads)

    stream._forward = Recorded()
    if single is not None:
        stream._single = lambda id_, position: (read.append(id_), single(id_, position))[1]
    stream.extend(random_ids(1, 9, vocabulary))
    stream.generate(vocabulary.text_mask, [], Sampling(max_new_tokens=5))
    stream.extend(random_ids(2, 3, vocabulary))
    stream.generate(vocabulary.unit_mask, [], Sampling(max_new_tokens=5))
    assert len(stream.ids) == 22
    assert read == stream.ids[:-1]  # nothing asked yet what follows the last


def test_cache_after_rollback_equals_a_fresh_prefill(model: PreTrainedModel, vocabulary: SpeechTextVocabulary) -> None:
    ids, other = random_ids(3, 300, vocabulary), random_ids(4, 6, vocabulary)  # more than the first buffer
    stream = TokenStream(model)
    stream.extend(ids)
    stream.generate(vocabulary.text_mask, [], Sampling(max_new_tokens=8))
    for keep in (len(ids) + 3, 40, 1, 0):
        stream.rollback(keep)
        stream.extend(other)
        fresh = TokenStream(model)
        fresh.extend(stream.ids)
        assert stream.ids == fresh.ids and len(stream.ids) == keep + 6
        length = len(stream.ids)
        for mine, theirs in zip(stream._forward.cache.layers, fresh._forward.cache.layers, strict=True):
            for one, two in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                torch.testing.assert_close(one[:, :, :length], two[:, :, :length], atol=1e-4, rtol=1e-4)
        everything = AllowedIds.of(torch.ones(len(vocabulary), dtype=torch.bool), model.device)
        with torch.inference_mode():
            logits = stream._forward.logits(stream._read(), everything)[0].clone()
        torch.testing.assert_close(logits, next_logits(model, stream.ids), atol=1e-3, rtol=1e-3)
    stream.rollback(3)
    first = stream.generate(vocabulary.unit_mask, [], Sampling(max_new_tokens=4))
    stream.rollback(3)
    assert stream.generate(vocabulary.unit_mask, [], Sampling(max_new_tokens=4)) == first
    with pytest.raises(InputError, match="length=8: the sequence has 7 ids"):
        stream.rollback(8)


def test_the_model_s_positions_are_the_limit(vocabulary: SpeechTextVocabulary) -> None:
    model = build_model(vocabulary, **(SIZES | {"max_position_embeddings": 16}))
    stream = TokenStream(model)
    with pytest.raises(InputError, match="nothing to continue"):
        stream.generate(vocabulary.text_mask, [], Sampling())
    with pytest.raises(InputError, match="17 ids long, the model has 16 positions"):
        stream.extend(random_ids(0, 17, vocabulary))
    stream.extend(random_ids(0, 12, vocabulary))
    generated = stream.generate(vocabulary.text_mask, [], Sampling(max_new_tokens=100))
    assert len(generated.ids) == 4 and not generated.stopped
    with pytest.raises(InputError, match="17 ids long"):
        stream.generate(vocabulary.text_mask, [], Sampling())


# Sampling


def test_seeds(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "llama")

    def drawn(seed: int) -> list[int]:
        stream = TokenStream(model)
        stream.extend(random_ids(5, 8, vocabulary))
        return stream.generate(vocabulary.unit_mask, [], Sampling(temperature=3.0, seed=seed, max_new_tokens=20)).ids

    first = drawn(1)
    torch.rand(3)  # the global generator is not used
    assert drawn(1) == first != drawn(2)


def test_temperature_top_k_and_top_p() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    hot = distribution(logits, Sampling(temperature=2.0))
    torch.testing.assert_close(hot, (logits / 2).softmax(0))
    top_k = distribution(logits, Sampling(temperature=1.0, top_k=2))
    torch.testing.assert_close(top_k, torch.tensor([0.7310586, 0.2689414, 0.0, 0.0, 0.0]))
    # 0.644 0.237 0.087 0.032: the third makes 0.9 full
    top_p = distribution(logits, Sampling(temperature=1.0, top_p=0.9))
    assert top_p.gt(0).tolist() == [True, True, True, False, False]
    assert distribution(logits, Sampling(temperature=1.0, top_p=0.1)).gt(0).tolist() == [True] + [False] * 4
    sampler = Sampler(Sampling(temperature=1.0, top_k=3, seed=4))
    counts = torch.bincount(torch.tensor([sampler.draw(logits) for _ in range(2000)]), minlength=5) / 2000
    expected = torch.tensor([0.6652, 0.2447, 0.0900, 0.0, 0.0])
    torch.testing.assert_close(counts, expected, atol=0.04, rtol=0)


def test_repetition_penalty_counts_a_stage_s_own_tokens() -> None:
    logits = torch.tensor([4.0, 3.0, -1.0])
    sampler = Sampler(Sampling(repetition_penalty=1.5))
    assert [sampler.draw(logits) for _ in range(4)] == [0, 1, 0, 0]  # 4 -> 2.67 < 3; then 3 -> 2
    assert logits.tolist() == [4.0, 3.0, -1.0]
    negative = Sampler(Sampling(repetition_penalty=2.0))
    assert [negative.draw(torch.tensor([-1.0, -1.5])) for _ in range(2)] == [0, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"repetition_penalty": 0.0},
        {"max_new_tokens": 0},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(InputError, match=f"{name}={value}: it must be"):
        Sampler(Sampling(**wrong))


# Building, loading, extending


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("strategy", ["normal", "mean"])
def test_extended_embeddings(vocabulary: SpeechTextVocabulary, tied: bool, strategy: str) -> None:
    base = llama_tokenizer()
    model = build_model(vocabulary, **(SIZES | {"tie_word_embeddings": tied}))
    model.resize_token_embeddings(len(base))
    text_rows = model.get_input_embeddings().weight.detach().clone()
    with pytest.raises(InputError, match=f"{len(base)} rows, its tokenizer {len(vocabulary)} ids"):
        check_model(model, vocabulary)
    extend_embeddings(model, vocabulary, strategy)
    check_model(model, vocabulary)
    assert model.config.vocab_size == len(vocabulary)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        new = module.weight.detach()[len(base) :]
        assert len(new) == 53
        if strategy == "normal":
            assert abs(new.std().item() - SIZES["initializer_range"]) < 0.05 and abs(new.mean().item()) < 0.05
        else:
            torch.testing.assert_close(new, module.weight.detach()[: len(base)].mean(0).expand(53, -1))
    torch.testing.assert_close(model.get_input_embeddings().weight[: len(base)], text_rows)
    assert next_logits(model, [5, vocabulary.correspond_id]).shape == (len(vocabulary),)


def test_extending_needs_the_model_s_own_tokenizer(vocabulary: SpeechTextVocabulary) -> None:
    model = build_model(vocabulary, **SIZES)
    model.resize_token_embeddings(100)
    with pytest.raises(InputError, match="the model has 100 rows for"):
        extend_embeddings(model, vocabulary)
    with pytest.raises(InputError, match="strategy='zeros'"):
        extend_embeddings(build_model(vocabulary, **SIZES), vocabulary, "zeros")


def test_unknown_settings(vocabulary: SpeechTextVocabulary) -> None:
    with pytest.raises(InputError, match="hiden_size: mistral has no such setting, only .*hidden_size"):
        build_model(vocabulary, "mistral", hiden_size=32)
    with pytest.raises(InputError, match="model_type='mistrel'"):
        build_model(vocabulary, "mistrel")


def test_saved_and_loaded(model: PreTrainedModel, vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    check_model(loaded, vocabulary)
    ids = random_ids(7, 10, vocabulary)
    torch.testing.assert_close(next_logits(loaded, ids), next_logits(model, ids))
    assert not loaded.training


def test_precision_and_attention(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    model = random_model(vocabulary, "mistral")
    for stored, asked, expected in (
        (torch.float16, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ):
        model.to(stored).save_pretrained(tmp_path)
        assert load_model(tmp_path, dtype=asked).dtype == expected
    eager = load_model(tmp_path, attention="eager")
    assert eager.config._attn_implementation == "eager"
    assert num_rows(eager) == len(vocabulary)


def test_missing_and_damaged_files(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_model(tmp_path)
    model = random_model(vocabulary, "mistral")
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no causal language model can be read there"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="no causal language model can be read there"):
        load_model(tmp_path)
    build_model(vocabulary, **(SIZES | {"num_hidden_layers": 2})).save_pretrained(tmp_path / "two")
    weights.write_bytes((tmp_path / "two" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"weights and config\.json differ in model\.layers\.2"):
        load_model(tmp_path)


# Weights alone


@pytest.mark.parametrize("kind", ["mistral", "window"])
def test_a_mistral_to_generate_with_is_that_of_transformers(
    vocabulary: SpeechTextVocabulary, kind: str, tmp_path: Path
) -> None:
    random_model(vocabulary, kind).half().save_pretrained(tmp_path)
    whole, plain = load_model(tmp_path), load_for_generation(tmp_path)
    assert isinstance(plain, Mistral) and plain.dtype == whole.dtype == torch.float32 and not plain.training
    assert plain.num_parameters() == whole.num_parameters() and num_rows(plain) == num_rows(whole)
    check_model(plain, vocabulary)
    for seed in range(3):
        written = []
        for model in (whole, plain):
            stream = TokenStream(model)
            stream.extend(random_ids(seed, 30, vocabulary))
            written.append(stream.generate(vocabulary.unit_mask, (), Sampling(max_new_tokens=12)).ids)
        assert written[0] == written[1]
    ids = random_ids(7, 40, vocabulary)
    assert torch.equal(next_logits(in_transformers(plain), ids), next_logits(whole, ids))
    assert in_transformers(plain) is in_transformers(plain) and in_transformers(whole) is whole


def test_what_needs_transformers_is_loaded_by_it(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    random_model(vocabulary, "mistral").save_pretrained(tmp_path / "mistral")
    for options in ({"dtype": torch.bfloat16}, {"attention": "eager"}, {"quantization": "int8"}, {"device_map": "cpu"}):
        assert isinstance(load_for_generation(tmp_path / "mistral", **options), PreTrainedModel), options
    for kind in ("llama", "gpt_neox"):
        random_model(vocabulary, kind).save_pretrained(tmp_path / kind)
        assert isinstance(load_for_generation(tmp_path / kind), PreTrainedModel)
    build_model(vocabulary, **(SIZES | {"tie_word_embeddings": True})).save_pretrained(tmp_path / "tied")
    assert isinstance(load_for_generation(tmp_path / "tied"), PreTrainedModel)
    random_model(vocabulary, "mistral").save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert isinstance(load_for_generation(tmp_path / "shards"), PreTrainedModel)


def test_a_mistral_s_damaged_files(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    random_model(vocabulary, "mistral").save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="model.safetensors: damaged or cut off"):
        load_for_generation(tmp_path)
    weights.write_bytes(whole)
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 64'))
    with pytest.raises(InputError, match=r"does not fit config\.json beside it"):
        load_for_generation(tmp_path)
