"""One vocabulary for text and speech units.

Text ids come first (the base tokenizer's own), then the two tags, then the units as one block in order, and
last a pad token if the base has none. Unit and id are therefore one addition apart, at the block's offset.

How a sequence begins and ends is the base tokenizer's matter, as its model has learnt it. It begins with what the
tokenizer puts before a text: <s> for Llama 2 and Mistral, nothing for Qwen, SmolLM2, GPT-2 and GPT-NeoX. It ends with
the tokenizer's end of sequence, if that has one. Beginning, end and pad may be one token: what is padding is said by
labels and positions, never read off the ids.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Union

import torch
from tokenizers import AddedToken
from torch import Tensor

from usdm.checkpoint import CONFIG_FILE, read_config
from usdm.tokens.stored import TOKENIZER_FILE, StoredTokenizer
from usdm.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FastTokenizer = Union["PreTrainedTokenizerFast", StoredTokenizer]  # noqa: UP007 (a name that is not there yet)

CONTINUE = "<|continue|>"  # the next span carries on in the other modality
CORRESPOND = "<|correspond|>"  # the next span is the same content in the other modality
PAD = "<pad>"
LAYOUT_FILE = "vocabulary.json"


def unit_token(unit: int) -> str:
    return f"<|unit{unit}|>"


@dataclass(frozen=True)
class VocabularyLayout:
    """Where everything lies; saved beside every checkpoint so that a mismatch is found before it is heard."""

    text_size: int  # text ids are below it
    text_hash: str  # of the base tokenizer's tokens in order
    continue_id: int
    correspond_id: int
    unit_offset: int  # id of unit 0
    num_units: int
    pad_id: int
    size: int  # all ids are below it


@dataclass(frozen=True)
class SpeechTextVocabulary:
    """A tokenizer that has the speech tokens, and the arithmetic between units and ids."""

    tokenizer: FastTokenizer
    layout: VocabularyLayout

    @classmethod
    def from_tokenizer(cls, tokenizer: FastTokenizer) -> SpeechTextVocabulary:
        """Raises InputError if the speech tokens are missing or are not one block in order."""
        return cls(tokenizer, find_layout(tokenizer))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SpeechTextVocabulary:
        """The tokenizer in `folder`, held against `vocabulary.json` there (published checkpoints have none).

        Raises InputError if the tokenizer is missing, lacks the speech tokens or is not the one described.
        """
        path = Path(folder) / LAYOUT_FILE
        if not path.is_file():
            return cls.from_tokenizer(read_tokenizer(folder))
        vocabulary = cls.from_tokenizer(StoredTokenizer.from_pretrained(folder))
        vocabulary.check_layout(read_layout(path), str(path))
        return vocabulary

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's files and `vocabulary.json`."""
        self.tokenizer.save_pretrained(str(folder))
        text = json.dumps(asdict(self.layout), indent=2) + "\n"
        (Path(folder) / LAYOUT_FILE).write_text(text, encoding="utf-8")

    def check_layout(self, other: VocabularyLayout, where: str) -> None:
        """Raises InputError that names both sides of every difference."""
        ours, theirs = asdict(self.layout), asdict(other)
        if different := [key for key in ours if ours[key] != theirs[key]]:
            facts = ", ".join(f"{key} {ours[key]} against {theirs[key]}" for key in different)
            raise InputError(f"the tokenizer and {where} differ: {facts}; use the tokenizer it was made with")

    def __len__(self) -> int:
        return self.layout.size

    @property
    def num_units(self) -> int:
        return self.layout.num_units

    @property
    def continue_id(self) -> int:
        return self.layout.continue_id

    @property
    def correspond_id(self) -> int:
        return self.layout.correspond_id

    @property
    def pad_id(self) -> int:
        return self.layout.pad_id

    @cached_property
    def start_ids(self) -> tuple[int, ...]:
        """What every sequence begins with: the ids that the tokenizer puts before a text, or nothing."""
        ids = self.tokenizer.backend_tokenizer.encode(CORRESPOND, add_special_tokens=True).ids
        return tuple(ids[: ids.index(self.correspond_id)])

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """What every sequence ends with: the tokenizer's end-of-sequence id, or nothing."""
        end = self.tokenizer.eos_token_id
        return () if end is None else (end,)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text: the base's special tokens, tags, units and pad."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {id_ for id_, token in added if token.special}

    def encode_text(self, text: str) -> list[int]:
        """Ids of a string as it stands, special tokens in it recognised, none added."""
        # The backend directly: the wrapper around it costs twice the work itself.
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode_text(self, ids: Sequence[int] | Tensor) -> str:
        """Text of ids, special tokens as they are called, without space around it.

        Bytes that a model wrote but that are no character are left out: nothing could be done with them as text.
        """
        text: str = self.tokenizer.backend_tokenizer.decode(list(map(int, ids)), skip_special_tokens=False)
        return text.replace("\ufffd", "").strip()

    def encode_units(self, units: Sequence[int] | Tensor) -> Tensor:
        """(U,) units -> (U,) int64 ids. Raises InputError for a unit outside [0, K)."""
        units = torch.as_tensor(units, dtype=torch.int64)
        self._check_range(units, 0, "unit")
        return units + self.layout.unit_offset

    def decode_units(self, ids: Sequence[int] | Tensor) -> Tensor:
        """(U,) ids -> (U,) int64 units. Raises InputError for an id that is no unit."""
        ids = torch.as_tensor(ids, dtype=torch.int64)
        self._check_range(ids, self.layout.unit_offset, "unit id")
        return ids - self.layout.unit_offset

    def _check_range(self, values: Tensor, first: int, noun: str) -> None:
        last = first + self.num_units - 1
        if values.numel() and not first <= int(values.min()) <= int(values.max()) <= last:
            outside = values[(values < first) | (values > last)][0].item()
            raise InputError(f"{noun} {outside} is outside {first}..{last}: take this vocabulary's own units")

    @cached_property
    def text_mask(self) -> Tensor:
        """(V,) bool: ids that may stand in a transcript or a written reply."""
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[[id_ for id_ in self.tokenizer.get_vocab().values() if id_ < self.layout.text_size]] = True
        mask[sorted(self.special_ids)] = False
        return mask

    @cached_property
    def unit_mask(self) -> Tensor:
        """(V,) bool: the unit ids."""
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[self.layout.unit_offset : self.layout.unit_offset + self.num_units] = True
        return mask

    @cached_property
    def newline_mask(self) -> Tensor:
        """(V,) bool: text ids whose text holds a newline, alone or with other characters."""
        mask = torch.zeros(len(self), dtype=torch.bool)
        ids = torch.nonzero(self.text_mask)[:, 0].tolist()
        texts = self.tokenizer.backend_tokenizer.decode_batch([[id_] for id_ in ids])
        mask[[id_ for id_, text in zip(ids, texts, strict=True) if "\n" in text]] = True
        return mask


def read_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer exactly as `tokenizer.json` describes it. Raises InputError if it is missing or damaged.

    Model-specific tokenizer classes build their normalizer anew from flags, and lose some of these flags when
    saved, so that the same text gets other ids; the generic class reads and writes the file as it is. What such a
    class knows by heart (GPT-2's end of sequence stands in no file of its tokenizer) is taken from `config.json`.
    """
    from transformers import PreTrainedTokenizerFast

    if not (Path(folder) / TOKENIZER_FILE).is_file():
        raise InputError(
            f"{folder}: no {TOKENIZER_FILE} there; give the folder of a fast tokenizer, or make one with "
            "usdm train_tokenizer"
        )
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:  # tokenizers has no narrower one
        raise InputError(f"{folder}: its tokenizer cannot be read ({error!r}); download it again") from error
    if tokenizer.eos_token is None and (Path(folder) / CONFIG_FILE).is_file():
        end = read_config(folder).get("eos_token_id")
        if isinstance(end, int):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    return tokenizer


def extend_tokenizer(
    base: PreTrainedTokenizerFast, num_units: int, text_tags: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A copy of `base` with the two tags, `num_units` units and, if it has none, a pad token.

    `text_tags`: special tokens of texts, which come before all these where `base` lacks them.

    Raises InputError if `base` has speech tokens already or `num_units` is not positive.
    """
    if num_units < 1:
        raise InputError(f"num_units={num_units}: at least one unit is needed")
    names = [CONTINUE, CORRESPOND, *map(unit_token, range(num_units))]
    if present := base.get_vocab().keys() & set(names):
        raise InputError(f"the tokenizer has {min(present)} already: extend one without speech tokens")
    tokenizer = copy.deepcopy(base)
    # One call: every further call rebuilds the tokenizer's matcher of added tokens.
    names = [*(tag for tag in dict.fromkeys(text_tags) if tag not in base.get_vocab()), *names]
    tokens = [AddedToken(name, special=True, normalized=False) for name in names]
    tokenizer.add_tokens(tokens, special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def find_layout(tokenizer: FastTokenizer) -> VocabularyLayout:
    """Read the layout off a tokenizer. Raises InputError that says what was found instead of the block."""
    ids = tokenizer.get_vocab()
    missing = [name for name in (CONTINUE, CORRESPOND, unit_token(0)) if name not in ids]
    if missing:
        raise InputError(f"the tokenizer has no {', '.join(missing)}: extend it with the speech tokens first")
    offset = ids[unit_token(0)]
    num_units = sum(1 for _ in _units_in_order(ids, offset))
    text_size = min(ids[CONTINUE], ids[CORRESPOND])
    if {ids[CONTINUE], ids[CORRESPOND]} != {text_size, text_size + 1} or offset != text_size + 2:
        raise InputError(
            f"{CONTINUE} is {ids[CONTINUE]}, {CORRESPOND} is {ids[CORRESPOND]}, {unit_token(0)} is {offset}: "
            "tags and units must follow each other; extend the base tokenizer again"
        )
    if tokenizer.pad_token_id is None:
        raise InputError(f"the tokenizer has no pad token: add {PAD} after the units")
    ordered = sorted((id_, token) for token, id_ in ids.items() if id_ < text_size)
    return VocabularyLayout(
        text_size=text_size,
        text_hash=hashlib.sha256(json.dumps(ordered).encode()).hexdigest(),
        continue_id=ids[CONTINUE],
        correspond_id=ids[CORRESPOND],
        unit_offset=offset,
        num_units=num_units,
        pad_id=tokenizer.pad_token_id,
        size=max(ids.values()) + 1,
    )


def _units_in_order(ids: dict[str, int], offset: int) -> Iterator[int]:
    """Every unit from 0 on. Raises InputError if one is missing in between or lies elsewhere."""
    total = sum(token.startswith("<|unit") for token in ids)
    for unit in range(total):
        found = ids.get(unit_token(unit))
        if found != offset + unit:
            where = "is missing" if found is None else f"has id {found}"
            raise InputError(
                f"{unit_token(unit)} {where}, {offset + unit} is its place: the {total} unit tokens must be "
                "one block in order; extend the base tokenizer again"
            )
        yield unit


def read_layout(path: Path) -> VocabularyLayout:
    """Raises InputError if the file is not a saved layout."""
    try:
        return VocabularyLayout(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not a vocabulary's layout ({error}); save the vocabulary again") from error
