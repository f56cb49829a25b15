"""From a turn's layout to ids: training sequences with labels, each stage's prompt, mask and stop id.

Wording and content are tokenized piece by piece, never across their border. So the newline after a transcript
is an id of its own, learnt as a label and usable as a stop, even for tokenizers that have a piece such as
"?\\n"; for tokenizers without such pieces (the published one) the ids are those of the whole string. Wording
is tokenized once, units are added to an offset: only the two texts of a turn cost anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from usdm.tokens.layout import (
    VERDICTS,
    Emit,
    Part,
    TemplateSettings,
    TurnContent,
    TurnLayout,
    Words,
    turn_layout,
)
from usdm.tokens.normalisers import Normaliser
from usdm.tokens.vocabulary import CONTINUE, CORRESPOND, SpeechTextVocabulary
from usdm.types import InputError, Role, Turn

IGNORED = -100  # label without loss, as torch's cross entropy has it

# Many tokenizers mark the first piece after a special token, and merge a piece with what stands before it. So
# text is tokenized behind an anchor, which is then cut off: the first of these that stays a piece of its own.
AFTER_SPEECH: tuple[str, ...] = (CORRESPOND,)
AFTER_TEXT: tuple[str, ...] = (CORRESPOND + "\n", CORRESPOND + "a", CORRESPOND + ".")


@dataclass(frozen=True)
class TrainingExample:
    """One sequence; `labels` equal `input_ids` where there is loss (not shifted), else IGNORED."""

    input_ids: Tensor  # (L,) int64
    labels: Tensor  # (L,) int64


@dataclass(frozen=True)
class _Piece:
    """A part of a layout with all that does not depend on the turn."""

    part: Part
    anchors: tuple[str, ...]
    wording: tuple[int, ...]  # ids of Words


def normalise_text(text: str) -> str:
    """Text as sequences hold it: lower case, single spaces, no newline (which would end a stage)."""
    return " ".join(text.lower().split())


class DialogTemplate:
    """Builds sequences and prompts for one vocabulary and one wording.

    Raises InputError at construction if the tokenizer cannot write the wording, its newline above all.
    """

    def __init__(
        self,
        vocabulary: SpeechTextVocabulary,
        settings: TemplateSettings = TemplateSettings(),  # noqa: B008 (frozen)
        normaliser: Normaliser | None = None,
    ) -> None:
        """`normaliser`: of texts in prompts, which anybody may have written; those of training stay as they are."""
        self._normaliser = normaliser
        self.vocabulary = vocabulary
        self.settings = settings
        self._writable = {" "}  # characters known to have ids
        self._anchor_ids = cache(vocabulary.encode_text)
        self._pieces = cache(self._compile)
        self._check_writable(settings.preamble + settings.user_heading + settings.agent_heading + "\n")
        # Only the preamble ever stands at a sequence's start.
        preamble = vocabulary.encode_text(settings.preamble) if settings.preamble else []
        self._start = [*vocabulary.start_ids, *preamble]
        self._newline = self._encode("\n", AFTER_TEXT)
        self._headings: dict[Role, list[int]] = {
            "user": self._encode(settings.user_heading, AFTER_TEXT),
            "agent": self._encode(settings.agent_heading, AFTER_TEXT),
        }
        self.layout()

    def layout(self, name: str | None = None) -> TurnLayout:
        """The layout of that name, or the checkpoint's own. Raises InputError for an unknown name."""
        end = self.vocabulary.tokenizer.eos_token or ""
        return turn_layout(name or self.settings.layout, self.settings, end)

    def training_example(
        self,
        content: TurnContent,
        history: Sequence[Turn] = (),
        layout: str | None = None,
        stage: str | None = None,
    ) -> TrainingExample:
        """A whole turn, or as much as there is when `stage` stops. Loss lies on what stages emit and on the id that
        each of them stops at.

        Raises InputError if content that the layout needs is missing or cannot be written, or it has no such stage.
        """
        ids = self._opening(history)
        labels = [IGNORED] * len(ids)
        after_emit = False
        pieces = self._pieces(layout)
        for piece in pieces if stage is None else pieces[: self._place(stage, layout) + 1]:
            new = self._ids(piece, content)
            scored = len(new) if isinstance(piece.part, Emit) else int(after_emit)
            ids += new
            labels += [*new[:scored], *[IGNORED] * (len(new) - scored)]
            after_emit = isinstance(piece.part, Emit)
        if stage is not None:
            ids.append(self.stop_id(stage, layout))
            labels.append(ids[-1])
        return TrainingExample(torch.tensor(ids), torch.tensor(labels))

    def prompt(
        self, stage: str, content: TurnContent, history: Sequence[Turn] = (), layout: str | None = None
    ) -> list[int]:
        """Everything before what `stage` emits; `content` holds what is given and what earlier stages wrote.

        Raises InputError as `training_example` does, or if the layout has no such stage.
        """
        # What is judged the model may have written itself, so it is judged as it is if it cannot be normalised.
        normalised = self._normalised_before if stage == "judge" else self._normalised
        user_text, agent_text = (
            None if text is None else normalised(text) for text in (content.user_text, content.agent_text)
        )
        content = replace(content, user_text=user_text, agent_text=agent_text)
        ids = self._opening([replace(turn, text=self._normalised_before(turn.text)) for turn in history])
        for piece in self._pieces(layout)[: self._place(stage, layout)]:
            ids += self._ids(piece, content)
        return ids

    def verdict_ids(self, layout: str) -> tuple[int, int]:
        """The ids that stand for either verdict in a layout of a judge.

        Raises InputError if the tokenizer writes both with the same one, so that they cannot be told apart.
        """
        piece = self._pieces(layout)[self._place("judge", layout)]
        first, second = (self._encode(verdict, piece.anchors)[0] for verdict in VERDICTS)
        if first == second:
            [token] = self.vocabulary.tokenizer.convert_ids_to_tokens([first])
            raise InputError(
                f"layout {layout}: the tokenizer begins both {' and '.join(VERDICTS)} with {token!r}: a judge cannot "
                "tell them apart; use another tokenizer"
            )
        return first, second

    def check_text(self, text: str) -> None:
        """Raises InputError for words that this model cannot read."""
        self._text_ids(self._normalised(text) or "", AFTER_TEXT)

    def transcript_ids(self, text: str) -> list[int]:
        """What a transcript is written as. Raises InputError for words that this model cannot read."""
        return self._text_ids(text, AFTER_SPEECH)

    def reply_ids(self, text: str, layout: str | None = None) -> list[int]:
        """What a reply is written as, without its stop id. Raises InputError for words that cannot be written."""
        return self._text_ids(text, self._pieces(layout)[self._place("respond", layout)].anchors)

    def following(self, stage: str, layout: str | None = None) -> list[int]:
        """The wording after what `stage` emits, its stop id first: the way on to the next stage."""
        return list(self._pieces(layout)[self._place(stage, layout) + 1].wording)

    def stop_id(self, stage: str, layout: str | None = None) -> int:
        """The id that ends a stage, whatever the tokenizer makes of the wording there."""
        return self.following(stage, layout)[0]

    def allowed(self, stage: str, layout: str | None = None) -> Tensor:
        """(V,) bool: what a stage may emit, its stop id included."""
        vocabulary, stop = self.vocabulary, self.stop_id(stage, layout)
        slot = self.layout(layout).slot_of(stage)
        if slot == "verdict":
            mask = torch.zeros_like(vocabulary.text_mask)
            mask[list(self.verdict_ids(layout or self.settings.layout))] = True
        elif slot.endswith("units"):
            mask = vocabulary.unit_mask.clone()
        else:
            mask = vocabulary.text_mask.clone()
            if vocabulary.newline_mask[stop]:
                mask &= ~vocabulary.newline_mask  # a piece such as "?\n" would swallow the stop
        mask[stop] = True
        return mask

    def _normalised(self, text: str | None) -> str | None:
        """A given text as the model has learnt such. Raises InputError if it cannot read it."""
        if text is None or self._normaliser is None:
            return text
        self._check_reserved(self._encode(normalise_text(text), AFTER_TEXT))
        return self._normaliser(text)

    def _normalised_before(self, text: str) -> str:
        """An earlier turn's text; as it is if it cannot be normalised, since the model itself may have written it."""
        try:
            return self._normalised(text) or ""
        except InputError:
            return text

    def _opening(self, history: Sequence[Turn]) -> list[int]:
        """Start id, preamble and as many of the latest turns as the budget holds, oldest first.

        Earlier turns are text alone under the same headings: their units would make the context some ten
        times longer. They carry no loss.
        """
        kept: list[list[int]] = []
        room = self.settings.history_tokens
        for turn in reversed(history):
            text = self._text_ids(turn.text, AFTER_TEXT)
            ids = [*self._headings[turn.role], *text, *self._newline]
            room -= len(ids)
            if room < 0:
                break
            kept.insert(0, ids)
        return [*self._start, *(id_ for ids in kept for id_ in ids)]

    def _place(self, stage: str, layout: str | None) -> int:
        """Index of the stage's part."""
        self.layout(layout).slot_of(stage)  # complains about a stage that is not there
        parts = [piece.part for piece in self._pieces(layout)]
        return next(i for i, part in enumerate(parts) if isinstance(part, Emit) and part.stage == stage)

    def _compile(self, layout: str | None) -> tuple[_Piece, ...]:
        pieces: list[_Piece] = []
        anchors = AFTER_TEXT
        for part in self.layout(layout).parts:
            wording = self._encode(part.text, anchors) if isinstance(part, Words) else []
            pieces.append(_Piece(part, anchors, tuple(wording)))
            if isinstance(part, Words):
                anchors = AFTER_SPEECH if part.text.endswith((CONTINUE, CORRESPOND)) else AFTER_TEXT
            else:
                anchors = AFTER_SPEECH if part.slot.endswith("units") else AFTER_TEXT
        return tuple(pieces)

    def _ids(self, piece: _Piece, content: TurnContent) -> list[int]:
        part = piece.part
        if isinstance(part, Words):
            return list(piece.wording)
        value = getattr(content, part.slot)
        if value is None:
            raise InputError(f"{part.slot} is missing: the layout has it here, so give it")
        if isinstance(value, str):
            return self._text_ids(value, piece.anchors)
        ids: list[int] = self.vocabulary.encode_units(value).tolist()
        return ids

    def _text_ids(self, text: str, anchors: tuple[str, ...]) -> list[int]:
        """Ids of a transcript or reply. Raises InputError if it cannot be written or holds special tokens."""
        text = normalise_text(text)
        self._check_writable(text)
        ids = self._encode(text, anchors)
        self._check_reserved(ids)
        return ids

    def _check_reserved(self, ids: Sequence[int]) -> None:
        if special := self.vocabulary.special_ids.intersection(ids):
            tokens = self.vocabulary.tokenizer.convert_ids_to_tokens(sorted(special))
            raise InputError(f"the text holds {' '.join(tokens)}, which the model reserves: take it out")

    def _encode(self, text: str, anchors: tuple[str, ...]) -> list[int]:
        """Raises InputError for halves of characters, and for a tokenizer that has no anchor."""
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{text!r}: it has bytes that are no characters; write it in UTF-8")
        for anchor in anchors:
            head = self._anchor_ids(anchor)
            ids = self.vocabulary.encode_text(anchor + text)
            if ids[: len(head)] == head:
                return ids[len(head) :]
        raise InputError(f"{text!r}: merged with whatever stands before it; use another tokenizer")

    def _check_writable(self, text: str) -> None:
        """Raises InputError that names the characters for which the tokenizer has no ids."""
        new = set(text) - self._writable
        if lost := sorted(character for character in new if not self._can_write(character)):
            raise InputError(
                f"{text!r}: no ids for {' '.join(map(repr, lost))}; write it without them, or use a "
                "tokenizer with byte fallback"
            )
        self._writable |= new

    def _can_write(self, character: str) -> bool:
        vocabulary = self.vocabulary
        ids = self._encode(character, AFTER_SPEECH)
        text = vocabulary.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
        if vocabulary.tokenizer.unk_token_id in ids or "\ufffd" in text:
            return False
        return character in text if character.isspace() else bool(text.strip())
