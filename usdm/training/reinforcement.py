"""Reinforcement of a language model by a reward for whole replies: GRPO (arXiv 2402.03300), as package trl has it.

Replies are drawn by this project's own constrained batch, so that each stage writes what it may write and nothing else,
and probabilities are those among these ids. PPO, which papers of 2023 use, has left trl; GRPO takes the mean reward of
several replies to one question where PPO had a second network.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from usdm.chain.candidates import Asked, Candidate, draw_candidates, log_probabilities
from usdm.chain.stages import LanguageModelChain
from usdm.data.unit_corpus import UnitCorpus, UnitSource
from usdm.interleave import keyed_generator
from usdm.lm import load_model
from usdm.lm.adapters import finished_model
from usdm.runs import arguments_of
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings
from usdm.training.checks import check_at_least
from usdm.training.curves import draw_against, draw_curves
from usdm.training.lm_folder import save_model
from usdm.training.lm_trainer import newest_checkpoint
from usdm.training.master_weights import frozen_copy, hold_in_float32
from usdm.training.posed import Posed, draw_posed
from usdm.training.rewards import Reward, Scores
from usdm.training.run_folder import (
    CURVES_FILE,
    LOG_FILE,
    MODEL_FOLDER,
    VALIDATION,
    add_to_log,
    claim_together,
    cut_log,
    finished,
)
from usdm.training.trl_trainers import Silent, common_arguments, require_trl, trainers_tokenizer
from usdm.types import InputError, Sampling

logger = logging.getLogger(__name__)

HACKING_FILE = "rewards_over_kl.png"  # where the reward rises and what is watched falls, the reward is hacked
RESULTS = (LOG_FILE, CURVES_FILE, HACKING_FILE, MODEL_FOLDER, "checkpoint-*")
FREE = ("log_every", "save_every", "threads", "capacity")
LOGGED = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_deviation",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut_off",
}


@dataclass(frozen=True)
class ReinforcementLoop:
    """How a model is reinforced.

    Raises InputError for numbers that train nothing, and groups that are too small or that a step cannot hold whole.
    """

    steps: int
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    batch_size: int = 16  # replies a step, of `batch_size / num_generations` questions
    num_generations: int = 4  # replies to one question, whose mean reward each is held against
    temperature: float = 1.0
    max_new_tokens: int = 64  # of a reply
    beta: float = 0.04  # weight of the Kullback-Leibler divergence from the start model
    scale_rewards: str = "group"  # divided by the group's deviation; "none": as they are, as in RLOO
    max_grad_norm: float = 1.0
    capacity: int = 32  # replies that are written at once
    log_every: int = 5
    validate_every: int = 50
    validation_questions: int = 64  # of the split "dev", at most
    save_every: int = 50
    threads: int | None = None  # CPU threads; None: PyTorch's default
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, self, "steps", "max_new_tokens", "capacity", "log_every", "validate_every", "save_every")
        check_at_least(0, self, "learning_rate", "warmup_steps")
        if self.num_generations < 2 or self.batch_size % self.num_generations:
            raise InputError(
                f"num_generations={self.num_generations}, batch_size={self.batch_size}: give 2 or more replies to a "
                "question, and a batch_size that they divide"
            )
        if self.beta < 0 or self.scale_rewards not in ("group", "batch", "none"):
            raise InputError(
                f"beta={self.beta}, scale_rewards={self.scale_rewards}: give a beta of 0 or more, and group, batch or "
                "none"
            )


def reinforce(
    pretrained: str | Path,
    corpora: Sequence[str | Path],
    output_dir: str | Path,
    loop: ReinforcementLoop,
    reward: Reward,
    *,
    stage: str = "respond",
    typed: bool = False,
    history_turns: int = 0,
    questions: int | None = None,
    watch: Mapping[str, Reward] | None = None,
    overwrite: bool = False,
) -> dict[str, float]:
    """Train the language model in `pretrained` to give replies that `reward` is high for.

    Goes on from the newest checkpoint in `output_dir`, writes `log.jsonl` and its pictures there (`curves.png`;
    `rewards_over_kl.png` shows a reward that is hacked), and the model into `output_dir/model`.
    The folder belongs to one content of model, corpora and what rewards read, and to these settings.

    Args:
        pretrained: folder of a fine-tuned language model.
        corpora: unit corpora of dialogs; questions are the user's turns of split "train" that an agent answers.
        reward: see `usdm.training.rewards`.
        stage: what is trained, "respond" (the words of a reply, the question's transcript being given) or "speak" (the
            units of the reply that the corpus has).
        typed: the question is read as text, and not heard.
        history_turns: earlier turns before a question, at most.
        questions: so many of them, drawn by the seed; None takes all.
        watch: further rewards by name that are measured, and not trained for.
        overwrite: delete what other inputs or settings left in `output_dir`.

    Returns:
        Of sampled replies to questions of split "dev": mean reward, those of `watch`, `length` in ids, `cut_off` (share
        that met `max_new_tokens`), `kl` (log-probability of a whole reply minus the start model's, in nats).

    Raises:
        InputError: there are too few questions, the reward is not for this stage or model, or the folder is of another
            run.
    """
    require_trl()
    vocabulary = SpeechTextVocabulary.from_pretrained(pretrained)
    wording = TemplateSettings.load(pretrained)
    template = DialogTemplate(vocabulary, wording)
    watched = dict(watch or {})
    corpus = UnitCorpus(list(corpora))
    if (units := UnitSource.load(pretrained)) is None:
        units = corpus.source
    units.check(corpus.source, str(pretrained), str(corpus.files[0]))
    how: dict[str, Any] = {"typed": typed, "history_turns": history_turns}
    train = draw_posed(corpus, "train", stage, **how, limit=questions, seed=loop.seed)
    dev = draw_posed(corpus, "dev", stage, **how, limit=loop.validation_questions, seed=loop.seed)
    if len(train) < (wanted := loop.batch_size // loop.num_generations):
        raise InputError(f"{corpus.files[0]}: {len(train)} questions, and a step takes {wanted}: give more")
    if loop.threads is not None:
        torch.set_num_threads(loop.threads)
    settings: dict[str, Any] = {"loop": asdict(loop), "stage": stage, **how, "questions": questions}
    inputs: dict[str, Any] = {"pretrained": pretrained, "corpora": list(corpora)}
    for name, each in {"reward": reward, **{f"watch.{name}": each for name, each in watched.items()}}.items():
        found = arguments_of(type(each), vars(each))
        settings[name] = {"type": type(each).__qualname__, **found.settings}
        inputs |= {f"{name}.{argument}": place for argument, place in found.inputs.items()}
    folder = Path(output_dir)
    with claim_together(folder, settings, inputs, results=RESULTS, free=FREE, overwrite=overwrite) as claimed:
        if finished(claimed):
            return dict(claimed.record.figures)
        model = load_model(pretrained)
        stored = model.dtype
        hold_in_float32(model, bf16=False)
        start = frozen_copy(model, bf16=False)
        scores = {
            "reward": reward.bind(start, template, stage),
            **{name: each.bind(start, template, stage) for name, each in watched.items()},
        }
        course = Course(template, start, scores, dev, stage, loop, folder)
        checkpoint, step = newest_checkpoint(folder)
        cut_log(folder, step, writes=True)
        trainer = _trainer(model, trainers_tokenizer(pretrained, vocabulary), train, course)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        figures = course.measure(trainer.model)
        add_to_log(folder, {"step": loop.steps, **{VALIDATION + name: value for name, value in figures.items()}})
        draw_curves(folder / LOG_FILE, folder / CURVES_FILE)
        draw_against(folder / LOG_FILE, folder / HACKING_FILE, "kl", list(scores))
        config = start.config
        weights = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
        whole = finished_model(config, weights, None, stored)
        save_model(whole, vocabulary, units, wording, {**settings, "validation": figures}, folder)
        claimed.finish(figures)
    return figures


class Course:
    """What a run draws, rewards and measures, whatever trains."""

    def __init__(
        self,
        template: DialogTemplate,
        start: PreTrainedModel,
        scores: Mapping[str, Scores],
        dev: Sequence[Posed],
        stage: str,
        loop: ReinforcementLoop,
        folder: Path,
    ) -> None:
        """`scores`: under "reward" that which is trained for, and further ones that are only told."""
        self.template, self.start, self.scores, self.dev = template, start, scores, dev
        self.stage, self.loop, self.folder = stage, loop, folder

    def draw(self, model: PreTrainedModel, posed: Sequence[Posed], seeds: Sequence[int]) -> list[Candidate]:
        """A reply to each question, sampled with its own seed. Raises InputError for one that cannot be asked."""
        chain = LanguageModelChain(model, self.template)
        asked = [
            Asked(
                each.question,
                {
                    self.stage: Sampling(
                        temperature=self.loop.temperature, max_new_tokens=self.loop.max_new_tokens, seed=seed
                    )
                },
            )
            for each, seed in zip(posed, seeds, strict=True)
        ]
        replies = []
        found = draw_candidates(chain, asked, self.stage, 1, self.loop.capacity)
        for each, drawn in zip(posed, found, strict=True):
            if isinstance(drawn, InputError):
                raise InputError(f"{each.id}: {drawn}") from drawn
            replies += drawn
        return replies

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Means over one sampled reply to each question of split "dev", the same seeds every time."""
        replies = self.draw(model, self.dev, range(len(self.dev)))
        figures = {name: float(np.mean(scores(self.dev, replies))) for name, scores in self.scores.items()}
        chains = [LanguageModelChain(each, self.template) for each in (model, self.start)]
        own, before = ([float(log_probabilities(chain, [reply])[0].sum()) for reply in replies] for chain in chains)
        return {
            **figures,
            "length": float(np.mean([len(reply.ids) for reply in replies])),
            "cut_off": float(np.mean([bool(reply.answer.truncated) for reply in replies])),
            "kl": float(np.mean(own) - np.mean(before)),
        }


class CourseLog(TrainerCallback):
    """Appends trl's figures of logged steps to `log.jsonl`, and at some steps what the course measures."""

    def __init__(self, course: Course) -> None:
        self.course = course

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if state.global_step == 0:
            self._measure(state, given["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        step, loop = state.global_step, self.course.loop
        if step % loop.validate_every == 0 and step < loop.steps:
            self._measure(state, given["model"])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any) -> None:
        logs = found["logs"]
        if "reward" in logs and state.is_world_process_zero:
            names = {**LOGGED, **{f"rewards/{name}/mean": name for name in self.course.scores if name != "reward"}}
            row = {own: logs[name] for name, own in names.items() if name in logs}
            add_to_log(self.course.folder, {"step": state.global_step, **row})

    def _measure(self, state: TrainerState, model: PreTrainedModel) -> None:
        figures = self.course.measure(model)
        if state.is_world_process_zero:
            row = {VALIDATION + name: value for name, value in figures.items()}
            add_to_log(self.course.folder, {"step": state.global_step, **row})


def _trainer(model: PreTrainedModel, tokenizer: Any, posed: Sequence[Posed], course: Course) -> Any:
    from datasets import Dataset  # type: ignore[import-untyped]
    from trl import GRPOConfig, GRPOTrainer

    loop, template, stage = course.loop, course.template, course.stage
    allowed, stop = template.allowed(stage), template.stop_id(stage)

    class ConstrainedTrainer(Silent, GRPOTrainer):
        """Its probabilities are those among the ids that the stage may write."""

        def _get_per_token_logps_and_entropies(
            self,
            model: PreTrainedModel,
            input_ids: Tensor,
            attention_mask: Tensor,
            logits_to_keep: int,
            batch_size: int | None = None,
            **_: Any,
        ) -> tuple[Tensor, Tensor, None]:
            size = batch_size or len(input_ids)
            parts = [
                constrained(model, ids, mask, logits_to_keep, allowed, self.temperature)
                for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True)
            ]
            logps, entropies = (torch.cat(each) for each in zip(*parts, strict=True))
            return logps, entropies, None

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        asked = [posed[int(prompt)] for prompt in prompts]
        key = f"replies of process {trainer.accelerator.process_index}"
        seeds = keyed_generator(loop.seed, trainer.state.global_step, key).integers(2**62, size=len(asked)).tolist()
        with torch.no_grad():
            replies = course.draw(trainer.accelerator.unwrap_model(trainer.model), asked, seeds)
        return {
            "prompt_ids": [list(reply.prefix) for reply in replies],
            "completion_ids": [list(reply.ids) for reply in replies],
            "logprobs": None,
            "posed": asked,
            "candidate": replies,
        }

    def reward_function(name: str, scores: Scores) -> Any:
        def function(posed: Sequence[Posed], candidate: Sequence[Candidate], **_: Any) -> list[float]:
            return scores(posed, candidate)

        function.__name__ = name
        return function

    arguments = GRPOConfig(
        **common_arguments(course.folder),
        max_steps=loop.steps,
        learning_rate=loop.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=loop.warmup_steps,
        per_device_train_batch_size=loop.batch_size,
        num_generations=loop.num_generations,
        temperature=loop.temperature,
        max_completion_length=loop.max_new_tokens,
        beta=0.0,  # or trl reads a reference model from the disk; it is given below
        scale_rewards=loop.scale_rewards,
        loss_type="grpo",
        reward_weights=[float(name == "reward") for name in course.scores],
        max_grad_norm=loop.max_grad_norm,
        logging_steps=loop.log_every,
        save_steps=loop.save_every,
        seed=loop.seed,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using 'rollout_func'", UserWarning)
        trainer = ConstrainedTrainer(
            model,
            [reward_function(name, scores) for name, scores in course.scores.items()],
            arguments,
            train_dataset=Dataset.from_dict({"prompt": [str(place) for place in range(len(posed))]}),
            processing_class=tokenizer,
            callbacks=[CourseLog(course)],
            rollout_func=rollout,
        )
    trainer.remove_callback(PrinterCallback)
    trainer.eos_token_ids = [stop]  # of a reply that was not cut off
    trainer.beta = loop.beta
    if loop.beta:
        trainer.ref_model = course.start.to(trainer.args.device)
    return trainer


def constrained(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, kept: int, allowed: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Of the last `kept` ids of each of B rows, padded on both sides: log-probabilities among the allowed ids, and the
    entropies of these distributions, both (B, kept)."""
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    logits: Tensor = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=kept + 1
    ).logits[:, -kept - 1 : -1]
    index = allowed.nonzero()[:, 0]
    places = torch.zeros(len(allowed), dtype=torch.int64)  # of padding, which nobody scores, the first
    places[index] = torch.arange(len(index))
    logs = (logits.index_select(-1, index.to(logits.device)).float() / temperature).log_softmax(-1)
    entropies = -(logs.detach().exp() * logs.detach()).sum(-1)
    return logs.gather(2, places.to(ids.device)[ids[:, -kept:], None])[..., 0], entropies
