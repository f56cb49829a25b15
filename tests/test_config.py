"""Every configuration that can be composed fits the code that it feeds."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ValidationError

from usdm.cli.main import TAKE_FOLDERS, folders_as_override, verbs
from usdm.cli.stage import Stage
from usdm.cli.verb_help import options_of as names_of_options
from usdm.config import (
    OUTSIDE,
    OWN_PACKAGES,
    SCHEMAS,
    check_config,
    config_folder,
    fits,
    inspect_arguments,
    misfits,
    missing_keys,
    parts,
    read_arguments,
    register_schemas,
    show_experiments,
)
from usdm.config.experiments import STAGES
from usdm.config.renamed import RENAMED, check_renamed
from usdm.training.kmeans import fit_kmeans
from usdm.types import InputError

# Arguments that the code gives, so that no configuration may.
GIVEN_BY_CODE = {
    "usdm.lm.build_model": {"vocabulary", "settings"},
    "usdm.evaluation.predictions.ChainSystem": {"pipeline", "seed", "capacity", "retry_errors"},
    "usdm.chain.choosing.Likeliest": {"chain"},
    "usdm.chain.judging.Tournament": {"chain"},
    "usdm.chain.hearing.BestHeard": {"chain"},
    "usdm.chain.best_reward.BestReward": {"chain"},
    "usdm.evaluation.cascade.Resaid": {"pipeline", "seed", "capacity", "retry_errors"},
    "usdm.evaluation.cascade.Cascade": {"pipeline", "seed", "capacity", "retry_errors"},
    "usdm.cli.pretrain.extend_pretrained": {"vocabulary"},
    "usdm.cli.pretrain.with_other_words": {"vocabulary"},
    "usdm.chain.SpokenDialogPipeline.from_pretrained": {"options"},
    "usdm.chain.SpokenDialogPipeline.from_parts": {"options"},
    "usdm.chain.random_components.random_pipeline": {"options"},
}

# Verbs that take their sections of an experiment, but whose file in `conf/` is itself all that there is to say.
WITHOUT_SECTION = {
    "train_codec",
    "train_unit_hifigan",
    "evaluate_pretraining",
    "evaluate_finetuning",
    "align",
    "transcribe",
    "import_corpus",
    "average_models",
    "prepare_preferences",
    "self_train",
    "status",
    "make_model",
    "train_reward",
    "reinforce",
}


BRING_GROUPS = ("experiment", "system")  # what else there is to choose depends on them


@cache
def composed(verb: str, *overrides: str) -> DictConfig:
    """To be read only: the same object serves several tests."""
    register_schemas([verb])
    show_experiments(verb, [config_folder()])
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(verb, overrides=list(overrides), return_hydra_config=True)


def without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])


def options_of(verb: str) -> Iterator[list[str]]:
    """For each group that the verb's defaults list chooses from one override for each of its options."""
    for group in lists_of(verb):
        yield [f"{group}=[{path.stem}]" for path in sorted((config_folder() / group).glob("*.yaml"))]
    for choice, chosen in composed(verb).hydra.runtime.choices.items():
        group = choice.partition("@")[0]
        if not group.startswith("hydra"):
            options = []
            for name in names_of_options(verb, group, [config_folder()]):
                file = config_folder() / group / f"{name}.yaml"
                if group == "experiment" and chosen != name and verb not in OmegaConf.load(file):
                    continue  # it gives this verb nothing but `shared`, as it does others
                if group != "loop" or ("part" in (chosen, name)) == (chosen == name):
                    options.append(f"{choice}={name}")
            yield options


def lists_of(verb: str) -> set[str]:
    """Groups of which a verb takes several options at once."""
    defaults = OmegaConf.load(config_folder() / f"{verb}.yaml").get("defaults", [])
    entries = [entry for entry in defaults if isinstance(entry, DictConfig)]
    return {str(group) for entry in entries for group, chosen in entry.items() if isinstance(chosen, ListConfig)}


def problems(config: DictConfig) -> list[str]:
    """Arguments that a part has too many or does not list, over the whole configuration."""
    found = []
    for key in list(missing_keys(config)):
        with suppress(ValidationError):  # where the schema wants a number
            OmegaConf.update(config, key, "given")
    for path, part in parts(config):
        found += [misfit for misfit in misfits(path, part) if "='given'" not in misfit]
        if part["_target_"].startswith(("transformers.", "peft.")):
            continue  # a package's class has defaults for what it takes in plenty
        taken = inspect_arguments(get_object(part["_target_"])).hints
        absent = set(taken) - set(part) - GIVEN_BY_CODE.get(part["_target_"], set()) - {"self"}
        found += [f"{path}.{name}: an argument of {part['_target_']} that is not listed" for name in sorted(absent)]
    return found


def test_verbs_schemas_and_primary_files_are_the_same_set() -> None:
    files = {path.stem for path in config_folder().glob("*.yaml")}
    assert set(verbs()) == set(SCHEMAS) == files
    assert all(summary for summary in verbs().values())


def test_every_file_of_conf_is_reachable_from_a_verb() -> None:
    reachable = set()
    for verb in SCHEMAS:
        reachable |= {choice.partition("@")[0] for choice in composed(verb).hydra.runtime.choices} | lists_of(verb)
    groups = {str(path.parent.relative_to(config_folder())) for path in config_folder().glob("*/**/*.yaml")}
    assert groups <= reachable


@pytest.mark.parametrize("verb", sorted(SCHEMAS))
def test_no_key_of_a_verb_has_the_name_of_a_group_that_it_does_not_choose_from(verb: str) -> None:
    """`voice=slt` would be taken for a choice of the group `voice`, which the verb has not."""
    chosen = {choice.partition("@")[0] for choice in composed(verb).hydra.runtime.choices} | lists_of(verb)
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    config = OmegaConf.to_container(without_hydra(composed(verb)), resolve=False)
    assert {key for key, value in config.items() if not isinstance(value, dict)} & groups - chosen == set()


@pytest.mark.parametrize("verb", sorted(SCHEMAS))
def test_every_option_of_a_verb_fits_the_code(verb: str) -> None:
    """An option of every group at once, for a composition takes a fifth of a second and there are a thousand."""
    assert problems(without_hydra(composed(verb))) == []
    alone, together = [], []
    for options in options_of(verb):
        (alone if re.split("[@=]", options[0])[0] in BRING_GROUPS else together).append(options)
    for chosen in [*((option,) for options in alone for option in options), *zip_longest(*together)]:
        options = [option for option in chosen if option is not None]
        assert problems(without_hydra(composed(verb, *options))) == [], options


def targets() -> list[str]:
    """Of every file of `conf`."""
    texts = [path.read_text(encoding="utf-8") for path in config_folder().rglob("*.yaml")]
    return sorted({target for text in texts for target in re.findall(r"_target_: *([\w.]+)", text)})


# A callback is Hydra's to make, and no part of a verb's work.
@pytest.mark.parametrize(
    "target",
    [each for each in targets() if each.split(".")[0] in OWN_PACKAGES and each != "usdm.cli.sweep.Jobs"],
)
def test_the_source_of_a_target_tells_what_the_imported_target_does(target: str) -> None:
    read, imported = read_arguments(target), inspect_arguments(get_object(target))
    assert read is not None
    assert list(read.hints) == list(imported.hints) and read.anything == imported.anything
    for name, hint in read.hints.items():
        if imported.hints[name] is Any:  # or one that only type checkers know
            continue
        for value in (None, True, 2, 0.5, "text", [1], "ones", "int8", "normal", "multi_step"):
            assert fits(value, hint) == fits(value, imported.hints[name]), (name, value)


def test_what_the_source_does_not_tell_is_imported() -> None:
    assert read_arguments("transformers.MistralConfig") is None
    assert read_arguments("usdm.no_such_module.Part") is None
    assert read_arguments("usdm.cli.main.hydra_command_line") is None  # behind a decorator
    assert read_arguments("usdm.units.log_mel.LogMelConfig") is None  # extends a class of another package


@pytest.mark.parametrize("verb", sorted(SCHEMAS))
def test_every_interpolation_resolves(verb: str) -> None:
    OmegaConf.to_container(without_hydra(composed(verb)), resolve=True, throw_on_missing=False)


@pytest.mark.parametrize("verb", sorted(SCHEMAS))
def test_a_stage_has_the_settings_that_its_function_takes(verb: str) -> None:
    run = importlib.import_module(f"usdm.cli.{verb}").run
    function = fit_kmeans if verb == "fit_kmeans" else run.function if isinstance(run, Stage) else None
    if function is not None:
        fields = {field.name for field in dataclasses.fields(SCHEMAS[verb])} - set(OUTSIDE)
        assert fields == set(inspect.signature(function).parameters)


def test_the_loop_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"loop\.ema_decay: .*LanguageModelSettings has no such argument"):
        check_config(without_hydra(composed("train_decoder", "loop=language_model")))


def test_the_embedded_model_s_experiment_speaks_to_every_stage() -> None:
    written = OmegaConf.load(config_folder() / "experiment" / "tiny.yaml")
    assert set(STAGES) - set(written) == WITHOUT_SECTION
    assert not set(STAGES) & set(composed("pretrain"))  # no verb sees another's section, nor its own under its name


class Part:
    def __init__(self, size: int, share: float | None = None, name: str = "") -> None: ...


def part(**arguments: object) -> DictConfig:
    return OmegaConf.create({"part": {"_target_": f"{__name__}.Part", **arguments}})


def test_the_check_sees_what_does_not_fit() -> None:
    check_config(part(size=3, share=1, name="x"))
    with pytest.raises(InputError, match=r"part\.sise.*no such argument, only size, share, name"):
        check_config(part(sise=3))
    with pytest.raises(InputError, match=r"part\.size='many'.*takes int"):
        check_config(part(size="many"))
    assert problems(part(size=3, share=None)) == [f"part.name: an argument of {__name__}.Part that is not listed"]


def test_all_missing_values_are_told_at_once() -> None:
    config = OmegaConf.create({"a": "???", "b": {"c": "???", "d": 1, "e": "${a}"}})
    with pytest.raises(InputError, match=r"a, b\.c.*a=\.\.\. b\.c=\.\.\."):
        check_config(config)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, True),
        (True, int, False),
        (1.5, int, False),
        ("a", int, False),
        (None, int, False),
        (None, int | None, True),
        ("2", int | None, False),
        ("greedy", Path | None, True),
        (["greedy"], str | Path, False),
    ],
)
def test_values_are_held_against_annotations(value: object, hint: object, expected: bool) -> None:
    assert fits(value, hint) is expected


def test_an_experiment_chooses_every_stage_s_settings_and_a_part_can_still_be_swapped() -> None:
    config = composed("train_vocoder", "experiment=tiny", "vocoder=vocos_small", "vocoder.dim=64")
    assert config.task.settings.dim == 64
    assert config.task.settings.mel.num_mels == config.shared.mel.num_mels == 80
    config = composed("pretrain", "llm=mistral_7b", "llm.folder=mistral", "interleave=fixed")
    assert (config.llm.tokenizer, config.llm.model.folder, config.interleave.pattern) == ("mistral", "mistral", "fixed")
    config = composed("train_decoder", "decoder=voicebox", "shared.num_units=60")
    assert (config.task.config.hidden_size, config.task.config.n_tokens) == (1024, 60)


def readme_commands() -> list[list[str]]:
    """Verb and settings of every `usdm` line in the code blocks of the README and of docs/; of a sweep, its first run.
    Commands with a folder of the user's own are in `test_experiments.py`, sweepers in `test_sweep.py`."""
    root = Path(__file__).resolve().parents[1]
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in joined_lines(block)]
    commands = [line[1:] for line in lines if line[:1] == ["usdm"] and "--config-dir" not in line]
    plain = [
        tuple(first_run(word) for word in line if not word.startswith(("-m", "hydra/sweeper"))) for line in commands
    ]
    return [list(line) for line in dict.fromkeys(plain)]


def joined_lines(block: str) -> list[str]:
    """The lines of a shell block, those that end in a backslash with what follows them."""
    return block.replace("\\\n", " ").splitlines()


def first_run(word: str) -> str:
    """Of a sweep's values the first."""
    if "[" in word or "{" in word:
        return word
    return re.sub(r"range\((\d+),.*\)", r"\1", word).split(",")[0]


@pytest.mark.parametrize("command", readme_commands(), ids=" ".join)
def test_the_documents_commands_compose(command: list[str]) -> None:
    verb, *rest = command
    overrides = folders_as_override(rest) if verb in TAKE_FOLDERS else rest
    check_config(without_hydra(composed(verb, *overrides)))


def test_the_documents_name_every_verb() -> None:
    assert {command[0] for command in readme_commands()} == set(SCHEMAS)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loop.rows=2", "write loop.batch_size=2"),
        ("+splices.share=0.5", r"write \+splice_augmentation.share=0.5"),
        ("task.initial=folder", "write task.init_from=folder"),
    ],
)
def test_an_old_name_is_told_the_new_one(override: str, told: str) -> None:
    check_renamed(["steps=2", "loop.rows_of_mine=1"])
    with pytest.raises(InputError, match=told):
        check_renamed(["steps=2", override])


def test_no_old_name_is_a_setting_still() -> None:
    for verb in SCHEMAS:
        config = OmegaConf.to_container(without_hydra(composed(verb)), resolve=False)
        for old in RENAMED:
            inner = config
            for key in old.split("."):
                inner = inner.get(key) if isinstance(inner, dict) else None
            assert inner is None, (verb, old)
