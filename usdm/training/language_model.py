"""Training of the speech-text language model: pretraining on interleaved sequences, fine-tuning on dialogs.

Both are one run of `transformers.Trainer` over packed rows, for an objective (`usdm.training.objectives`). Rows come
in an order that the seed fixes and checkpoints hold everything else, so a run that was killed and started again gives
the losses of one that was not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel

from usdm.data.curriculum import Curriculum
from usdm.data.dialogs import DialogSequences
from usdm.data.mixture import MixedRows, MixtureMember, WeightedSource
from usdm.data.order import Order, Shuffled
from usdm.data.packing import NoRows, PackedRow, PackedRows
from usdm.data.preferences import PreferenceRows
from usdm.data.sequences import SequenceSource
from usdm.data.speech_text import SEGMENT_UNITS, SpeechTextSequences
from usdm.data.splice_augmentation import SpliceAugmentation
from usdm.data.text_corpus import TextSequences
from usdm.data.unit_corpus import UnitCorpus, UnitSource
from usdm.data.unit_noise import UnitNoise
from usdm.interleave import Interleaving, PatternInterleaving
from usdm.lm import check_model, load_model
from usdm.lm.adapters import (
    Peqa,
    PromptTokens,
    adapter_record,
    check_mergeable,
    finished_model,
    trained_share,
    trained_weights,
    with_adapter,
    with_prompt_tokens,
)
from usdm.runs import Arguments, arguments_of
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings
from usdm.training.curves import draw_curves
from usdm.training.lm_attention import keeps_apart, use_packed_attention
from usdm.training.lm_folder import FREE, OF_THE_RUN, RESULTS, Asked, identity, run_record, save_model, save_scales
from usdm.training.lm_settings import LanguageModelSettings
from usdm.training.lm_trainer import SpeechTextTrainer, TrainingLog, newest_checkpoint
from usdm.training.master_weights import frozen_copy, hold_in_float32
from usdm.training.objectives import DirectPreference, NextToken, Objective
from usdm.training.run_folder import CURVES_FILE, LOG_FILE, claim_together, finished
from usdm.types import InputError, Role

logger = logging.getLogger(__name__)


def pretrain(
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    corpora: Sequence[str | Path],
    output_dir: str | Path,
    settings: LanguageModelSettings,
    *,
    interleaving: Interleaving = PatternInterleaving(),  # noqa: B008 (frozen)
    segment_units: int | Sequence[tuple[int, int]] = SEGMENT_UNITS,
    order: Order | Curriculum = Shuffled(),  # noqa: B008 (frozen)
    mixture: Sequence[MixtureMember] = (),
    objective: Objective = NextToken(),  # noqa: B008 (frozen)
    adapter: Any = None,
    dtype: torch.dtype | None = None,
    origin: Arguments | None = None,
    overwrite: bool = False,
) -> dict[str, float]:
    """Train on interleaved text and units (USDM, section 3.2).

    Goes on from the newest checkpoint in `output_dir`, writes `log.jsonl` and `curves.png` there, and the model
    into `output_dir/model`. `model` is trained in place. The folder belongs to one model at the start, one content of
    the corpora and these settings; what is done there is not done again, and `model` then stays as it is.

    Args:
        model: with a row for each id of `vocabulary` (see `usdm.lm.extend_embeddings`).
        corpora: unit corpora, files or folders; splits "train" and "dev" are used.
        interleaving: the published scheme, an ablation, or one of your own.
        segment_units: units in a segment, about; or a curriculum of (from this step on, segment units).
            Validation takes the last of them.
        order: in which the unit corpora are read.
        mixture: further corpora, of units or of text, in set shares beside `corpora`.
        objective: what is minimised, and what validation tells.
        adapter: what is trained in place of all weights: a configuration of the package `peft` (LoRA and others), or
            one of `usdm.lm.adapters`. It is merged into the model that is saved.
        dtype: storage of the final weights, for example torch.float16; None is what `model` came in. What is trained
            is float32 in any case.
        origin: what `model` was made with, and the folders that it was read from; None: a later start is recognised by
            the weights themselves.
        overwrite: delete what another model, other data or other settings left in `output_dir`.

    Returns:
        Validation figures of the objective: losses (nats a token) over all tokens and by kind, see
        `usdm.data.sequences.KINDS`.

    Raises:
        InputError: model, vocabulary and corpora do not fit, a split is empty, the loss is not finite, or the
            folder is of another run.
    """
    asked = Asked(arguments_of(pretrain, locals(), but=OF_THE_RUN), origin, overwrite)
    if isinstance(objective, DirectPreference):
        raise InputError("pairs of replies are for a model that replies: take `usdm finetune objective=dpo`")
    if isinstance(adapter, PromptTokens):
        raise InputError("adapter=prompt_tokens: its tokens stand before dialogs, so it is for `usdm finetune`")
    alone = not keeps_apart(model)
    corpus = UnitCorpus(corpora)
    curriculum = [(0, segment_units)] if isinstance(segment_units, int) else list(segment_units)

    def speech_text(units: UnitCorpus, split: str, segments: int | Sequence[tuple[int, int]]) -> SequenceSource:
        return SpeechTextSequences(
            units,
            vocabulary,
            settings.max_length,
            split=split,
            seed=settings.seed,
            interleaving=interleaving,
            order=order if split == "train" else Shuffled(),
            segment_units=segments,
        )

    def member(given: MixtureMember) -> WeightedSource:
        if given.text is not None:
            source: SequenceSource = TextSequences(
                given.text,
                vocabulary,
                settings.max_length,
                seed=settings.seed,
                fill_in_middle=given.fill_in_middle,
            )
        else:
            units = UnitCorpus(list(given.units or ()))
            corpus.source.check(units.source, str(corpus.files[0]), str(units.files[0]))
            source = speech_text(units, "train", curriculum[-1][1])
        return WeightedSource(source, given.weight, given.repeats)

    def train_rows(rows_per_step: int, start_row: int) -> IterableDataset[PackedRow]:
        by_row = [(step * rows_per_step, units) for step, units in curriculum]
        main = speech_text(corpus, "train", by_row)
        if not mixture:
            return PackedRows(main, settings.max_length, vocabulary.pad_id, start_row, alone=alone)
        sources = [WeightedSource(main, 1.0), *map(member, mixture)]
        return MixedRows(sources, settings.max_length, vocabulary.pad_id, start_row, alone)

    if isinstance(order, Curriculum):
        order.check_known([corpus, *(UnitCorpus(list(given.units)) for given in mixture if given.units)])
    dev = speech_text(corpus, "dev", curriculum[-1][1])
    data = {
        "interleaving": [type(interleaving).__name__, asdict(interleaving)],  # type: ignore[call-overload]
        "segment_units": curriculum,
        "order": [type(order).__name__, asdict(order)],  # type: ignore[arg-type]
        "mixture": [asdict(given) for given in mixture],
    }
    folder = Path(output_dir)
    dev_rows = PackedRows(dev, settings.max_length, vocabulary.pad_id, epochs=1, alone=alone)
    rows = Rows(train_rows, dev_rows, corpus.source, packed=not alone)
    return _train(model, vocabulary, rows, settings, objective, folder, adapter, dtype, None, data, asked)


def finetune(
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    corpora: Sequence[str | Path],
    output_dir: str | Path,
    settings: LanguageModelSettings,
    *,
    template: TemplateSettings = TemplateSettings(),  # noqa: B008 (frozen)
    agent_roles: Sequence[Role] = ("agent",),
    history_turns: int = 0,
    layouts: Mapping[str, float] | None = None,
    noise: UnitNoise | None = None,
    splice_augmentation: SpliceAugmentation | None = None,
    preferences: Sequence[str | Path] = (),
    order: Curriculum | Shuffled = Shuffled(),  # noqa: B008 (frozen)
    unit_source: UnitSource | None = None,
    objective: Objective = NextToken(),  # noqa: B008 (frozen)
    adapter: Any = None,
    dtype: torch.dtype | None = None,
    origin: Arguments | None = None,
    overwrite: bool = False,
) -> dict[str, float]:
    """Train on spoken dialogs in the template (USDM, section 3.3); otherwise as `pretrain`.

    Args:
        template: wording of the dialogs, saved with the model.
        agent_roles: whose turns are learnt as replies.
        history_turns: earlier turns before a turn, at most; the template has a budget of ids besides.
        layouts: turn layouts and their shares; None is the template's own alone.
        noise: on the user's units in training; validation hears them as they are.
        splice_augmentation: turns put together from pieces, in training: a small corpus is heard out, not guessed.
        preferences: folders of pairs of replies for the layouts of a judge, see `DialogSequences`.
        order: of the examples in an epoch.
        unit_source: which units the model knows (`UnitSource.load(its folder)`), to be held against the corpora's.
        objective: as for `pretrain`. `DirectPreference` reads its own pairs, and no corpora.
    """
    asked = Asked(arguments_of(finetune, locals(), but=OF_THE_RUN), origin, overwrite)
    vocabulary, template = with_prompt_tokens(model, vocabulary, template, adapter)
    data = {
        "template": asdict(template),
        "agent_roles": list(agent_roles),
        "history_turns": history_turns,
        "layouts": None if layouts is None else dict(layouts),
        "noise": None if noise is None else asdict(noise),
        "splice_augmentation": None if splice_augmentation is None else asdict(splice_augmentation),
        "order": [type(order).__name__, asdict(order)],
    }
    dialog_template, folder = DialogTemplate(vocabulary, template), Path(output_dir)
    alone = not isinstance(objective, DirectPreference) and not keeps_apart(model)

    def dialogs(corpus: UnitCorpus, split: str) -> SequenceSource:
        return DialogSequences(
            corpus,
            dialog_template,
            settings.max_length,
            split=split,
            seed=settings.seed,
            agent_roles=agent_roles,
            history_turns=history_turns,
            layouts=layouts,
            noise=noise if split == "train" else None,
            splice_augmentation=splice_augmentation if split == "train" else None,
            preferences=preferences,
            order=order if split == "train" else Shuffled(),
        )

    if isinstance(objective, DirectPreference) and order != Shuffled():
        raise InputError(f"order: {type(order).__name__} is for dialogs; pairs of replies are shuffled")

    def of_dialogs() -> Rows:
        corpus = UnitCorpus(corpora)
        if unit_source is not None:
            unit_source.check(corpus.source, "the pretrained model", str(corpus.files[0]))
        if isinstance(order, Curriculum):
            order.check_known([corpus])

        def train(rows_per_step: int, start_row: int) -> IterableDataset[PackedRow]:
            source = dialogs(corpus, "train")
            return PackedRows(source, settings.max_length, vocabulary.pad_id, start_row, alone=alone)

        dev = PackedRows(dialogs(corpus, "dev"), settings.max_length, vocabulary.pad_id, epochs=1, alone=alone)
        return Rows(train, dev, corpus.source, packed=not alone)

    rows = (
        _preference_rows(objective, corpora, dialog_template, settings, unit_source)
        if isinstance(objective, DirectPreference)
        else of_dialogs()
    )
    return _train(model, vocabulary, rows, settings, objective, folder, adapter, dtype, template, data, asked)


@dataclass(frozen=True)
class Rows:
    """What a training reads."""

    train: Callable[[int, int], IterableDataset[PackedRow]]  # of (rows a step, from this row on)
    dev: IterableDataset[PackedRow]  # once
    units: UnitSource  # which units all of them hold
    packed: bool = True  # a row may hold several sequences


def _reference(objective: Objective, model: PreTrainedModel, settings: LanguageModelSettings) -> PreTrainedModel:
    """What stays as it is while the model is trained. Raises InputError for one with other ids or layers."""
    place = getattr(objective, "reference", None)
    if place is None:
        return frozen_copy(model, settings.bf16)
    start = load_model(place)
    if {k: v.shape for k, v in start.state_dict().items()} != {k: v.shape for k, v in model.state_dict().items()}:
        raise InputError(f"objective.reference={place}: its weights are others than the model's; give its start model")
    if not settings.compile:
        use_packed_attention(start, settings.max_length, torch.bfloat16 if settings.bf16 else torch.float32)
    return frozen_copy(start, settings.bf16)


def _preference_rows(
    objective: DirectPreference,
    corpora: Sequence[str | Path],
    template: DialogTemplate,
    settings: LanguageModelSettings,
    unit_source: UnitSource | None,
) -> Rows:
    """Raises InputError if corpora are given as well, or nobody says which units the model knows."""
    if corpora:
        raise InputError(f"corpora={list(corpora)}: this objective reads {objective.pairs} alone; give corpora=[]")
    if unit_source is None:
        raise InputError("the model does not say which units it knows: begin with one that `usdm finetune` has made")
    pairs = objective.read(template, settings.max_length)
    size, pad_id, seed = settings.max_length, template.vocabulary.pad_id, settings.seed

    def train(rows_per_step: int, start_row: int) -> IterableDataset[PackedRow]:
        return PreferenceRows(pairs["train"], size, pad_id, seed=seed, start_row=start_row)

    return Rows(train, PreferenceRows(pairs["dev"], size, pad_id, seed=seed, epochs=1), unit_source)


def _validation_rows(rows: Rows, most: int) -> list[PackedRow]:
    try:
        return list(islice(rows.dev, most))
    except InputError as error:
        raise InputError(f"split dev, for validation: {error}") from error


def _train(
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    rows: Rows,
    settings: LanguageModelSettings,
    objective: Objective,
    folder: Path,
    adapter: Any,
    dtype: torch.dtype | None,
    template: TemplateSettings | None,
    data: dict[str, Any],
    asked: Asked,
) -> dict[str, float]:
    check_model(model, vocabulary)
    check_mergeable(adapter)
    objective = objective.knowing(vocabulary)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    arguments = settings.arguments(folder)
    data["adapter"] = adapter_record(adapter)
    data["rows_per_step"] = rows_per_step = (
        arguments.train_batch_size * settings.gradient_accumulation_steps * arguments.world_size
    )
    record = {"settings": asdict(settings), "data": data, "units": asdict(rows.units)}
    whole = identity(asked, model, vocabulary, record, dtype)
    with claim_together(
        folder, whole.settings, whole.inputs, results=RESULTS, free=FREE, overwrite=asked.overwrite
    ) as claimed:
        if finished(claimed):
            return dict(claimed.record.figures)
        checkpoint, start = newest_checkpoint(folder)
        log = TrainingLog(folder, start, rows_per_step * settings.max_length, arguments.process_index == 0)
        # A run that has all its steps is loaded like any other, which only the trainer knows how to, but reads nothing.
        train_rows = rows.train(rows_per_step, start * rows_per_step) if start < settings.steps else NoRows()
        validation_rows = _validation_rows(rows, settings.validation_rows)
        attention = model.config._attn_implementation
        if rows.packed and not settings.compile:
            use_packed_attention(model, settings.max_length, torch.bfloat16 if settings.bf16 else torch.float32)
        stored = model.dtype
        reference = _reference(objective, model, settings) if objective.needs_reference else None
        trained = with_adapter(model, adapter)
        logger.info(trained_share(trained))
        own_weights = list(trained_weights(trained))
        hold_in_float32(trained, settings.bf16)
        trainer = SpeechTextTrainer(
            trained, arguments, train_rows, validation_rows, log, objective, reference, rows.packed
        )
        if checkpoint is not None:
            logger.info("going on from step %d of %s", start, checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if log.validated != settings.steps:
            trainer.evaluate()
        model.set_attn_implementation(attention)
        figures = log.validation
        gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # from all processes
        weights = {name.removeprefix("_orig_mod."): value for name, value in gathered.items()}  # a compiled model's
        if trainer.is_world_process_zero():
            training = run_record(record, model, log, figures)
            whole_model = finished_model(model.config, weights, adapter, dtype or stored)
            save_model(whole_model, vocabulary, rows.units, template, training, folder)
            if isinstance(adapter, Peqa):
                save_scales(weights, own_weights, adapter, template, folder)
            draw_curves(folder / LOG_FILE, folder / CURVES_FILE)
            claimed.finish(figures)
    return figures
