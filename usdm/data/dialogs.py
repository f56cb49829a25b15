"""Fine-tuning sequences: a turn and the agent's reply in the dialog template, earlier turns before them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from usdm.data.curriculum import APPLY, LAYOUT_LEVELS, Curriculum, Unlabelled
from usdm.data.order import Shuffled
from usdm.data.preferences import Judged, read_judged
from usdm.data.sequences import KIND_INDEX, TrainingSequence
from usdm.data.splice_augmentation import SpliceAugmentation
from usdm.data.unit_corpus import UnitCorpus
from usdm.data.unit_noise import UnitNoise
from usdm.interleave import keyed_generator
from usdm.tokens import IGNORED, JUDGE_LAYOUTS, DialogTemplate, TurnContent
from usdm.types import InputError, Role, Turn

logger = logging.getLogger(__name__)

_EXAMPLES_PER_BLOCK = 4096


@dataclass(frozen=True)
class DialogTurn:
    """One utterance of a dialog."""

    id: str
    dialog: str
    role: str
    text: str
    units: NDArray[np.uint16]  # (U,)
    words: tuple[str, ...]  # empty: times not known
    word_ends: NDArray[np.int32]  # in units


@dataclass(frozen=True)
class _Example:
    """Turn `index` of a dialog answers the turn before it."""

    dialog: int
    index: int


class DialogSequences:
    """Every turn of an agent that answers another speaker, as a training sequence.

    `left_out` counts, since the epoch's start, sequences longer than a row. Turns without text or units take no
    part; `incomplete` counts them.

    Args:
        corpus: its turns of the split are held in memory.
        template: builds ids and labels.
        max_length: longest sequence.
        split: "train", "dev" or "test".
        seed: fixes order and layouts.
        agent_roles: whose turns are learnt as replies; with both roles each speaker is the agent in turn.
        history_turns: at most so many earlier turns, within the template's budget of ids; 0 makes single turns.
        layouts: names of turn layouts and their shares; None is the template's own.
        noise: on the user's units, drawn anew each epoch; None leaves them as they were heard.
        splice_augmentation: puts turns together from pieces, to be transcribed only, in the place of some examples.
        preferences: folders of pairs of replies (`usdm.data.preferences`), for the layouts of a judge: an example that
            draws one of those is a pair in its place, shown in both orders.
        order: of the examples. It moves them alone: an epoch has the same sequences in every order.

    Raises:
        InputError: corpus and vocabulary differ in the number of units, a layout is unknown or has no share,
            the split has no reply, or there are splices and no turn to take them from has word times; a layout of a
            judge without preferences, or the other way round; or the order's labels lack a dialog.
    """

    def __init__(
        self,
        corpus: UnitCorpus,
        template: DialogTemplate,
        max_length: int,
        *,
        split: str = "train",
        seed: int = 0,
        agent_roles: Sequence[Role] = ("agent",),
        history_turns: int = 0,
        layouts: Mapping[str, float] | None = None,
        noise: UnitNoise | None = None,
        splice_augmentation: SpliceAugmentation | None = None,
        preferences: Sequence[str | Path] = (),
        order: Curriculum | Shuffled = Shuffled(),  # noqa: B008 (frozen)
    ) -> None:
        corpus.check_num_units(template.vocabulary.num_units)
        if not isinstance(order, Curriculum | Shuffled):
            raise InputError(f"order: {type(order).__name__} is for pretraining; give shuffled or a curriculum")
        self.template, self.max_length, self.seed = template, max_length, seed
        self.history_turns, self.noise, self.splice_augmentation = history_turns, noise, splice_augmentation
        self.order, self.exact_order = order, order.exact
        self.left_out = 0
        self._layouts, self._shares = _layouts(template, layouts)
        self._judged = _judged(template, layouts or {}, preferences, split)
        self.dialogs, self.incomplete = read_dialogs(corpus, split)
        self._examples = [
            _Example(i, j)
            for i, dialog in enumerate(self.dialogs)
            for j in range(1, len(dialog))
            if dialog[j].role in agent_roles and dialog[j - 1].role != dialog[j].role
        ]
        if not self._examples:
            raise InputError(
                f"{corpus.files[0]}: no turn of {' or '.join(agent_roles)} answers another speaker in split "
                f"{split!r}; check the corpus' roles, dialogs and splits"
            )
        self._answered = [turn for turn in map(self._heard_turn, self._examples) if turn.words]
        alone = [dialog[0] for dialog in self.dialogs if len(dialog) == 1]
        self._alone = [turn for turn in alone if turn.role not in agent_roles]
        if splice_augmentation is not None and not self._answered:
            raise InputError(f"{corpus.files[0]}: no answered turn of split {split!r} has word times to splice at")
        if splice_augmentation is not None and splice_augmentation.alone_share and not self._alone:
            raise InputError(
                f"splice_augmentation.alone_share={splice_augmentation.alone_share}, but no turn stands alone in split "
                f"{split!r}: add recordings or spoken sentences, or give alone_share=0"
            )
        self._ordered(0)  # complains about labels before anything is trained

    def __len__(self) -> int:
        return len(self._examples)

    def blocks(self, epoch: int) -> list[list[int]]:
        """Examples in their order, some thousands at a time."""
        self.left_out = 0
        order = self._ordered(epoch)
        return [order[i : i + _EXAMPLES_PER_BLOCK] for i in range(0, len(order), _EXAMPLES_PER_BLOCK)]

    def sequences(self, epoch: int, block: list[int], rows_before: int) -> Iterator[TrainingSequence]:
        for index, sequence in ((i, made) for i in block for made in self._sequences(self._examples[i], epoch)):
            if (length := len(sequence.input_ids)) <= self.max_length:
                yield sequence
                continue
            if not self.left_out:
                name = self._reply(self._examples[index]).id
                logger.warning("%s: %d ids do not fit rows of %d: left out, and others", name, length, self.max_length)
            self.left_out += 1

    def names(self, index: int) -> tuple[str, str]:
        """An example's reply, and the dialog that it is in."""
        reply = self._reply(self._examples[index])
        return reply.id, reply.dialog

    def _ordered(self, epoch: int) -> list[int]:
        known = [self._known(example, epoch) for example in self._examples]
        return self.order.examples(known, keyed_generator(self.seed, epoch, "order of examples"))

    def _known(self, example: _Example, epoch: int) -> Unlabelled:
        """What an order goes by. How the example will be laid out in this epoch says how demanding it is."""
        reply = self._reply(example)
        layout = "transcribe" if self._splice_draw(reply, epoch) is not None else self._layout(reply, epoch)
        return Unlabelled(reply.id, reply.dialog, LAYOUT_LEVELS.get(layout, APPLY))

    def _splice_draw(self, reply: DialogTurn, epoch: int) -> np.random.Generator | None:
        """The generator of the splice that stands in the place of this reply; None: the reply stays."""
        if self.splice_augmentation is None:
            return None
        random = keyed_generator(self.seed, epoch, f"splice for {reply.id}")
        return random if random.random() < self.splice_augmentation.share else None

    def _layout(self, reply: DialogTurn, epoch: int) -> str:
        draw = keyed_generator(self.seed, epoch, reply.id).random() if len(self._layouts) > 1 else 0.0
        return self._layouts[int(np.searchsorted(self._shares, draw, side="right"))]

    def _heard_turn(self, example: _Example) -> DialogTurn:
        return self.dialogs[example.dialog][example.index - 1]

    def _reply(self, example: _Example) -> DialogTurn:
        return self.dialogs[example.dialog][example.index]

    def _sequences(self, example: _Example, epoch: int) -> list[TrainingSequence]:
        dialog = self.dialogs[example.dialog]
        user, agent = self._heard_turn(example), self._reply(example)
        if self.splice_augmentation is not None and (random := self._splice_draw(agent, epoch)) is not None:
            return [self._spliced(self.splice_augmentation, random)]
        layout = self._layout(agent, epoch)
        if layout in JUDGE_LAYOUTS:
            return self._pair(keyed_generator(self.seed, epoch, f"pair for {agent.id}"), layout)
        content = TurnContent(
            user_units=torch.from_numpy(
                self._heard(user.units, keyed_generator(self.seed, epoch, f"noise of {user.id}"))
            ),
            user_text=user.text,
            agent_text=agent.text,
            agent_units=torch.from_numpy(agent.units.astype(np.int64)),
        )
        return [self._built(content, self._history(dialog, example.index), layout)]

    def _pair(self, random: np.random.Generator, layout: str) -> list[TrainingSequence]:
        """One pair in both orders."""
        content, history, _ = self._judged[int(random.integers(len(self._judged)))]
        if content.user_units is not None:
            content = replace(content, user_units=torch.from_numpy(self._heard(content.user_units.numpy(), random)))
        orders = ((content.reply_a, content.reply_b, "a"), (content.reply_b, content.reply_a, "b"))
        return [
            self._built(replace(content, reply_a=a, reply_b=b, verdict=verdict), history, layout)
            for a, b, verdict in orders
        ]

    def _spliced(self, splice_augmentation: SpliceAugmentation, random: np.random.Generator) -> TrainingSequence:
        units, text = splice_augmentation.splice(self._answered, self._alone, random)
        content = TurnContent(user_units=torch.from_numpy(self._heard(units, random)), user_text=text)
        return self._built(content, [], "transcribe")

    def _built(self, content: TurnContent, history: Sequence[Turn], layout: str | None) -> TrainingSequence:
        built = self.template.training_example(content, history, layout)
        labels = built.labels.numpy().astype(np.int32)
        if layout in JUDGE_LAYOUTS:
            kinds = np.where(labels == IGNORED, 0, KIND_INDEX["verdict"]).astype(np.int8)
        else:
            kinds = self._kinds(labels)
        return TrainingSequence(built.input_ids.numpy().astype(np.int32), labels, kinds)

    def _heard(self, units: NDArray[Any], random: np.random.Generator) -> NDArray[np.int64]:
        units = units.astype(np.int64)
        return units if self.noise is None else self.noise.vary(units, self.template.vocabulary.num_units, random)

    def _history(self, dialog: Sequence[DialogTurn], index: int) -> list[Turn]:
        """What came before the user's turn, seen from the agent's side."""
        earlier = dialog[max(0, index - 1 - self.history_turns) : index - 1]
        agent_role = dialog[index].role
        return [Turn("agent" if turn.role == agent_role else "user", turn.text) for turn in earlier]

    def _kinds(self, labels: NDArray[np.int32]) -> NDArray[np.int8]:
        """A run of scored ids with units in it is a reply, text before units; any other run is a transcript."""
        kinds = np.zeros(len(labels), np.int8)
        scored = np.flatnonzero(labels != IGNORED)
        offset = self.template.vocabulary.layout.unit_offset
        for run in np.split(scored, np.flatnonzero(np.diff(scored) > 1) + 1):
            ids = labels[run]
            units = np.flatnonzero((ids >= offset) & (ids < offset + self.template.vocabulary.num_units))
            if len(units):
                kinds[run[: units[0]]] = KIND_INDEX["agent_text"]
                kinds[run[units[0] :]] = KIND_INDEX["agent_units"]
            else:
                kinds[run] = KIND_INDEX["transcript"]
        return kinds


def _check_turns(table: pa.Table) -> None:
    """Raises InputError where sorted rows have a turn of one dialog twice: their dialogs would be mixed."""
    if len(table) < 2:
        return
    same = [pc.equal(table[name].slice(1), table[name].slice(0, len(table) - 1)) for name in ("dialog", "turn")]
    again = pc.filter(table["id"].slice(1), pc.and_(*same))
    if len(again):
        raise InputError(
            f"{len(again)} turns are there a second time, such as {again[0].as_py()!r}: corpora whose dialogs have the "
            "same names cannot be read together; rename the dialogs of one, or leave it out"
        )


def read_dialogs(corpus: UnitCorpus, split: str) -> tuple[list[list[DialogTurn]], int]:
    """The dialogs of a split, each in the order of its turns, and how many turns lack text or units.

    A turn that lacks something ends what came before it: the turns after it make a dialog of their own.
    """
    table = corpus.read(corpus.groups, ["dialog", "turn", "id", "role", "text", "units", "words", "word_ends"], split)
    table = table.sort_by([("dialog", "ascending"), ("turn", "ascending")])
    dialogs: list[list[DialogTurn]] = []
    incomplete = 0
    _check_turns(table)
    previous = None
    for batch in table.to_batches(max_chunksize=1024):
        columns = [batch[name].to_pylist() for name in ("dialog", "id", "role", "text", "words")]
        for name, id_, role, text, words, row, ends in zip(*columns, batch["units"], batch["word_ends"], strict=True):
            if name != previous:
                dialogs.append([])
                previous = name
            if text and len(row):
                dialogs[-1].append(
                    DialogTurn(id_, name, role, text, row.values.to_numpy(), tuple(words), ends.values.to_numpy())
                )
            else:
                incomplete += 1
                dialogs.append([])
    if incomplete:
        logger.warning("%d turns of split %r have no text or no units and are left out", incomplete, split)
    return dialogs, incomplete


def _judged(
    template: DialogTemplate, layouts: Mapping[str, float], preferences: Sequence[str | Path], split: str
) -> list[Judged]:
    """The pairs for layouts of a judge. Raises InputError where one is there and not the other."""
    judges = [name for name in JUDGE_LAYOUTS if layouts.get(name, 0) > 0]
    if bool(judges) != bool(preferences):
        raise InputError(
            f"layouts={dict(layouts)}, preferences={list(map(str, preferences))}: {' and '.join(JUDGE_LAYOUTS)} want "
            "folders of pairs to be judged, and those want such a layout; give both or neither"
        )
    for name in judges:
        template.verdict_ids(name)
    return read_judged(preferences, split) if judges else []


def _layouts(template: DialogTemplate, layouts: Mapping[str, float] | None) -> tuple[list[str], NDArray[np.float64]]:
    """Names, and the upper bounds of their shares of [0, 1)."""
    if layouts is None:
        return [template.settings.layout], np.ones(1)
    if not layouts or min(layouts.values()) < 0 or sum(layouts.values()) <= 0:
        raise InputError(f"layouts={dict(layouts)}: give names and shares, none negative, not all zero")
    for name in layouts:
        template.layout(name)
    names = sorted(layouts)  # in whatever order they are written: it is no part of a run's identity
    shares = np.cumsum([layouts[name] for name in names])
    return names, shares / shares[-1]
