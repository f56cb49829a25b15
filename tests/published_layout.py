"""Small random checkpoints in the layouts of the published ones, made without this package's own savers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tiny_models import QWEN_WORDS, SENTENCES, llama_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedTokenizerFast, Wav2Vec2Config, Wav2Vec2Model

from usdm.decoder import UnitDecoder, UnitDecoderConfig
from usdm.vocoder.bigvgan_generator import BigVGANGenerator, BigVGANSettings

K = 24  # units
WIDTH = 32  # of the speech encoder
LAYERS = 4  # of it, of which the units come from the one before the last
CONV = 16

ENCODER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [CONV] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
UNITS_LAYER = 2  # 0-based

# From the beginnings of transformers' names to those of the two published key layouts.
FAIRSEQ = (
    (r"feature_extractor.conv_layers.(\d+).conv.", r"feature_extractor.conv_layers.\1.0."),
    (r"feature_extractor.conv_layers.(\d+).layer_norm.", r"feature_extractor.conv_layers.\1.2.1."),
    (r"feature_projection.layer_norm.", r"layer_norm."),
    (r"feature_projection.projection.", r"post_extract_proj."),
    (r"encoder.pos_conv_embed.conv.", r"encoder.pos_conv.0."),
    (r"(encoder.layers.\d+).attention.", r"\1.self_attn."),
    (r"(encoder.layers.\d+).layer_norm.", r"\1.self_attn_layer_norm."),
    (r"(encoder.layers.\d+).feed_forward.intermediate_dense.", r"\1.fc1."),
    (r"(encoder.layers.\d+).feed_forward.output_dense.", r"\1.fc2."),
    (r"masked_spec_embed", r"mask_emb"),
)
FAIRSEQ2 = (
    (r"feature_extractor.conv_layers.", r"encoder_frontend.feature_extractor.layers."),
    (r"feature_projection.layer_norm.", r"encoder_frontend.post_extract_layer_norm."),
    (r"feature_projection.projection.", r"encoder_frontend.model_dim_proj."),
    (r"encoder.pos_conv_embed.conv.", r"encoder_frontend.pos_encoder.conv."),
    (r"(encoder.layers.\d+).attention.out_proj.", r"\1.self_attn.output_proj."),
    (r"(encoder.layers.\d+).attention.", r"\1.self_attn."),
    (r"(encoder.layers.\d+).layer_norm.", r"\1.self_attn_layer_norm."),
    (r"(encoder.layers.\d+).final_layer_norm.", r"\1.ffn_layer_norm."),
    (r"(encoder.layers.\d+).feed_forward.intermediate_dense.", r"\1.ffn.inner_proj."),
    (r"(encoder.layers.\d+).feed_forward.output_dense.", r"\1.ffn.output_proj."),
    (r"masked_spec_embed", r"masker.temporal_mask_embed"),
)
KEY_LAYOUTS = {"fairseq": FAIRSEQ, "fairseq2": FAIRSEQ2}
WEIGHT_NORM = ((r"parametrizations.weight.original0", "weight_g"), (r"parametrizations.weight.original1", "weight_v"))


def published_encoder() -> Wav2Vec2Model:
    """The same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Wav2Vec2Model(
            Wav2Vec2Config(
                **ENCODER, conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True, mask_time_prob=0.05
            )
        ).eval()


def save_encoder_files(folder: Path, layout: str) -> None:
    """`xlsr2_1b_v2.pt` in either key layout, and `kmeans_10k.npy`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {renamed(name, KEY_LAYOUTS[layout]): value for name, value in published_encoder().state_dict().items()}
    state["quantizer.weight_proj.weight"] = torch.zeros(8, CONV)  # only in training
    state["final_proj.bias"] = torch.zeros(8)
    torch.save({"model": state}, folder / "xlsr2_1b_v2.pt")
    np.save(folder / "kmeans_10k.npy", published_centroids())


def published_centroids() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(K, WIDTH)).astype(np.float32)


def renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name, count = re.subn("^" + pattern, replacement, name)
        if count:
            break
    for pattern, replacement in WEIGHT_NORM:
        name = name.replace(pattern, replacement)
    return name


CONVERSION = [f"config.{key}={value}" for key, value in ENCODER.items()] + [
    f"settings.layer={UNITS_LAYER}",
    f"settings.num_units={K}",
]


def save_voicebox(folder: Path, **settings: Any) -> None:
    """`config.json` with the published keys alone, and `model.safetensors`."""
    sizes = {
        "n_tokens": K,
        "n_feats": 80,
        "embedding_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "convpos_width": 31,
        "convpos_groups": 4,
        "convpos_depth": 2,
        "attention_dropout": 0.0,
        "activation_dropout": 0.1,
        "hidden_dropout": 0.0,
        "sigma_min": 1e-4,
        "solver": "euler",
    } | settings
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        state = UnitDecoder(UnitDecoderConfig(**sizes)).state_dict()
    assert all(name.startswith("estimator.") for name in state)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes))


BIGVGAN = {
    "resblock": "1",
    "upsample_rates": [4, 4, 2, 2, 2, 2],
    "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4],
    "upsample_initial_channel": 64,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "activation": "snakebeta",
    "snake_logscale": True,
    "num_mels": 80,
    "n_fft": 1024,
    "hop_size": 256,
    "win_size": 1024,
    "sampling_rate": 22050,
    "fmin": 0,
    "fmax": 8000,
    "fmax_for_loss": None,
}


def save_bigvgan(folder: Path, **settings: Any) -> None:
    """`config.json` and `bigvgan_generator.pt` with its weight norms."""
    config = BIGVGAN | settings
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        state = with_weight_norm(BigVGANGenerator(BigVGANSettings.from_config(config)))
    torch.save({"generator": state}, folder / "bigvgan_generator.pt")
    (folder / "config.json").write_text(json.dumps(config))


def with_weight_norm(generator: BigVGANGenerator) -> dict[str, Tensor]:
    """Weights as the published checkpoints have them, each convolution's as its direction and its length."""
    state = generator.state_dict()
    for name in [name for name in state if name.endswith(".weight")]:
        weight = state.pop(name)
        state[f"{name}_v"] = weight * 3
        state[f"{name}_g"] = weight.norm(dim=(1, 2), keepdim=True)
    return state


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """As Mistral 7B v0.1 and Llama 2 have it."""
    return llama_tokenizer(legacy=True)


def other_llama_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with byte fallback, learnt; its special tokens have other names, places and ids."""
    tokenizer = Tokenizer(models.BPE(unk_token="<oov>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<end>", "<oov>", *(f"<0x{byte:02X}>" for byte in range(256)), "<begin>"]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator([sentence.lower() for sentence in SENTENCES] * 2, trainer)
    begin = tokenizer.token_to_id("<begin>")
    tokenizer.post_processor = processors.TemplateProcessing("<begin> $A", special_tokens=[("<begin>", begin)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<begin>", eos_token="<end>", unk_token="<oov>"
    )


def other_qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose special tokens were added after it, and nothing at the beginning of sequences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f"{sentence}\n" for sentence in SENTENCES] * 2, trainer)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


TOKENIZERS = {"mistral": mistral_tokenizer, "llama": other_llama_tokenizer, "qwen": other_qwen_tokenizer}


def add_speech_tokens(base: PreTrainedTokenizerFast, num_units: int = K) -> PreTrainedTokenizerFast:
    """The published layout: tags, units, and last a pad token where the base has none."""
    names = ["<|continue|>", "<|correspond|>", *(f"<|unit{unit}|>" for unit in range(num_units))]
    base.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    if base.pad_token is None:
        base.add_special_tokens({"pad_token": "<pad>"})
    return base


def save_language_model(folder: Path, tokenizer: PreTrainedTokenizerFast, rows: int | None = None) -> None:
    """A Mistral and its tokenizer, as `save_pretrained` writes them: nothing of this package's beside them."""
    config = MistralConfig(
        vocab_size=rows or len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        sliding_window=None,
        initializer_range=0.5,  # so that the likeliest token is not always the same
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(10)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
