"""A recipe by one command: its stages in order, once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from usdm.cli.main import main
from usdm.config import config_folder, register_schemas, show_experiments
from usdm.config.experiments import STAGES

EXPERIMENT = """
defaults: [/mel@shared.mel: bigvgan_22khz]
shared: {folder: run, num_units: 12, unit_rate: 25, unit_layer: 0, encoder_sample_rate: 16000, encoder_padding: 0}
prepare_dialogs:
  vocabulary_size: 50
  max_user_words: 12
  max_agent_words: 14
  max_train_exchanges: 10
  max_copies: 2
  max_train_occurrences: 2
  small_talk_copies: 1
  noise_turns: 0
  unknown_words_turns: 0
  unknown_words_recordings: []
  dev_share: 0.0
prepare_sentences: {min_words: 2, max_words: 9, not_understood_share: 0.0, dev_share: 0.0}
make_model:
  texts: "[${data}/text.txt]"
  stages:
    - verb: prepare_dialogs
      settings: ["train_file=${data}/dialogs.jsonl", "held_out_file=${data}/dialogs.jsonl"]
      hours: 0.25
    - {verb: prepare_sentences, settings: ["text_files=${texts}", sentences=2], hours: 0.5}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and an experiment of two stages."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/two.yaml").write_text(EXPERIMENT)
    turns = [{"speaker": "user", "text": "a table please."}, {"speaker": "agent", "text": "for what time?"}]
    (tmp_path / "dialogs.jsonl").write_text(json.dumps({"dialog": "a", "services": ["b"], "turns": turns}) + "\n")
    return tmp_path


def make(*settings: str) -> int:
    return main(["make_model", "--config-dir", "conf", "experiment=two", "data=.", *settings])


@pytest.mark.slow
def test_what_failed_is_told_and_the_same_command_goes_on(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert make() == 1
    said = capfd.readouterr()
    assert "2 stages, about 0.8 hours" in said.out
    assert "text.txt" in said.err and "stage 2 ended with status 2" in said.err
    before = (recipe / "run/dialogs/dialogs.jsonl").read_bytes()
    (recipe / "text.txt").write_text("one sentence. another sentence. and a third one.")
    assert make("+settings.prepare_sentences=['sentences=3']") == 0
    assert len((recipe / "run/sentences/dialogs.jsonl").read_text().splitlines()) == 3
    assert (recipe / "run/dialogs/dialogs.jsonl").read_bytes() == before


def test_commands_are_shown_and_strange_ones_refused(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert make("show=true", "shared.folder=elsewhere", "shared.num_units=7") == 0
    first, second = re.findall("^usdm .*", capfd.readouterr().out, re.MULTILINE)
    assert "usdm prepare_dialogs --config-dir" in first
    assert " experiment=two shared.folder=elsewhere shared.num_units=7 train_file=" in first
    assert second.startswith("usdm prepare_sentences") and not (recipe / "elsewhere").exists()
    assert make("+settings.train_encoder=['loop.steps=1']") == 2
    assert make("data=null") == 2
    assert "no stage has this verb; choose among prepare_dialogs, prepare_sentences" in capfd.readouterr().err


def test_a_scorecard_wants_no_data_and_a_finished_model_no_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make_model", "experiment=scorecard", "show=true"]) == 0
    assert "\nusdm evaluate output_dir=runs/scorecard/model " in capsys.readouterr().out
    assert main(["make_model", "experiment=scorecard_data", "show=true"]) == 2


@pytest.mark.parametrize("recipe_name", ["people", "bilingual", "scorecard", "scorecard_data"])
def test_every_stage_of_a_recipe_composes(recipe_name: str) -> None:
    """With what `make_model` would give it."""
    folder = str(config_folder())
    register_schemas(["make_model"])
    show_experiments("make_model", [config_folder()])
    with initialize_config_dir(folder, version_base="1.3"):
        stages = compose("make_model", [f"experiment={recipe_name}", "data=data"]).stages
    for stage in stages:
        of_model = stage.verb in STAGES
        register_schemas([stage.verb])
        show_experiments(stage.verb, [config_folder()])
        with initialize_config_dir(folder, version_base="1.3"):
            alone = [re.sub(r"^(interleave=\w+),.*", r"\1", each) for each in stage.settings]  # one job of a sweep
            config = compose(stage.verb, [*([f"experiment={recipe_name}"] if of_model else []), *alone])
        assert not of_model or config.shared.name == recipe_name
