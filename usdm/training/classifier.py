"""`train_classifier`: a language model, user turns and their labels -> a classifier of turns.

It runs in the loop of the other parts (`usdm.training.loop`): a run that was stopped goes on where it was, and gives
the weights that it would have given.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from usdm.checkpoint import CLASS_KEY, CONFIG_FILE, WEIGHTS_FILE, class_named, make_readable, read_config, read_weights
from usdm.data.labels import Labels, classes_of
from usdm.data.unit_corpus import UnitSource
from usdm.data.user_turns import UserTurn, check_units, read_user_turns, with_labels
from usdm.interleave import keyed_generator
from usdm.lm import check_model, load_model
from usdm.lm.adapters import adapter_record, trained_share, with_adapter, with_prompt_tokens
from usdm.lm.turn_classifier import TurnBatch, TurnClassifier, check_lengths, turn_batch, turn_prompt
from usdm.runs import content_digest
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings
from usdm.training.classifier_objectives import ClassifierObjective, Prediction, Turns, seeded_head
from usdm.training.loop import training_device
from usdm.training.task import TrainingTask
from usdm.types import InputError

logger = logging.getLogger(__name__)

BATCH = 64  # turns at once where nothing is learnt


@dataclass(frozen=True)
class ClassifierConfig:
    """`config.json` beside the trained weights, key by key; objective and adapter stand there too."""

    classes: list[str]
    left_out: list[str]  # labels that were there and were named to be left out
    held_out: list[str]  # labels that were there and were drawn to be left out
    label_key: str
    hears: str
    num_target: int
    base: str  # folder of the language model
    base_digest: str  # of its contents


@dataclass(frozen=True)
class ClassifierBatch:
    """Of one step."""

    source: TurnBatch | Tensor  # prompts, or (B, width) features of a frozen backbone
    labels: Tensor  # (B,) int64
    places: Tensor  # (B,) int64
    target: TurnBatch | Tensor | None
    target_places: Tensor | None
    progress: float


class ClassifierTask(TrainingTask):
    """Labelled turns of split "train" for learning, of "dev" for validation.

    Args:
        model: folder of a language model with its vocabulary, as `pretrain` or `finetune` makes it.
        corpora: folders of units, or `dialogs.jsonl` for text alone.
        labels: `labels.jsonl`; turns without a label are not learnt from.
        label_key: which of a line's labels.
        hears: "units", "text" or "transcript"; see `usdm.lm.turn_classifier`.
        objective: see `usdm.training.classifier_objectives`.
        adapter: a configuration of `peft`, or None: all weights are trained.
        frozen: the backbone stays as it is, and hears every turn once.
        left_out: labels whose turns are not learnt from.
        held_out_share: of the other labels, drawn by the seed, whose turns are not learnt from either.
        target: corpora of the unlabelled turns that an objective wants.
        target_hears: the same for them; None: `hears`.
        batch_size: labelled turns a step, and as many unlabelled ones.
        steps: of the training, which progress is told by.

    Raises:
        InputError: as `Labels.load` and `classes_of` do; nothing of split "train" or "dev" has a label; the objective
            needs a target, or has no use for one; a frozen backbone with an adapter; a step without a turn; units that
            the model does not know.
    """

    def __init__(
        self,
        model: str | Path,
        corpora: Sequence[str | Path],
        labels: str | Path,
        *,
        label_key: str,
        hears: str,
        objective: ClassifierObjective,
        adapter: Any = None,
        frozen: bool = False,
        left_out: Sequence[str] = (),
        held_out_share: float = 0.0,
        target: Sequence[str | Path] = (),
        target_hears: str | None = None,
        batch_size: int,
        steps: int,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: a step learns from 1 turn or more")
        check_units_heard([(corpora, hears), (target, target_hears or hears)], model)
        if frozen and adapter is not None:
            raise InputError("frozen=true and an adapter: nothing of the adapter would be learnt; take adapter=none")
        if objective.needs_target != bool(target):
            wants = "needs unlabelled turns: give target=[FOLDER]" if objective.needs_target else "reads no target"
            raise InputError(f"objective={type(objective).__name__}, target={list(target)}: this objective {wants}")
        labelled = with_labels(read_user_turns(corpora), Labels.load(labels, label_key))
        classes, held_out = classes_to_learn(labelled, left_out, held_out_share, seed)
        turns = {split: _of_split(labelled, split, classes) for split in ("train", "dev")}
        unlabelled = [turn for turn in read_user_turns(target) if turn.split == "train"] if target else []
        self.config = ClassifierConfig(
            classes, list(left_out), held_out, label_key, hears, len(unlabelled), str(Path(model).absolute()),
            content_digest(model),
        )  # fmt: skip
        self.objective, self.adapter, self.frozen = objective, adapter, frozen
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.device = torch.device(training_device(device))
        self.classifier, self.template = build_classifier(self.config, objective, adapter, seed)
        self.classifier.to(self.device)
        self.prompts = {split: self._prompts([turn for turn, _ in of], hears) for split, of in turns.items()}
        self.labels = {split: torch.tensor([classes.index(label) for _, label in of]) for split, of in turns.items()}
        self.target_prompts = self._prompts(unlabelled, target_hears or hears) if unlabelled else []
        self.known: dict[str, Tensor] = {}  # features of a frozen backbone, by split, and of the target
        if frozen:
            self.classifier.backbone.requires_grad_(False)
            self.known = {split: self._features(prompts) for split, prompts in self.prompts.items()}
            self.known["target"] = self._features(self.target_prompts)
        logger.info("%d turns of %d classes to learn from", len(self.prompts["train"]), len(classes))
        logger.info(trained_share(self.classifier))

    def modules(self) -> dict[str, nn.Module]:
        return {"head": self.classifier.head} if self.frozen else {"classifier": self.classifier}

    def batch(self, step: int) -> ClassifierBatch:
        places = self._drawn("source", step, len(self.prompts["train"]))
        target = target_places = None
        if self.target_prompts:
            target_places = self._drawn("target", step, len(self.target_prompts))
            target = self._read("target", self.target_prompts, target_places)
        return ClassifierBatch(
            self._read("train", self.prompts["train"], places),
            self.labels["train"][places].to(self.device),
            places.to(self.device),
            target,
            None if target_places is None else target_places.to(self.device),
            min(1.0, step / max(1, self.steps)),
        )

    def losses(self, batch: ClassifierBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        source = Turns(self._heard(batch.source), batch.labels, batch.places)
        target = None
        if batch.target is not None and batch.target_places is not None:
            unlabelled = torch.full_like(batch.target_places, -1)
            target = Turns(self._heard(batch.target), unlabelled, batch.target_places)
        return self.objective.losses(self.classifier.head, source, target, batch.progress)

    def validate(self, step: int, folder: Path) -> Mapping[str, float]:
        """Accuracy on dev turns of the known classes."""
        features = self.known["dev"] if self.frozen else self._features(self.prompts["dev"])
        found = self.objective.predict(self.classifier.head, features)
        right = found.logits.argmax(1).cpu() == self.labels["dev"]
        return {"accuracy": float(right.float().mean())}

    def save(self, folder: Path) -> None:
        """The settings, and the tensors that were trained; the language model stays where it is."""
        save_classifier(folder, self.config, self.objective, self.adapter, self.classifier)

    def _prompts(self, turns: Sequence[UserTurn], hears: str) -> list[list[int]]:
        prompts = turn_prompts(self.template, hears, turns)
        check_lengths(prompts, self.classifier.backbone)
        return prompts

    def _drawn(self, name: str, step: int, count: int) -> Tensor:
        """(batch_size,) places: epoch after epoch in an order of its own."""
        wanted = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        places = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(wanted // count):
            order = keyed_generator(self.seed, int(epoch), name).permutation(count)
            inside = wanted // count == epoch
            places[inside] = order[wanted[inside] % count]
        return torch.from_numpy(places)

    def _read(self, name: str, prompts: list[list[int]], places: Tensor) -> TurnBatch | Tensor:
        if self.frozen:
            return self.known[name][places.to(self.device)]
        return turn_batch([prompts[place] for place in places], self.template.vocabulary.pad_id, self.device)

    def _heard(self, read: TurnBatch | Tensor) -> Tensor:
        return read if isinstance(read, Tensor) else self.classifier.features(read)

    def _features(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        return features_of(self.classifier, prompts, self.template.vocabulary.pad_id)


@torch.no_grad()
def features_of(classifier: TurnClassifier, prompts: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """(N, width) of N prompts, those of like length at once."""
    training = classifier.training
    classifier.eval()
    device = next(classifier.parameters()).device
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    parts = [
        classifier.features(turn_batch([prompts[place] for place in order[first : first + BATCH]], pad_id, device))
        for first in range(0, len(order), BATCH)
    ]
    classifier.train(training)
    back = torch.tensor(order, device=device).argsort() if order else torch.zeros(0, dtype=torch.int64)
    return torch.cat(parts)[back] if parts else torch.zeros(0, 1)


def classes_to_learn(
    labelled: Sequence[tuple[UserTurn, str]], left_out: Sequence[str], held_out_share: float, seed: int
) -> tuple[list[str], list[str]]:
    """The classes of `ClassifierTask`, and those that are drawn to be held out. Raises InputError as it does."""
    learnt = [label for turn, label in labelled if turn.split in ("train", "dev")]
    held_out = _held_out(set(learnt) - set(left_out), held_out_share, seed)
    _check_left_out(left_out, {label for _, label in labelled})
    return classes_of(label for label in learnt if label not in {*left_out, *held_out}), held_out


def check_units_heard(heard: Iterable[tuple[Sequence[str | Path], str]], model: str | Path) -> None:
    """Raises InputError for corpora that are heard, and are of other units than the language model in `model` knows."""
    for corpora, hears in heard:
        if hears != "text":
            check_units(corpora, UnitSource.load(model), str(model))


def check_heard(hears: str, turns: Sequence[UserTurn]) -> None:
    """Raises InputError for a turn that lacks what is to be heard, named."""
    if hears != "text" and (silent := [turn.id for turn in turns if turn.units is None]):
        raise InputError(f"hears={hears}: {silent[0]} is text alone; take hears=text, or a corpus of units")


def turn_prompts(template: DialogTemplate, hears: str, turns: Sequence[UserTurn]) -> list[list[int]]:
    """Raises InputError as `check_heard` does."""
    check_heard(hears, turns)
    return [turn_prompt(template, hears, turn.units, turn.text) for turn in turns]


def build_classifier(
    config: ClassifierConfig, objective: ClassifierObjective, adapter: Any, seed: int
) -> tuple[TurnClassifier, DialogTemplate]:
    """With a new head, and the template of its prompts. Raises InputError if the language model cannot be read, or does
    not fit its vocabulary or the adapter."""
    vocabulary, template = SpeechTextVocabulary.from_pretrained(config.base), TemplateSettings.load(config.base)
    base = load_model(config.base, dtype=torch.float32)
    check_model(base, vocabulary)
    vocabulary, template = with_prompt_tokens(base, vocabulary, template, adapter)
    width = base.config.get_text_config().hidden_size
    head = seeded_head(objective, width, len(config.classes), config.num_target, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # an adapter's new weights
        backbone: nn.Module = with_adapter(base, adapter)
    return TurnClassifier(backbone, head), DialogTemplate(vocabulary, template)


def save_classifier(
    folder: Path, config: ClassifierConfig, objective: ClassifierObjective, adapter: Any, classifier: TurnClassifier
) -> None:
    record = {
        **asdict(config),
        "objective": _named(objective, asdict(objective)),  # type: ignore[call-overload]
        "adapter": None if adapter is None else _named(adapter, adapter_record(adapter) or {}),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in _trained(classifier).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    make_readable(folder)


@dataclass(frozen=True)
class LoadedClassifier:
    """A finished classifier, ready to be asked."""

    config: ClassifierConfig
    objective: ClassifierObjective
    classifier: TurnClassifier
    template: DialogTemplate

    def features(self, turns: Sequence[UserTurn], hears: str | None = None) -> Tensor:
        """(N, width). `hears`: None is what it has learnt with. Raises InputError as `turn_prompts` does."""
        prompts = turn_prompts(self.template, hears or self.config.hears, turns)
        check_lengths(prompts, self.classifier.backbone)
        return features_of(self.classifier, prompts, self.template.vocabulary.pad_id)

    @torch.no_grad()
    def predict(self, features: Tensor) -> Prediction:
        """Of (N, width) features of all turns that are judged."""
        return self.objective.predict(self.classifier.head, features)


def load_classifier(folder: str | Path, base: str | Path | None = None) -> LoadedClassifier:
    """`base`: where the language model lies now, if it was moved.

    Raises InputError if the folder is no classifier, or its language model is gone or another one.
    """
    folder = Path(folder)
    stored = read_config(folder)
    try:
        known = {each.name: stored[each.name] for each in fields(ClassifierConfig)}
        config = ClassifierConfig(**known)
        objective = _rebuilt(stored["objective"], ClassifierObjective, folder)
        adapter = None if stored["adapter"] is None else _rebuilt(stored["adapter"], object, folder)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / CONFIG_FILE}: no configuration of a turn classifier ({error!r})") from error
    config = replace(config, base=str(base or config.base))
    if not Path(config.base).is_dir() or content_digest(config.base) != config.base_digest:
        raise InputError(
            f"{folder}: it was trained on the language model of {config.base}, which is gone or another one now; give "
            "base=FOLDER of that model"
        )
    classifier, template = build_classifier(config, objective, adapter, seed=0)
    weights = read_weights(folder)
    missing, unexpected = classifier.load_state_dict(weights, strict=False)
    if unexpected or not _trained(classifier).keys() <= weights.keys() and not _is_frozen(weights):
        raise InputError(f"{folder / WEIGHTS_FILE}: does not fit {CONFIG_FILE} beside it ({unexpected or missing})")
    return LoadedClassifier(config, objective, classifier.eval(), template)


def _is_frozen(weights: Mapping[str, Tensor]) -> bool:
    return all(name.startswith("head.") for name in weights)


def _trained(classifier: TurnClassifier) -> dict[str, Tensor]:
    """What differs from the language model that training began with."""
    learnt = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    state = classifier.state_dict()
    return {name: value for name, value in state.items() if name in learnt or name.startswith("head.")}


def _named(part: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    kind = type(part)
    plain = {key: value.value if hasattr(value, "value") else value for key, value in settings.items()}
    return {CLASS_KEY: f"{kind.__module__}.{kind.__qualname__}", **plain}


def _rebuilt(stored: Mapping[str, Any], kind: type[Any], folder: Path) -> Any:
    """Raises InputError, KeyError or TypeError for what is no dataclass with such settings."""
    found = class_named(stored[CLASS_KEY], kind, folder / CONFIG_FILE)
    if not is_dataclass(found):
        raise TypeError(f"{stored[CLASS_KEY]} has no settings")
    names = {each.name for each in fields(found) if each.init}
    return found(**{key: value for key, value in stored.items() if key in names})


def _of_split(
    labelled: Sequence[tuple[UserTurn, str]], split: str, classes: Sequence[str]
) -> list[tuple[UserTurn, str]]:
    known = set(classes)
    found = [(turn, label) for turn, label in labelled if turn.split == split and label in known]
    if not found:
        raise InputError(f"no turn of split {split!r} has one of the labels {', '.join(classes[:5])}: check the splits")
    return found


def _held_out(labels: set[str], share: float, seed: int) -> list[str]:
    """The labels that are drawn to be left out."""
    if not 0 <= share < 1:
        raise InputError(f"held_out_share={share}: give a share of the labels from 0 to below 1")
    names = sorted(labels)
    drawn = keyed_generator(seed, 0, "held out").permutation(len(names))[: round(share * len(names))]
    return sorted(names[number] for number in drawn)


def _check_left_out(left_out: Sequence[str], there: set[str]) -> None:
    if strange := sorted(set(left_out) - there):
        raise InputError(f"left_out={strange}: no turn has that label, only {', '.join(sorted(there)[:20])}")
