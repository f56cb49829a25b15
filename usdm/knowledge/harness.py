"""Text ability by lm-eval (the package of EleutherAI's evaluation harness): any of its tasks, or tasks of your own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from usdm.knowledge.items import read_choices, subject_files
from usdm.metrics.figures import ItemValues
from usdm.runs import digest
from usdm.types import InputError

TEMPLATES = {"default": "default/_default_kmmlu_yaml", "direct": "direct/_direct_kmmlu_yaml"}  # of the package's KMMLU


@dataclass(frozen=True)
class HarnessItem:
    """One document of a task, with what lm-eval made of it."""

    subject: str  # the task
    values: ItemValues
    digest: str  # what the item depends on
    lower_is_better: frozenset[str]  # of its figures


class HarnessTasks:
    """Which tasks.

    Args:
        tasks: names of tasks, groups or tags; None: all that lie in `folder`, or all subjects of `data_folder`.
        folder: tasks of your own, as yaml files of lm-eval; None: the package's. Their data may be local as well.
        data_folder: files in KMMLU's format, in place of what the hub has: nothing is downloaded.
        template: of prompts for `data_folder`: default (likelihood of the letter) or direct (the letter is written).

    Raises:
        InputError: there is nothing to ask, or the template is unknown.
    """

    def __init__(
        self,
        tasks: Sequence[str] | None = None,
        folder: str | None = None,
        data_folder: str | None = None,
        template: str = "default",
    ) -> None:
        if folder is not None and data_folder is not None:
            raise InputError("knowledge.folder and knowledge.data_folder: tasks of your own name their data; give one")
        if tasks is None and folder is None and data_folder is None:
            raise InputError("knowledge: give tasks=[...], a folder of tasks, or a data_folder in KMMLU's format")
        if template not in TEMPLATES:
            raise InputError(f"knowledge.template={template}: there are {', '.join(TEMPLATES)}")
        self.tasks, self.folder, self.data_folder, self.template = tasks, folder, data_folder, template

    def specs(self, manager: Any, limit: int | None) -> list[str | dict[str, Any]]:
        """As lm-eval takes them. Raises InputError for unknown names, and for a folder of another format."""
        if self.data_folder is not None:
            read_choices(self.data_folder, limit)  # complains, with the row
            return list(self._local(self.data_folder))
        if self.folder is not None and not manager.all_subtasks:
            raise InputError(
                f"{self.folder}: no task of lm-eval there; it wants yaml files with `task`, `dataset_path` "
                "and the like. Files in KMMLU's format are for knowledge.data_folder"
            )
        names: list[str | dict[str, Any]] = list(manager.all_subtasks if self.tasks is None else self.tasks)
        if unknown := sorted(str(name) for name in names if name not in manager.all_tasks):
            where = self.folder or "lm-eval"
            raise InputError(f"knowledge.tasks: {where} has no {', '.join(unknown)}; `lm-eval ls tasks` lists its own")
        return names

    def _local(self, folder: str) -> Iterator[dict[str, Any]]:
        import lm_eval.tasks

        template = Path(lm_eval.tasks.__file__).parent / "kmmlu" / TEMPLATES[self.template]
        base = yaml.safe_load(template.read_text(encoding="utf-8"))
        examples, found = subject_files(folder, "dev"), subject_files(folder)
        # A name such as kmmlu_direct is of all subjects.
        names = {subject.lower().replace(" ", "_"): subject for subject in found}
        wanted = [name for name in self.tasks or () if not name.startswith("kmmlu")] or list(
            names
        )  # which is all of it
        if unknown := sorted(set(wanted) - set(names)):
            raise InputError(f"knowledge.tasks: {folder} has no {', '.join(unknown)}, only {', '.join(names)}")
        for name in wanted:
            subject = names[name]
            path = found[subject]
            files = {"test": str(path)} | ({"dev": str(examples[subject])} if subject in examples else {})
            split = {"fewshot_split": "dev" if subject in examples else None}
            kind = "csv" if path.suffix == ".csv" else "json"
            yield {**base, **split, "task": name, "dataset_path": kind, "dataset_kwargs": {"data_files": files}}


def ask_harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: HarnessTasks,
    cache: Path,
    *,
    shots: int | None,
    limit: int | None,
    batch: int,
    seed: int,
) -> list[HarnessItem]:
    """Every document of the tasks, once: what was asked before comes from `cache`, which is of this model alone.

    Args:
        shots: examples before each question; None: as the task has it.
        limit: documents of each task; None: all.

    Raises:
        InputError: lm-eval is not installed, a task is unknown, of another format or cannot be read, or it has no
            figure of single items.
    """
    try:
        from lm_eval.api.model import CachingLM
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(f"tasks of text want the package lm-eval ({error}): pip install 'usdm[harness]'") from error
    is_local = tasks.folder is not None or tasks.data_folder is not None
    manager = TaskManager(include_path=tasks.folder, include_defaults=not is_local)
    specs = tasks.specs(manager, limit)
    try:
        loaded = manager.load(specs)
    except Exception as error:  # of yaml, of data files, of the hub: whatever a task's own files lead to
        named = tasks.folder or tasks.data_folder or ", ".join(map(str, specs))
        raise InputError(
            f"{named}: lm-eval cannot load these tasks ({error!r}); mend them, or fetch the data"
        ) from error
    for name, task in loaded["tasks"].items():
        if shots and task.config.fewshot_split is None and not task.has_training_docs():
            raise InputError(f"shots={shots}: {name} has no examples to show; add a split dev, or give shots=0")
        own = task.get_config("num_fewshot") or 0
        task.set_config(key="num_fewshot", value=own if shots is None else shots)
        task.set_fewshot_seed(seed=seed)
    asked = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
    results = evaluate(CachingLM(asked, str(cache)), loaded, limit=limit, bootstrap_iters=0)
    assert results is not None  # this process is the first one
    return [
        item
        for name, rows in results["samples"].items()
        for item in _items(str(name), rows, results["higher_is_better"].get(name, {}))
    ]


def harness_name() -> str:
    return f"lm-eval {version('lm-eval')}"


def _items(task: str, rows: Sequence[Mapping[str, Any]], higher: Mapping[str, bool]) -> Iterator[HarnessItem]:
    """A task may read replies in several ways (`filter`); each gives figures of its own."""
    lower: set[str] = set()
    values: defaultdict[int, dict[str, float]] = defaultdict(dict)
    digests: dict[int, str] = {}
    for row in rows:
        for metric in row["metrics"]:
            name = metric if row["filter"] == "none" else f"{metric} ({row['filter']})"
            lower |= {name} if higher.get(metric) is False else set()
            if isinstance(row[metric], bool | int | float):
                values[row["doc_id"]][name] = float(row[metric])
        digests[row["doc_id"]] = digest([row["doc_hash"], row["prompt_hash"]])[:16]
    if not values:
        raise InputError(
            f"{task}: its figures are of all documents together; take a task whose figures are means over documents, "
            "such as acc or exact_match"
        )
    for place, own in values.items():
        name = f"{task}-{place:05d}"
        yield HarnessItem(task, ItemValues(name, name, own), digests[place], frozenset(lower))
