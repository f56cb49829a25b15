"""Small random language models of several kinds, `transformers`' own generation with them, and quick training runs."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from usdm.lm import build_model
from usdm.tokens import SpeechTextVocabulary

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.5,  # so that the likeliest token is not always the same
}
KINDS = {
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "window": {"model_type": "mistral", "sliding_window": 8},
    "llama": {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    "qwen2": {"model_type": "qwen2"},  # has biases
    "qwen2_window": {  # only its upper layers have a window
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
    },
    "gpt_neox": {"model_type": "gpt_neox"},  # a stranger
}
WRITTEN_OUT = {"mistral", "window", "llama", "qwen2"}  # kinds that do single tokens without `transformers`


@pytest.fixture(autouse=True)
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes much of a tiny run's time: the picture of its curves."""
    monkeypatch.setattr("usdm.training.language_model.draw_curves", lambda log, picture: None)


def random_model(vocabulary: SpeechTextVocabulary, kind: str) -> PreTrainedModel:
    settings = SIZES | KINDS[kind]
    if kind == "gpt_neox":
        del settings["num_key_value_heads"]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = build_model(vocabulary, **settings)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_()  # they begin as zeros, which would hide a forgotten one
    return model


def random_ids(seed: int, length: int, vocabulary: SpeechTextVocabulary) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(len(vocabulary), (length,), generator=generator).tolist()


class Only(LogitsProcessor):
    """The constraint as the published procedure has it: everything else is forbidden."""

    def __init__(self, allowed: torch.Tensor) -> None:
        self.forbidden = ~allowed

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(self.forbidden, -torch.inf)


def separate_generate(
    model: PreTrainedModel, prompt: list[int], allowed: torch.Tensor, stop: int, limit: int
) -> list[int]:
    """Ids that `generate` adds to the prompt, its stop id included if it came."""
    inputs = torch.tensor([prompt])
    output = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        logits_processor=LogitsProcessorList([Only(allowed)]),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=stop,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()
