"""HyperCLOVA X SEED at toy size: the Llama type and its own, as usdm generates with them and as transformers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_lm_families import CHAT, GATED, SIZES, byte_level_tokenizer
from test_lm_training import vocabulary  # noqa: F401 (a fixture)
from transformers import AutoConfig, AutoModelForCausalLM

from usdm.cli.main import main
from usdm.lm import TokenStream, build_model, change_vocabulary, load_for_generation
from usdm.lm.head import AllowedIds
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.training.tokenizer import train_tokenizer
from usdm.types import InputError

MULTIPLIERS = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 0.25}
TYPES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "hyperclovax": {**MULTIPLIERS, "attention_multiplier": 0.1, "use_post_norm": True},
}


@pytest.mark.parametrize("kind", TYPES)
def test_logits_are_those_of_transformers(kind: str, vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    model = build_model(vocabulary, kind, **SIZES, **GATED, initializer_range=0.3, **TYPES[kind])
    model.save_pretrained(tmp_path)
    ids = torch.randint(len(vocabulary), (40,)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    stream = TokenStream(load_for_generation(tmp_path))
    everything = AllowedIds.of(torch.ones(len(vocabulary), dtype=torch.bool), torch.device("cpu"))
    stream.extend(ids[:25])
    found = [stream.log_probabilities(everything)]
    for id_ in ids[25:]:  # one by one, over the cache
        stream.extend([id_])
        found.append(stream.log_probabilities(everything))
    torch.testing.assert_close(torch.stack(found), expected[24:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("size", "kind"), [("0.5b", "llama"), ("think_14b", "hyperclovax")])
def test_a_text_model_of_the_hub_becomes_one_of_speech(
    size: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `llm=hyperclovax_seed_...` reads is a folder as the hub has it; test_lm_families goes on to a reply."""
    from hydra import compose, initialize_config_dir

    from usdm.cli.pretrain import base_model
    from usdm.config import config_folder, register_schemas, show_experiments

    tokenizer = byte_level_tokenizer((*CHAT, "<|endofturn|>"), {"eos_token": "<|endofturn|>", "pad_token": CHAT[0]})
    tokenizer.save_pretrained(tmp_path)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer) + 8, **SIZES, **GATED, **TYPES[kind])
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    register_schemas(["pretrain"])
    show_experiments("pretrain", [config_folder()])
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        chosen = [f"llm=hyperclovax_seed_{size}", f"llm.folder={tmp_path}", "shared.num_units=20"]
        composed = compose("pretrain", chosen)
    model, vocabulary = base_model(composed)  # noqa: F811
    assert model.config.model_type == kind and vocabulary.num_units == 20
    assert model.get_input_embeddings().weight.shape[0] == len(vocabulary)
    if kind == "hyperclovax":
        assert model.config.logits_scaling == 0.25


@pytest.mark.parametrize(("size", "billions"), [("0.5b", 0.57), ("1.5b", 1.59), ("think_14b", 14.75)])
def test_a_training_is_planned(
    size: str, billions: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan_training", f"architecture=hyperclovax_seed_{size}", "json=plan.json"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    speech = 10_003 * {"0.5b": 1024, "1.5b": 2048, "think_14b": 2 * 6144}[size]
    assert (plan["parameters"] - speech) / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_model_of_speech_gets_other_words(vocabulary: SpeechTextVocabulary) -> None:  # noqa: F811
    texts = ["i'd like a table for two please", "두 명 예약해 줘요"] * 3
    other = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(train_tokenizer(texts, 350), 20))
    torch.manual_seed(0)
    model = build_model(vocabulary, "mistral", **SIZES, **GATED)
    before = model.get_input_embeddings().weight.detach().clone()
    old, new = vocabulary.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    kept = change_vocabulary(model, vocabulary, other)
    after = model.get_input_embeddings().weight
    assert kept == len(old.keys() & new.keys()) > 300 and len(after) == len(other) == model.config.vocab_size
    for token in ("<|unit7|>", "<|correspond|>", "<s>", "▁", "t"):
        assert torch.equal(after[new[token]], before[old[token]])
    drawn = after[new["명"]]
    assert 0 < drawn.std() < 0.1 and not (drawn == before).all(-1).any()
    assert model.get_output_embeddings().weight.shape == after.shape and model.config.pad_token_id == other.pad_id
    more = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(train_tokenizer(texts, 350), 21))
    with pytest.raises(InputError, match="knows 20 units, the new tokenizer 21"):
        change_vocabulary(model, other, more)
