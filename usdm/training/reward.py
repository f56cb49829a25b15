"""Training of a reward model on pairs of replies: Bradley and Terry's -log sigmoid(r(chosen) - r(rejected)).

What is trained is `trl.RewardTrainer`, on ids: a text that is joined and tokenized again may have others. One epoch, as
usual for reward models, which learn their pairs by heart in the second.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from usdm.checkpoint import make_readable
from usdm.data.preferences import given_pairs
from usdm.data.unit_corpus import UnitSource
from usdm.lm.reward_model import RewardModel, RewardSettings, load_with_one_output
from usdm.metrics.intervals import ratio_of
from usdm.runs import publishing
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings
from usdm.training.checks import check_at_least
from usdm.training.curves import draw_curves
from usdm.training.lm_trainer import newest_checkpoint
from usdm.training.run_folder import (
    CURVES_FILE,
    LOG_FILE,
    MODEL_FOLDER,
    RECORD_FILE,
    VALIDATION,
    add_to_log,
    claim_together,
    cut_log,
    finished,
)
from usdm.training.trl_trainers import Silent, common_arguments, require_trl, trainers_tokenizer
from usdm.types import InputError

logger = logging.getLogger(__name__)

RESULTS = (LOG_FILE, CURVES_FILE, MODEL_FOLDER, "checkpoint-*")
FREE = ("log_every", "save_every", "threads")
LENGTHS_ALIKE = 0.1  # of the longer side: a pair whose sides differ by no more is matched in length


@dataclass(frozen=True)
class RewardLoop:
    """How a reward model is trained, for one epoch. Raises InputError for numbers that train nothing."""

    learning_rate: float = 1e-5
    batch_size: int = 16  # pairs a step
    warmup_steps: int = 0
    max_length: int = 2048  # ids of a side
    dev_every: int = 10  # the pairs of each tenth prompt are kept for validation
    log_every: int = 10
    save_every: int = 500
    threads: int | None = None  # CPU threads; None: PyTorch's default
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, self, "batch_size", "max_length", "dev_every", "log_every", "save_every")
        check_at_least(0, self, "learning_rate", "warmup_steps")


class RewardPair(NamedTuple):
    """Two replies to one prompt, as the reward model reads them."""

    prompt: str  # pairs with the same have the same question
    chosen: list[int]
    rejected: list[int]
    source: str | None = None  # where the pair is from, such as the rungs of a ladder


def train_reward(
    pretrained: str | Path,
    preferences: str | Path,
    output_dir: str | Path,
    loop: RewardLoop,
    *,
    stage: str = "respond",
    layout: str | None = None,
    test_preferences: Mapping[str, str | Path] | None = None,
    overwrite: bool = False,
) -> dict[str, float]:
    """Train the language model in `pretrained` to tell good replies from bad ones.

    Goes on from the newest checkpoint in `output_dir`, writes `log.jsonl` and `curves.png` there, and the model into
    `output_dir/model` (see `usdm.lm.reward_model`). The folder belongs to one content of model and pairs and to these
    settings.

    Args:
        pretrained: folder of a language model, with its tokenizer and template.
        preferences: file of pairs, see `usdm.data.preferences`.
        stage: whose replies are judged, "respond" (words) or "speak" (units); a pair may hold more.
        layout: of the turns ("typed" reads the question as text); None is the template's own.
        test_preferences: further files by name, of whose pairs it is told how many are ranked right.
        overwrite: delete what other inputs or settings left in `output_dir`.

    Returns:
        Shares of pairs ranked right: `accuracy` of the pairs kept for validation, `NAME_accuracy` of each file of
        `test_preferences`, with the ends of its 95 % interval, and of the pairs that are alike in length.

    Raises:
        InputError: a file of pairs cannot be used, both sides of a pair are one, none is left for training or
            validation, or the folder is of another run.
    """
    require_trl()
    tests = dict(test_preferences or {})
    vocabulary = SpeechTextVocabulary.from_pretrained(pretrained)
    wording = TemplateSettings.load(pretrained)
    template = DialogTemplate(vocabulary, wording)
    train, dev = split_by_prompt(
        read_reward_pairs(preferences, template, stage, layout, loop.max_length), loop.dev_every
    )
    judged = {name: read_reward_pairs(path, template, stage, layout, loop.max_length) for name, path in tests.items()}
    if not train or not dev:
        raise InputError(
            f"{preferences}: {len(train)} pairs to train on and {len(dev)} for validation: give more prompts, or a "
            "smaller loop.dev_every"
        )
    if loop.threads is not None:
        torch.set_num_threads(loop.threads)
    settings = {"loop": asdict(loop), "stage": stage, "layout": layout}
    inputs = {
        "pretrained": pretrained,
        "preferences": preferences,
        **{f"test_preferences.{name}": path for name, path in tests.items()},
    }
    folder = Path(output_dir)
    with claim_together(folder, settings, inputs, results=RESULTS, free=FREE, overwrite=overwrite) as claimed:
        if finished(claimed):
            return dict(claimed.record.figures)
        set_seed(loop.seed)
        model = load_with_one_output(pretrained, new_head=True)
        checkpoint, start = newest_checkpoint(folder)
        trainer = _trainer(model, trainers_tokenizer(pretrained, vocabulary), train, loop, folder, start)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        reward = RewardModel(model, template, RewardSettings(stage, layout))
        rewards = np.asarray(reward([side for pair in train for side in (pair.chosen, pair.rejected)]))
        reward.settings = replace(reward.settings, mean=float(rewards.mean()), deviation=float(rewards.std()))
        figures = {"accuracy": accuracy(reward, dev)["accuracy"]}
        for name, each in judged.items():
            figures |= {f"{name}_{figure}": value for figure, value in accuracy(reward, each).items()}
        add_to_log(folder, {"step": trainer.state.global_step, **{VALIDATION + n: v for n, v in figures.items()}})
        draw_curves(folder / LOG_FILE, folder / CURVES_FILE)
        save_reward_model(reward, UnitSource.load(pretrained), {**settings, "validation": figures}, folder)
        claimed.finish(figures)
    return figures


def read_reward_pairs(
    path: str | Path, template: DialogTemplate, stage: str, layout: str | None, max_length: int
) -> list[RewardPair]:
    """The pairs of a file as the template writes them up to the end of `stage`.

    Raises InputError for a file that cannot be used, and for a pair that lacks something, is too long, or has equal
    sides there; with the pair's number.
    """
    template.layout(layout).slot_of(stage)
    found = []
    for number, pair in enumerate(given_pairs(path), start=1):
        try:
            chosen, rejected = (
                template.training_example(side, pair.history, layout, stage).input_ids.tolist()
                for side in (pair.chosen, pair.rejected)
            )
            if chosen == rejected:
                raise InputError(
                    f"chosen and rejected are written alike up to the end of {stage}: drop the pair, it says nothing"
                )
            if (longest := max(len(chosen), len(rejected))) > max_length:
                raise InputError(f"{longest} ids, more than loop.max_length={max_length}: raise it, or drop the pair")
        except InputError as error:
            raise InputError(f"{path}, pair {number}: {error}") from error
        found.append(RewardPair(pair.prompt, chosen, rejected, pair.source))
    return found


def split_by_prompt(pairs: Sequence[RewardPair], dev_every: int) -> tuple[list[RewardPair], list[RewardPair]]:
    """To train on, and the pairs of every `dev_every`-th prompt: those of one prompt are never on both sides."""
    if dev_every < 2:
        raise InputError(f"loop.dev_every={dev_every}: give 2 or more, or nothing is left to train on")
    place = {prompt: number for number, prompt in enumerate(dict.fromkeys(pair.prompt for pair in pairs), start=1)}
    kept = [place[pair.prompt] % dev_every == 0 for pair in pairs]
    return (
        [pair for pair, is_dev in zip(pairs, kept, strict=True) if not is_dev],
        [pair for pair, is_dev in zip(pairs, kept, strict=True) if is_dev],
    )


def accuracy(reward: RewardModel, pairs: Sequence[RewardPair], seed: int = 0) -> dict[str, float]:
    """Share of pairs whose chosen side has the higher reward, equal ones counting half; its 95 % interval over prompts;
    the same of pairs alike in length, where a model that likes long replies is found out; and of each source's."""
    rewards = reward([side for pair in pairs for side in (pair.chosen, pair.rejected)])
    right = [
        0.5 * (better >= worse) + 0.5 * (better > worse)
        for better, worse in zip(rewards[::2], rewards[1::2], strict=True)
    ]
    groups = {"accuracy": list(pairs), "accuracy_length_matched": [pair for pair in pairs if _alike_in_length(pair)]}
    if len(sources := sorted({pair.source for pair in pairs if pair.source is not None})) > 1:
        groups |= {
            f"accuracy_of_{name.replace(' ', '_')}": [pair for pair in pairs if pair.source == name] for name in sources
        }
    of_pair = {id(pair): each for pair, each in zip(pairs, right, strict=True)}
    figures = {"length_matched": float(len(groups["accuracy_length_matched"]))}
    for name, group in groups.items():
        if found := ratio_of([(pair.prompt, (of_pair[id(pair)], 1.0)) for pair in group], seed) if group else None:
            figures |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
    return figures


def _alike_in_length(pair: RewardPair) -> bool:
    """By ids after what both begin with."""
    same = next(
        (place for place, (mine, theirs) in enumerate(zip(pair.chosen, pair.rejected, strict=False)) if mine != theirs),
        0,
    )
    lengths = sorted(len(side) - same for side in (pair.chosen, pair.rejected))
    return lengths[1] - lengths[0] <= max(1.0, LENGTHS_ALIKE * lengths[1])


def save_reward_model(reward: RewardModel, units: UnitSource | None, record: Mapping[str, Any], folder: Path) -> None:
    """The hub-style folder, under its name only once it is complete."""
    with publishing(folder / MODEL_FOLDER, folder=True) as part:
        reward.model.save_pretrained(part)
        make_readable(part)
        reward.template.vocabulary.save_pretrained(part)
        reward.template.settings.save(part)
        reward.settings.save(part)
        if units is not None:
            units.save(part)
        (part / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


class RewardLog(TrainerCallback):
    """Appends trl's figures of each logged step to `log.jsonl`."""

    def __init__(self, folder: Path, start: int) -> None:
        self.folder = folder
        cut_log(folder, start, writes=True)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any) -> None:
        logs = found["logs"]
        if "loss" in logs and state.is_world_process_zero:
            names = ("loss", "accuracy", "margin", "mean_reward", "learning_rate")
            add_to_log(self.folder, {"step": state.global_step, **{name: logs[name] for name in names}})


def _trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[RewardPair],
    loop: RewardLoop,
    folder: Path,
    start: int,
) -> Any:
    from datasets import Dataset  # type: ignore[import-untyped]
    from trl import RewardConfig, RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    class SilentTrainer(Silent, RewardTrainer): ...

    arguments = RewardConfig(
        **common_arguments(folder),
        num_train_epochs=1,
        learning_rate=loop.learning_rate,
        warmup_steps=loop.warmup_steps,
        per_device_train_batch_size=loop.batch_size,
        logging_steps=loop.log_every,
        save_steps=loop.save_every,
        max_length=None,
        seed=loop.seed,
    )
    data = Dataset.from_dict(
        {"chosen_ids": [pair.chosen for pair in pairs], "rejected_ids": [pair.rejected for pair in pairs]}
    )
    trainer = SilentTrainer(
        model,
        arguments,
        data_collator=DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[RewardLog(folder, start)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
