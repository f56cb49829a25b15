"""The loop that writes one token after another, held against what limits it.

No loop can write a token faster than the weights can be read from memory; and what the chain adds to the model's
own forward (choosing among the allowed ids, bookkeeping) should cost next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from usdm.benchmark.machine import memory_bandwidth, synchronize
from usdm.benchmark.reference_pipeline import forbidden_ids
from usdm.chain import Components
from usdm.lm import TokenStream, in_transformers
from usdm.types import Sampling


@dataclass(frozen=True)
class DecodingSpeed:
    """Tokens a second of one sequence, medians; all at the same length of context and over the same allowed ids."""

    tokens: int  # written each time
    context: int  # ids before them
    chain: float  # our loop
    forward: float  # the model's own forward alone, with its usual cache and nothing chosen
    reference: float  # `generate` with a list of forbidden ids
    weight_bytes: int  # read for every token
    bandwidth: float  # bytes a second, measured
    bound: float  # bandwidth over weight bytes
    share_of_bound: float  # chain over bound; above 1 where the weights fit into a cache
    share_of_forward: float  # chain over forward


@torch.inference_mode()
def measure_decoding(parts: Components, context: int, tokens: int, repeats: int) -> DecodingSpeed:
    """Write `tokens` units after `context` ids, `repeats` times each way in turn, after once for warming up."""
    model, vocabulary = in_transformers(parts.llm), parts.template.vocabulary
    allowed = vocabulary.unit_mask
    units = torch.arange(context) % vocabulary.num_units
    prompt: list[int] = vocabulary.encode_units(units).tolist()
    bad_words = forbidden_ids(allowed)
    ways: dict[str, Callable[[], float]] = {
        "chain": lambda: _chain(model, prompt, allowed, tokens),
        "forward": lambda: _forward(model, prompt, tokens),
        "reference": lambda: _generate(model, prompt, bad_words, tokens, vocabulary.pad_id),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name in list(ways)[:: -1 if repeat % 2 else 1]:
            taken = ways[name]()
            if repeat:
                seconds[name].append(taken)
    speed = {name: 1 / median(values) for name, values in seconds.items()}
    read, bandwidth = weight_bytes(model), memory_bandwidth(model.device)
    return DecodingSpeed(
        tokens=tokens,
        context=context,
        **speed,
        weight_bytes=read,
        bandwidth=bandwidth,
        bound=bandwidth / read,
        share_of_bound=speed["chain"] * read / bandwidth,
        share_of_forward=speed["chain"] / speed["forward"],
    )


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of weights that one token needs: all but the table of embeddings, of which it takes a row."""
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    # Quantized layers keep their weights as buffers.
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    if embedding.weight.data_ptr() != head.weight.data_ptr():
        del tensors[embedding.weight.data_ptr()]
    return sum(tensor.nbytes for tensor in tensors.values())


def _chain(model: PreTrainedModel, prompt: list[int], allowed: torch.Tensor, tokens: int) -> float:
    """Seconds a token, once the prompt is read."""
    stream = TokenStream(model)
    stream.extend(prompt)
    writing = stream.write(allowed, (), Sampling(max_new_tokens=tokens + 1))
    next(writing)  # its logits came with the prompt
    start = time.perf_counter()
    for _ in writing:
        pass
    return (time.perf_counter() - start) / tokens


def _forward(model: PreTrainedModel, prompt: list[int], tokens: int) -> float:
    cache = DynamicCache(config=model.config)
    model(torch.tensor([prompt], device=model.device), cache=cache, use_cache=True, logits_to_keep=1)
    token = torch.tensor([prompt[:1]], device=model.device)
    synchronize(model.device)
    start = time.perf_counter()
    for _ in range(tokens):
        model(token, cache=cache, use_cache=True)
    synchronize(model.device)
    return (time.perf_counter() - start) / tokens


def _generate(model: PreTrainedModel, prompt: list[int], bad_words: list[list[int]], tokens: int, pad: int) -> float:
    """By the difference between many tokens and one: reading the prompt and setting up count for neither."""
    input_ids = torch.tensor([prompt], device=model.device)
    generate: Any = model.generate
    taken = []
    for count in (1, tokens + 1):
        start = time.perf_counter()
        output = generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=count,
            bad_words_ids=bad_words,
            min_new_tokens=count,
            pad_token_id=pad,
        )
        output.tolist()  # which waits for the device
        taken.append(time.perf_counter() - start)
    return max(taken[1] - taken[0], 1e-9) / tokens
