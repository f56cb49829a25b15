"""Experiments and groups of the user's own, in a folder beside an installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from usdm.cli.main import main

OWN = ["--config-dir", "my_conf"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def write(path: str, text: str) -> None:
    Path("my_conf", path).parent.mkdir(parents=True, exist_ok=True)
    Path("my_conf", path).write_text(text)


def shown(capsys: pytest.CaptureFixture[str], verb: str, *arguments: str) -> DictConfig:
    """What the verb would run with."""
    assert main([verb, *OWN, "--cfg", "job", *arguments]) == 0
    config = OmegaConf.create(capsys.readouterr().out)
    assert isinstance(config, DictConfig)
    return config


def test_three_lines_in_one_file_are_an_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        "experiment/mine.yaml",
        "defaults: [tiny]\n"
        "shared: {num_units: 500}\n"
        "pretrain: {loop: {steps: 10}}\n"
        "train_decoder: {decoder: {hidden_size: 64}}\n",
    )
    pretrain = shown(capsys, "pretrain", "experiment=mine")
    assert (pretrain.shared.num_units, pretrain.shared.unit_rate) == (500, 25)
    assert (pretrain.loop.steps, pretrain.loop.warmup_steps) == (10, 100)  # the latter is tiny's
    assert pretrain.output_dir == "runs/mine/pretrain"  # not among tiny's results
    assert "decoder" not in pretrain
    finetune = shown(capsys, "finetune", "experiment=mine")
    assert (finetune.loop.steps, finetune.shared.num_units) == (8000, 500)  # what is for another verb is not for this
    decoder = shown(capsys, "train_decoder", "experiment=mine")
    assert (decoder.decoder.hidden_size, decoder.decoder.n_tokens) == (64, 500)
    assert shown(capsys, "pretrain", "experiment=mine", "loop.steps=3").loop.steps == 3  # the command line is last
    assert shown(capsys, "pretrain").loop.steps == 900


def test_an_experiment_goes_on_from_one_of_the_user_s_own_and_chooses_its_parts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("vocoder/wide.yaml", "defaults: [vocos_small]\ndim: 512\n")
    write("experiment/first.yaml", "defaults: [usdm]\nfinetune: {loop: {steps: 10}}\n")
    write(
        "experiment/team/v1.5.yaml",
        "defaults: [/experiment/tiny]\n"
        "shared: {folder: elsewhere}\n"
        "train_vocoder:\n"
        "  defaults: [override /vocoder: wide]\n"
        "  vocoder: {num_layers: 2}\n",
    )
    finetune = shown(capsys, "finetune", "experiment=first")
    assert (finetune.loop.steps, finetune.loop.sharding, finetune.history_turns) == (10, "fsdp2", 8)
    vocoder = shown(capsys, "train_vocoder", "experiment=team/v1.5")
    assert (vocoder.vocoder.dim, vocoder.vocoder.num_layers, vocoder.vocoder.intermediate_dim) == (512, 2, 768)
    assert (vocoder.shared.name, vocoder.output_dir) == ("team/v1.5", "elsewhere/vocoder")
    other = shown(capsys, "train_vocoder", "experiment=team/v1.5", "vocoder=vocos_small")
    assert (other.vocoder.dim, other.vocoder.num_layers) == (256, 2)


def test_a_part_of_the_user_s_own_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_parts.py").write_text(
        "from usdm.vocoder import VocosSettings\nclass Mine(VocosSettings):\n    mine = True\n"
    )
    write("vocoder/mine.yaml", "defaults: [vocos_small]\n_target_: my_parts.Mine\n")
    built = []
    monkeypatch.setattr("usdm.cli.train_vocoder.run", lambda config: built.append(instantiate(config.vocoder)))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != ""])  # as under the installed command
    assert main(["train_vocoder", *OWN, "vocoder=mine", "task.batch_size=2"]) == 0
    assert built[0].mine and built[0].dim == 256


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("experiment/bad.yaml", "defaults: [tiny]\npretrian: {seed: 1}\n", "Key 'pretrian' not in 'Pretrain'"),
        ("experiment/bad.yaml", "defaults: [tiny]\npretrain: {sed: 1}\n", "Key 'sed' not in 'Pretrain'"),
        ("experiment/bad.yaml", "defaults: [tiny]\nfinetune: 3\n", "finetune holds 3; give it keys of `usdm finetune`"),
        ("experiment/bad.yaml", "defaults: [tiny\n", "bad.yaml"),
        ("experiment/bad.yaml", "- tiny\n", "an experiment is a mapping"),
        ("experiment/tiny.yaml", "", "my_conf has experiment/tiny.yaml, as usdm itself has: give yours a name"),
        ("llm/tiny.yaml", "", "my_conf has llm/tiny.yaml, as usdm itself has"),
    ],
)
def test_what_is_wrong_with_the_user_s_files_is_told(
    path: str, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(path, text)
    assert main(["pretrain", *OWN, f"experiment={Path(path).stem}", "--cfg", "job"]) == 2
    printed = capsys.readouterr().err
    assert told in printed and "Traceback" not in printed
