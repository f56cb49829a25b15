"""A small Llama-style tokenizer: byte-pair encoding with byte fallback, laid out as the published base one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from usdm.training.morphemes import Morphemes
from usdm.types import InputError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")  # hub style
_SPECIAL = ("<unk>", "<s>", "</s>")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # "\n" and all that no piece covers
_SPACE = "\u2581"
_BORDER = "\ue000"  # of morphemes, while pieces are learnt
# Learnt pieces never cross these borders: a word with its space and apostrophes, a digit, another character.
_WORDS = rf"{_SPACE}?[\p{{L}}\p{{M}}']+|{_SPACE}?\p{{N}}|{_SPACE}|[^\p{{L}}\p{{M}}\p{{N}}'{_SPACE}]"


def train_tokenizer(
    texts: Iterable[str],
    size: int,
    *,
    min_frequency: int = 2,
    extra_characters: str = "abcdefghijklmnopqrstuvwxyz0123456789'.,?!-",
    max_length: int = 8192,
    morphemes: Morphemes | None = None,
) -> PreTrainedTokenizerFast:
    """Learn `size` pieces from `texts`, as they stand (lower them first if the model is to read lower case).

    Ids: <unk>, <s>, </s>, 256 bytes, then characters and learnt pieces. Newline is a byte, so a piece of its own.

    Args:
        size: pieces in all, the 259 fixed ones included; fewer come out if the texts have no more.
        min_frequency: of a pair that becomes a piece.
        extra_characters: are pieces whether the texts have them or not.
        max_length: `model_max_length` of the tokenizer.
        morphemes: across whose borders no pieces are learnt (HyperCLOVA X, arXiv 2404.01954, section 2.1). They are
            not needed to encode: learnt merges keep within what they were learnt from.

    Raises:
        InputError: `size` leaves no room for learnt pieces.
    """
    texts = list(texts)
    characters = {character for text in texts for character in text} | set(extra_characters)
    fixed = [*_SPECIAL, *_BYTES]
    if size <= len(fixed) + len(characters) + 1:
        raise InputError(
            f"size={size}: {len(fixed)} fixed pieces and {len(characters)} characters leave no room; take more"
        )
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learner.normalizer = _normalizer()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_BORDER, behavior="removed"),
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(_BYTES),
        min_frequency=min_frequency,
        initial_alphabet=[_SPACE, *extra_characters],
        special_tokens=list(_SPECIAL),
        show_progress=False,
    )
    lines = [line for text in texts for line in text.splitlines()]
    learner.train_from_iterator(_divided(lines, morphemes), trainer)
    return _llama_layout(learner, fixed, max_length)


def _divided(lines: Sequence[str], morphemes: Morphemes | None) -> Iterator[str]:
    """With a mark at each border of morphemes."""
    if morphemes is None:
        yield from lines
        return
    for line, borders in morphemes.borders(lines):
        ends = [*borders, len(line)]
        yield _BORDER.join(line[start:end] for start, end in zip([0, *borders], ends, strict=True))


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write the hub-style files into `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])


def _llama_layout(learner: Tokenizer, fixed: list[str], max_length: int) -> PreTrainedTokenizerFast:
    """The learnt pieces behind the fixed ones, without a pre-tokenizer, as Llama tokenizers are stored."""
    learnt = json.loads(learner.to_str())["model"]
    pieces = [piece for piece in sorted(learnt["vocab"], key=learnt["vocab"].get) if piece not in _SPECIAL]
    vocabulary = {piece: id_ for id_, piece in enumerate([*fixed, *pieces])}
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = _normalizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
