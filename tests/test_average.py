"""The mean of several runs' weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import as_readable_as_new_files

from usdm.cli.main import main
from usdm.training.average import average_models
from usdm.types import InputError


def write_model(folder: Path, value: float, *, size: int = 3, vocabulary: str = "{}") -> str:
    """Two files of weights, as big models have."""
    folder.mkdir()
    weights = {"a": torch.full((size,), value), "steps": torch.tensor(int(value))}
    save_file(weights, folder / "model-00001-of-00002.safetensors")
    save_file({"b": torch.full((2, 2), -value).half()}, folder / "model-00002-of-00002.safetensors")
    (folder / "vocabulary.json").write_text(vocabulary)
    (folder / "training.json").write_text(json.dumps({"steps": value}))
    (folder / "README.md").write_text("a card of its own")
    return str(folder)


def test_weights_are_the_mean_by_shares(tmp_path: Path) -> None:
    models = [write_model(tmp_path / name, value) for name, value in (("x", 1.0), ("y", 5.0))]
    average_models(models, [3.0, 1.0], str(tmp_path / "out"))
    made = tmp_path / "out/model"
    first, second = (load_file(path) for path in sorted(made.glob("*.safetensors")))
    assert first["a"].tolist() == [2.0] * 3 and first["steps"] == 1
    assert second["b"].dtype == torch.float16 and second["b"].tolist() == [[-2.0] * 2] * 2
    record = json.loads((made / "training.json").read_text())
    assert record == {"steps": 1.0, "average_of": {models[0]: 0.75, models[1]: 0.25}}
    assert (made / "vocabulary.json").read_text() == "{}"
    assert as_readable_as_new_files(made)
    assert not (made / "README.md").exists()  # its figures are another model's


def test_a_model_averaged_with_itself_answers_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    llm = Path(__file__).parents[1] / "usdm/models/tiny/llm"
    assert main(["average_models", f"models=[{llm},{llm}]", "shares=[3,7]", "output_dir=out"]) == 0
    before, after = load_file(llm / "model.safetensors"), load_file("out/model/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    for output, changes in (("a.json", []), ("b.json", ["model.llm=out/model"])):
        assert main(["respond", "text=hello there", "reply=text", f"trace={output}", *changes]) == 0
    said = [json.loads(Path(name).read_text())["agent_text"] for name in ("a.json", "b.json")]
    assert said[0] == said[1] != ""


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first = write_model(tmp_path / "first", 1.0)
    other_words = write_model(tmp_path / "words", 1.0, vocabulary='{"size": 2}')
    wider = write_model(tmp_path / "wider", 1.0, size=4)
    with pytest.raises(InputError, match=r"different vocabulary.json"):
        average_models([first, other_words], [1, 1], str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"differ in 1 weights, such as a: .*\[3\]\) against .*\[4\]\)"):
        average_models([first, wider], [1, 1], str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"no .safetensors there"):
        average_models([first, str(tmp_path)], [1, 1], str(tmp_path / "out"))
    for shares in ([1.0], [1.0, 0.0]):
        with pytest.raises(InputError, match="a positive share each"):
            average_models([first, first], shares, str(tmp_path / "out"))
    for folder, estimate in ((first, "velocity"), (wider, "data")):
        Path(folder, "config.json").write_text(json.dumps({"estimate": estimate, "transformers_version": folder}))
    with pytest.raises(InputError, match=r"different config.json, such as estimate: velocity against data"):
        average_models([first, wider], [1, 1], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
