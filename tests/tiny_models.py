"""The smallest models that run the real path: random weights, saved and loaded like trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Wav2Vec2Config, Wav2Vec2Model

from usdm.decoder import UnitDecoder, UnitDecoderConfig
from usdm.lm import build_model
from usdm.tokens import SpeechTextVocabulary, TemplateSettings, extend_tokenizer
from usdm.units import UnitExtractor, UnitSettings
from usdm.vocoder import VocosSettings, VocosVocoder

UNIT_RATE = 25  # Hz
SHORT_TEMPLATE = TemplateSettings(preamble="", user_heading="u:\n", agent_heading="a:\n", history_tokens=64)

SENTENCES = (
    "hi, how are you doing today?",
    "i'm fine, thanks. what about you?",
    "could you tell me the way to the station?",
    "go straight ahead, it's on your left.",
)

# How Qwen2 cuts text into words: punctuation takes the newlines after it along.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def llama_tokenizer(legacy: bool = False) -> PreTrainedTokenizerFast:
    """Byte-fallback BPE, sequences begin with <s>. A "\u2581" stands for a space and marks a beginning: that
    of the whole text or, in `legacy` (Llama 2, Mistral 7B), that of every stretch between special tokens."""
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "a"), ("o", "u"), ("y", "ou")]
    letters = sorted({*"abcdefghijklmnopqrstuvwxyzBE,.?:'", "\u2581"})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pieces += ["".join(pair) for pair in merges]
    vocab = {piece: id_ for id_, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a piece "?\\n", a pad token of its own, and nothing at the beginning of sequences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{sentence}\n" for sentence in SENTENCES] * 2, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def build_random_bundle(
    folder: Path,
    num_units: int = 20,
    template: TemplateSettings = SHORT_TEMPLATE,
    seed: int = 0,
    **model_settings: Any,
) -> Path:
    """`units/`, `llm/`, `decoder/` and `vocoder/` under `folder`, in the layout of a trained bundle."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random_extractor(num_units).save_pretrained(folder / "units")
        save_random_llm(folder / "llm", num_units, template, **model_settings)
        random_decoder(num_units).save_pretrained(folder / "decoder")
        VocosVocoder(VocosSettings(dim=16, intermediate_dim=32, num_layers=1)).save_pretrained(folder / "vocoder")
    return folder


def random_extractor(num_units: int) -> UnitExtractor:
    encoder = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8, 8, 8, 8, 8),
            conv_kernel=(10, 8, 4, 4, 4),
            conv_stride=(5, 8, 4, 2, 2),
            conv_bias=True,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            mask_time_prob=0.0,
        )
    )
    settings = UnitSettings(layer=0, num_units=num_units, unit_rate=UNIT_RATE, padding=640)
    return UnitExtractor(encoder, torch.randn(num_units, 16), settings)


def save_random_llm(folder: Path, num_units: int, template: TemplateSettings, **settings: Any) -> None:
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), num_units))
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.5,  # so that the likeliest token is not always the same
    }
    build_model(vocabulary, "mistral", **(sizes | settings)).save_pretrained(folder)
    vocabulary.save_pretrained(folder)
    template.save(folder)


def random_decoder(num_units: int) -> UnitDecoder:
    return UnitDecoder(
        UnitDecoderConfig(
            n_tokens=num_units,
            embedding_dim=8,
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=2,
            num_hidden_layers=2,
            convpos_width=7,
            convpos_groups=4,
            unit_rate=UNIT_RATE,
        )
    )


def as_readable_as_new_files(folder: Path) -> bool:
    """Whether weights anywhere in the folder have the mode that the umask gives a new file."""
    new = folder / "new"
    new.touch()
    mode = new.stat().st_mode
    new.unlink()
    weights = [path.stat().st_mode for path in folder.rglob("*.safetensors")]
    return len(weights) > 0 and set(weights) == {mode}
