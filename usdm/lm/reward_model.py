"""A reward model: the language model with one number where its head was, which says how good a reply is.

Its folder is one of the hub's, and holds beside weights and tokenizer `reward.json`: which stage's replies it was
trained on, how it reads them, and mean and deviation of its rewards over its training pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from usdm.checkpoint import read_object
from usdm.lm.model import no_progress_bar
from usdm.lm.turn_classifier import turn_batch
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings, TurnContent
from usdm.types import InputError, Turn

REWARD_FILE = "reward.json"
BATCH = 32  # sequences of like length that are read at once


@dataclass(frozen=True)
class RewardSettings:
    """What a reward model reads."""

    stage: str = "respond"  # whose replies it judges: "respond" words, "speak" units
    layout: str | None = None  # of the turns; None: the template's own
    mean: float = 0.0  # of its rewards over the replies that it was trained on
    deviation: float = 1.0

    def save(self, folder: str | Path) -> None:
        """Write `reward.json`."""
        (Path(folder) / REWARD_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> RewardSettings:
        """Raises InputError if there are none."""
        path = Path(folder) / REWARD_FILE
        try:
            return cls(**read_object(path, "give a folder that `usdm train_reward` has made"))
        except TypeError as error:
            raise InputError(f"{path}: not the settings of a reward model ({error}); train it again") from error


class RewardModel:
    """A trained reward model, frozen."""

    def __init__(self, model: Any, template: DialogTemplate, settings: RewardSettings) -> None:
        self.model, self.template, self.settings = model.eval().requires_grad_(False), template, settings

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> RewardModel:
        """Raises InputError if files are missing, damaged, or do not fit each other."""
        settings = RewardSettings.load(folder)
        vocabulary = SpeechTextVocabulary.from_pretrained(folder)
        template = DialogTemplate(vocabulary, TemplateSettings.load(folder))
        template.layout(settings.layout).slot_of(settings.stage)
        return cls(load_with_one_output(folder).to(device), template, settings)

    def check(self, vocabulary: SpeechTextVocabulary, whose: str = "the language model") -> None:
        """Raises InputError if it reads other ids than `vocabulary` has."""
        own, theirs = asdict(self.template.vocabulary.layout), asdict(vocabulary.layout)
        if different := [key for key in own if own[key] != theirs[key]]:
            facts = ", ".join(f"{key} {own[key]} against {theirs[key]}" for key in different)
            raise InputError(
                f"the reward model has another tokenizer than {whose}: {facts}; train one from a model with the same"
            )

    def ids(self, content: TurnContent, history: Sequence[Turn] = ()) -> list[int]:
        """A question and its reply as they are read. Raises InputError if something is missing."""
        whole = self.template.training_example(content, history, self.settings.layout, self.settings.stage)
        ids: list[int] = whole.input_ids.tolist()
        return ids

    def ids_after(self, content: TurnContent, history: Sequence[Turn], reply: Sequence[int]) -> list[int]:
        """The same for a reply that is ids already, its stop id included where it has come to one."""
        return [*self.template.prompt(self.settings.stage, content, history, self.settings.layout), *reply]

    def normalised(self, rewards: Sequence[float], clip: float | None) -> list[float]:
        """Rewards in deviations from the mean, none further from it than `clip`."""
        scaled = [(reward - self.settings.mean) / max(self.settings.deviation, 1e-6) for reward in rewards]
        return scaled if clip is None else [min(max(reward, -clip), clip) for reward in scaled]

    @torch.inference_mode()
    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """A reward for each sequence of ids."""
        order = sorted(range(len(sequences)), key=lambda place: len(sequences[place]))
        rewards = [0.0] * len(sequences)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            pad_id = self.template.vocabulary.pad_id
            batch = turn_batch([sequences[place] for place in places], pad_id, self.model.device)
            logits: Tensor = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).logits
            for place, reward in zip(places, logits[:, 0].float().tolist(), strict=True):
                rewards[place] = reward
        return rewards


@contextmanager
def _no_load_report() -> Iterator[None]:
    """What is missing or left over is looked at here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def load_with_one_output(folder: str | Path, new_head: bool = False) -> Any:
    """The model in `folder` with one output in place of its head, in float32. `new_head`: that is drawn anew, from
    torch's own generator.

    Raises InputError if the weights are missing or damaged, if a head is missing and not to be drawn, or if
    transformers has no such form of this kind of model.
    """
    from transformers import AutoModelForSequenceClassification

    try:
        with no_progress_bar(), _no_load_report():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                str(folder), num_labels=1, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}: no reward model can be made of it ({error})") from error
    missing = sorted(report["missing_keys"])
    wrong = [name for name in missing if not name.startswith("score.")] if new_head else missing
    if wrong:
        raise InputError(f"{folder}: weights and config.json differ in {', '.join(wrong[:5])}: copy the model again")
    return model
