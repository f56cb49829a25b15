"""The whole way of a text model of each family: a text folder of the hub, speech, dialogs, LoRA, a spoken reply.

Their tokenizers differ in what begins and ends a sequence and in what pads, their models in whether the head is the
embeddings. Models are random and tiny; tokenizers name their special tokens as the real ones do, in the same files.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_models import quick_runs  # noqa: F401 (used by itself)
from test_chain import FEW, QUICK
from tiny_models import SENTENCES, SHORT_TEMPLATE, build_random_bundle, llama_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from usdm.chain import GenerationSettings, SpokenDialogPipeline
from usdm.cli.pretrain import extend_pretrained
from usdm.data.collation import collate_rows
from usdm.data.dialogs import DialogSequences
from usdm.data.packing import PackedRows
from usdm.data.speech_text import SpeechTextSequences
from usdm.data.unit_corpus import UnitCorpus, UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.lm import load_model
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, extend_tokenizer, read_tokenizer
from usdm.training.language_model import finetune, pretrain
from usdm.training.lm_attention import keeps_apart
from usdm.training.lm_settings import LanguageModelSettings
from usdm.units import UnitExtractor

UNITS = 20
SETTINGS = LanguageModelSettings(
    steps=2,
    learning_rate=2e-3,
    max_length=128,
    batch_size=2,
    log_every=1,
    validation_rows=2,
    save_every=1,
    report_to=(),
    threads=1,
)
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 256}
GATED = {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8}


@dataclass(frozen=True)
class Family:
    model_type: str
    special: tuple[str, ...]  # tokens of its tokenizer
    names: Mapping[str, str]  # that its tokenizer_config.json gives some of them
    end: str  # what ends a sequence
    pad: str
    tied: bool  # the head is the embeddings
    start: tuple[str, ...] = ()  # what begins a sequence
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "Qwen2.5": Family(
        "qwen2",
        CHAT,
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        "<|endoftext|>",
        "<|endoftext|>",
        tied=True,
        config=GATED,
    ),
    "Qwen3": Family(
        "qwen3",
        CHAT,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "<|im_end|>",
        "<|endoftext|>",
        tied=True,
        config=GATED,
    ),
    "SmolLM2": Family(
        "llama",
        CHAT,
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
        "<|endoftext|>",
        "<pad>",
        tied=True,
        config=GATED,
    ),
    # Its tokenizer_config.json names no tokens: its class knows them, and its config.json their ids.
    "GPT-2": Family("gpt2", ("<|endoftext|>",), {}, "<|endoftext|>", "<pad>", tied=True),
    "Pythia": Family(
        "gpt_neox",
        ("<|endoftext|>", "<|padding|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
        "<|endoftext|>",
        "<pad>",
        tied=False,
        config={"intermediate_size": 32},
    ),
    "HyperCLOVAX": Family(
        "hyperclovax",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endofturn|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endofturn|>", "pad_token": "<|endoftext|>"},
        "<|endofturn|>",
        "<|endoftext|>",
        tied=True,
        config={**GATED, "embedding_multiplier": 2.0, "logits_scaling": 0.5},
    ),
    # Does not keep packed sequences apart: every sequence has a row of its own.
    "XGLM": Family(
        "xglm",
        ("<s>", "<pad>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        "</s>",
        "<pad>",
        tied=True,
        config={"ffn_dim": 32, "dropout": 0.0, "attention_dropout": 0.0},
    ),
    "Mistral": Family("mistral", (), {}, "</s>", "<pad>", tied=False, start=("<s>",), config=GATED),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Units, decoder and vocoder of a system."""
    folder = build_random_bundle(tmp_path_factory.mktemp("families"), UNITS)
    GenerationSettings(FEW, QUICK).save(folder)
    return folder


@pytest.fixture(scope="session")
def corpus(bundle: Path) -> Path:
    """Dialogs of two turns."""
    units = UnitExtractor.from_pretrained(bundle / "units")
    source = UnitSource(units.num_units, units.unit_rate, units.identity)
    words = [sentence.strip("?.").replace(",", "").replace(".", "").split() for sentence in SENTENCES]
    random = np.random.default_rng(0)
    with UnitCorpusWriter(bundle / "corpus.parquet", source, rows_per_group=16) as writer:
        for i in range(48):
            spoken = words[i % 4]
            heard = random.integers(0, UNITS, 3 * len(spoken)).astype(np.uint16)
            ends = np.arange(3, 3 * len(spoken) + 1, 3, dtype=np.int32)
            split, role = ("train" if i < 32 else "dev"), ("user", "agent")[i % 2]
            text = SENTENCES[i % 4]
            writer.write(
                UnitUtterance(f"u{i}", "s", role, f"d{i // 2}", i % 2, split, text, heard, tuple(spoken), ends)
            )
    return bundle / "corpus.parquet"


def byte_level_tokenizer(special: tuple[str, ...], names: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """As GPT-2's and those after it: bytes, nothing at the beginning of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([f"{sentence}\n" for sentence in SENTENCES] * 2, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def text_model(family: Family, folder: Path) -> Path:
    """A folder as the hub has it: stored in bfloat16, some more rows than the tokenizer has ids."""
    tokenizer = byte_level_tokenizer(family.special, family.names) if family.special else llama_tokenizer(legacy=True)
    tokenizer.save_pretrained(folder)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(family.end) for name in ("bos", "eos")}
    config = AutoConfig.for_model(
        family.model_type,
        vocab_size=len(tokenizer) + 8,
        pad_token_id=None,
        tie_word_embeddings=family.tied,
        **(SIZES | ids | dict(family.config)),
    )
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def loss_of(folder: Path, vocabulary: SpeechTextVocabulary, source: Any) -> float:
    """Of the saved model on the rows that its training validated on."""
    model = load_model(folder)
    rows = PackedRows(source, SETTINGS.max_length, vocabulary.pad_id, epochs=1, alone=not keeps_apart(model))
    with torch.no_grad():
        return model(**collate_rows([*islice(rows, SETTINGS.validation_rows)]), use_cache=False).loss.item()


def test_a_text_model_learns_to_speak(family: Family, corpus: Path, bundle: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    text = text_model(family, tmp_path / "text")
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(read_tokenizer(text), UNITS))
    tokens = vocabulary.tokenizer.convert_ids_to_tokens
    assert tokens([*vocabulary.start_ids]) == [*family.start]
    assert tokens([*vocabulary.end_ids]) == [family.end]
    assert tokens(vocabulary.pad_id) == family.pad

    # Speech
    speech = SpeechTextSequences(UnitCorpus(corpus), vocabulary, 128, split="dev", segment_units=6)
    sequence = next(iter(speech.sequences(0, speech.blocks(0)[0], 0)))
    assert tokens(sequence.input_ids.tolist())[: len(family.start)] == [*family.start]
    assert tokens(sequence.input_ids.tolist())[-1] == family.end and sequence.labels[-1] == sequence.input_ids[-1]

    def speechless() -> PreTrainedModel:
        return extend_pretrained(vocabulary, str(text), "normal", None, 0)

    figures = pretrain(
        speechless(), vocabulary, [corpus], tmp_path / "speech", SETTINGS, segment_units=6, dtype=torch.float32
    )
    pretrained = tmp_path / "speech" / "model"
    assert loss_of(pretrained, vocabulary, speech) == pytest.approx(figures["loss"], abs=1e-5)
    stored = json.loads((pretrained / "config.json").read_text())
    assert (stored["tie_word_embeddings"], stored["vocab_size"]) == (family.tied, len(vocabulary))
    assert AutoTokenizer.from_pretrained(pretrained).eos_token == family.end

    # Dialogs; and once more from a checkpoint on
    again = SpeechTextVocabulary.from_pretrained(pretrained)
    assert (again.layout, again.start_ids, again.end_ids) == (
        vocabulary.layout,
        vocabulary.start_ids,
        vocabulary.end_ids,
    )
    dialogs = DialogSequences(UnitCorpus(corpus), DialogTemplate(again, SHORT_TEMPLATE), 128, split="dev")

    def finetuned(run: Path, adapter: Any = None) -> Path:
        def train() -> dict[str, float]:
            model = load_model(pretrained)
            return finetune(model, again, [corpus], run, SETTINGS, template=SHORT_TEMPLATE, adapter=adapter)

        uninterrupted = train()
        for path in (run / "model", run / "checkpoint-2"):
            shutil.rmtree(path)
        assert train() == uninterrupted
        assert loss_of(run / "model", again, dialogs) == pytest.approx(uninterrupted["loss"], abs=1e-5)
        return run / "model"

    spoken = finetuned(tmp_path / "dialogs")

    # The same with an adapter, merged into what is saved
    adapter = peft.LoraConfig(
        r=2,
        target_modules="all-linear",
        modules_to_save=["input_embeddings", "output_embeddings"],
        task_type="CAUSAL_LM",
    )
    adapted = load_model(finetuned(tmp_path / "adapted", adapter))
    assert (adapted.get_input_embeddings().weight is adapted.get_output_embeddings().weight) == family.tied
    before = load_model(pretrained).state_dict()
    assert not torch.equal(
        adapted.get_input_embeddings().weight, before[next(name for name in before if "emb" in name or "wte" in name)]
    )

    # A reply
    pipeline = SpokenDialogPipeline.from_pretrained(bundle, llm=spoken)
    reply = pipeline.respond(0.1 * torch.randn(8000), 16_000)
    assert reply.agent_units is not None and len(reply.agent_units) and reply.waveform is not None
