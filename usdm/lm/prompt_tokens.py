"""Prompt tuning (arXiv 2104.08691) as tokens of the vocabulary: rows of their own that stand at a dialog's beginning.

What is trained are the rows of these tokens. They are ids like others, so rows may be packed, prompts kept in a cache
and answers made in one batch, and the trained model is saved and loaded like any.
"""

from __future__ import annotations

from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from usdm.tokens import SpeechTextVocabulary, TemplateSettings, read_tokenizer
from usdm.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPT_PREFIX = "<|prompt"


def prompt_token(index: int) -> str:
    return f"{PROMPT_PREFIX}{index}|>"


def add_prompt_tokens(
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    template: TemplateSettings,
    count: int,
    init_text: str | None,
    seed: int = 0,
) -> tuple[SpeechTextVocabulary, TemplateSettings]:
    """Give `model` `count` rows after all others; -> the vocabulary with their tokens, the template that begins so.

    A new row begins as that of an id of `init_text`, over and over, or of a text id drawn by `seed` where that is
    None. The head's new rows, where it is not the embeddings, are the mean of the text's: nothing is ever to write
    them. A model that has as many prompt tokens already keeps them.

    Raises:
        InputError: no count, or another than the model has, or an `init_text` without ids.
    """
    if count < 1:
        raise InputError(f"count={count}: give 1 prompt token or more")
    preamble = "".join(map(prompt_token, range(count)))
    begins = template.preamble.startswith(preamble)
    begun = template if begins else replace(template, preamble=preamble + template.preamble)
    known = [token for token in vocabulary.tokenizer.get_vocab() if token.startswith(PROMPT_PREFIX)]
    if known:
        if len(known) != count:
            raise InputError(f"count={count}: the model has {len(known)} prompt tokens already; take as many")
        return vocabulary, begun
    start_ids = _start_ids(vocabulary, count, init_text, seed)
    with TemporaryDirectory() as folder:  # a copy that takes more tokens
        vocabulary.tokenizer.save_pretrained(folder)
        tokenizer = read_tokenizer(folder)
    names = [AddedToken(prompt_token(i), special=True, normalized=False) for i in range(count)]
    tokenizer.add_tokens(names, special_tokens=True)
    extended = SpeechTextVocabulary.from_tokenizer(tokenizer)
    first = len(vocabulary)
    model.resize_token_embeddings(len(extended), mean_resizing=False)
    modules: Any = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings, head = (module.weight.data for module in modules)
    head[first:] = head[: vocabulary.layout.text_size].float().mean(dim=0).to(head.dtype)
    embeddings[first:] = embeddings[start_ids.to(embeddings.device)]
    return extended, begun


def _start_ids(vocabulary: SpeechTextVocabulary, count: int, init_text: str | None, seed: int) -> Tensor:
    if init_text is None:
        text_ids = torch.nonzero(vocabulary.text_mask)[:, 0]
        return text_ids[torch.randint(len(text_ids), (count,), generator=torch.Generator().manual_seed(seed))]
    ids = vocabulary.encode_text(init_text)
    if not ids:
        raise InputError(f"init_text={init_text!r}: it has no ids; write some words, or null")
    return torch.tensor(ids).repeat(-(-count // len(ids)))[:count]
