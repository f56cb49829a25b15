"""What a run leaves behind: identities, claimed folders, lines, and shards of inputs that grow."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from usdm.runs import (
    JsonLines,
    Shards,
    claim,
    content_digest,
    identity,
    is_running,
    publishing,
    read_lines,
    read_run,
    write_text,
)
from usdm.types import InputError

RESULTS = ("model", "*.bin")


def run(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Any] | None = None, **options: Any) -> None:
    """A run that writes its settings as its result."""
    with claim(folder, settings, inputs or {}, results=RESULTS, **options) as claimed:
        (folder / "weights.bin").write_text(json.dumps(settings))
        claimed.finish({"loss": 1.5})


def test_the_same_identity_goes_on_and_says_what_came_of_it(tmp_path: Path) -> None:
    run(tmp_path, {"task": {"batch_size": 1}, "log_every": 5}, free=("log_every",))
    run(tmp_path, {"task": {"batch_size": 1}, "log_every": 7}, free=("log_every",))
    record = read_run(tmp_path)
    assert record is not None and record.done and record.figures == {"loss": 1.5}
    assert record.settings == {"task.batch_size": 1}


def test_another_setting_or_input_is_refused_and_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("one")
    b.write_text("two")
    run(tmp_path / "run", {"task": {"batch_size": 1}}, {"corpus": a})
    with pytest.raises(InputError, match=r"task\.batch_size: 1 then, 3 now\n.*overwrite=true"):
        run(tmp_path / "run", {"task": {"batch_size": 3}}, {"corpus": a})
    with pytest.raises(InputError, match=r"corpus: .*a\.txt .* then, .*b\.txt .* now"):
        run(tmp_path / "run", {"task": {"batch_size": 1}}, {"corpus": b})
    a.rename(tmp_path / "elsewhere.txt")  # the same content in another place is the same input
    run(tmp_path / "run", {"task": {"batch_size": 1}}, {"corpus": tmp_path / "elsewhere.txt"})


def test_overwrite_deletes_the_results_of_another_identity_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path, {"seed": 0})
    (tmp_path / "model").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with claim(tmp_path, {"seed": 1}, {}, results=RESULTS, overwrite=True):
        assert not (tmp_path / "model").exists() and not (tmp_path / "weights.bin").exists()
        assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "weights.bin").touch()
    with claim(tmp_path, {"seed": 1}, {}, results=RESULTS, overwrite=True):
        assert (tmp_path / "weights.bin").exists()  # the same identity goes on


def test_results_without_an_identity_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("of unknown origin")
    with pytest.raises(InputError, match="do not say what they were made from"):
        run(tmp_path, {"seed": 0})
    run(tmp_path, {"seed": 0}, overwrite=True)


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such file"):
        run(tmp_path / "run", {}, {"corpus": tmp_path / "absent"})


HOLD = """
import sys
from usdm.runs import claim
with claim(sys.argv[1], {"seed": 0}, {}, results=(), shared=sys.argv[2] == "shared"):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("theirs", "ours", "comes_in"), [("alone", False, False), ("shared", True, True)])
def test_two_runs_in_one_folder(tmp_path: Path, theirs: str, ours: bool, comes_in: bool) -> None:
    arguments = [sys.executable, "-c", HOLD, str(tmp_path), theirs]
    environment = os.environ | {"PYTHONPATH": str(Path(identity.__file__).parents[2])}
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout is not None and other.stdout.readline() == b"in\n"
        assert is_running(tmp_path)
        if comes_in:
            with claim(tmp_path, {"seed": 0}, {}, results=(), shared=ours):
                pass
            with pytest.raises(InputError, match="seed: 0 then, 1 now"):
                run(tmp_path, {"seed": 1}, shared=ours)
        else:
            with pytest.raises(InputError, match="another run is at work"):
                run(tmp_path, {"seed": 0}, shared=ours)
        other.kill()
    assert not is_running(tmp_path)


def test_a_model_is_its_files_without_the_account_of_its_training(tmp_path: Path) -> None:
    for name, hours in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "training.json").write_text(json.dumps({"hours": hours}))
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"Weights")
    assert content_digest(tmp_path / "a") != content_digest(tmp_path / "b")


def test_a_large_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "REMEMBERED", tmp_path / "cache/digests.jsonl")
    monkeypatch.setattr(identity, "LARGE", 4)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"12345678")
    first = content_digest(weights)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "_sha256", lambda path: pytest.fail("it was read again"))
        assert content_digest(weights) == first
    facts = weights.stat()
    weights.write_bytes(b"12345679")
    os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as copying tools do
    assert content_digest(weights) != first


def test_a_file_of_the_hub_s_cache_is_named_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "0" * 63 + "a"
    blob = tmp_path / "blobs" / name
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(blob)
    assert content_digest(link) == name[: identity.LENGTH]


def test_what_is_published_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with publishing(path, folder=True) as part:
        (part / "weights").write_text("old")
    with pytest.raises(RuntimeError), publishing(path, folder=True) as part:
        (part / "weights").write_text("half")
        raise RuntimeError
    assert (path / "weights").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["model"]
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as lines:
        lines.append({"step": 1}, {"step": 2})
    with path.open("a") as file:
        file.write('{"step": 3')
    with JsonLines(path) as lines:
        lines.keep(lambda row: row["step"] != 1)
        lines.append({"step": 3})
        with pytest.raises(InputError, match="another run is writing"):
            JsonLines(path)
    assert [row["step"] for row in read_lines(path)] == [2, 3]
    path.write_text("no json\n")
    with pytest.raises(InputError, match=r"lines\.jsonl, line 1: no JSON"):
        list(read_lines(path))


def write_corpus(path: Path, names: str) -> Path:
    path.write_text("".join(json.dumps({"id": name, "text": name * 3}) + "\n" for name in names))
    return path


def work(folder: Path, corpus: Path, *, size: int = 2, **options: Any) -> list[str]:
    """Writes the upper-case text of the rows that no shard has; what it did."""
    shards, did = Shards(folder, ".txt"), []
    for task in shards.tasks([corpus], size, **options):
        with shards.making(task) as (path, failed):
            texts = [json.loads(line) for _, line in task.rows]
            failed.update({row["id"]: f"{row['id']}: bad" for row in texts if row["id"] == "x"})
            path.write_text("".join(row["text"].upper() + "\n" for row in texts if row["id"] != "x"))
            did += [row["id"] for row in texts]
    return did


def found(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("*.txt")) for line in path.read_text().splitlines()]


def test_a_grown_corpus_costs_its_new_rows_alone(tmp_path: Path) -> None:
    corpus, folder = tmp_path / "corpus.jsonl", tmp_path / "shards"
    assert work(folder, write_corpus(corpus, "abc")) == ["a", "b", "c"]
    assert work(folder, corpus) == []
    assert work(folder, write_corpus(corpus, "zabcdef")) == ["z", "d", "e", "f"]  # also where rows came before
    assert sorted(found(folder)) == [letter.upper() * 3 for letter in "abcdefz"]


def test_jobs_share_the_rows_and_none_is_lost_when_their_number_changes(tmp_path: Path) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus.jsonl", "abcdefghij"), tmp_path / "shards"
    first = work(folder, corpus, job=1, num_jobs=3)
    second = work(folder, corpus, job=0, num_jobs=3)
    rest = work(folder, corpus, job=1, num_jobs=2) + work(folder, corpus, job=0, num_jobs=2)
    assert sorted(first + second + rest) == list("abcdefghij")
    assert sorted(found(folder)) == [letter.upper() * 3 for letter in "abcdefghij"]
    with pytest.raises(InputError, match="job=3 of num_jobs=3"):
        work(folder, corpus, job=3, num_jobs=3)


def test_changed_rows_are_refused_or_made_again(tmp_path: Path) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus.jsonl", "abcd"), tmp_path / "shards"
    work(folder, corpus)
    corpus.write_text(corpus.read_text().replace("aaa", "AAB"))
    with pytest.raises(InputError, match="holds 1 rows that are not in the input any more, or are others now: a;"):
        work(folder, corpus)
    assert work(folder, corpus, overwrite=True) == ["a", "b"]
    assert found(folder) == ["AAB", "BBB", "CCC", "DDD"]


def test_rows_that_failed_are_known_and_can_be_tried_again(tmp_path: Path) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus.jsonl", "abxc"), tmp_path / "shards"
    work(folder, corpus)
    assert work(folder, corpus) == []
    shards = Shards(folder, ".txt")
    assert [message for shard in shards.done() for message in shard.failed] == ["x: bad"]
    assert shards.forget_failed() == 1
    assert work(folder, corpus) == ["x", "c"]


def killed(folder: Path, corpus: Path, at: int) -> None:
    """A process that ends, without a word, in the middle of its shard number `at`."""
    shards = Shards(folder, ".txt")
    for number, task in enumerate(shards.tasks([corpus], 2)):
        with shards.making(task) as (path, _):
            path.write_text("".join(json.loads(line)["text"].upper() + "\n" for _, line in task.rows))
            if number == at:
                os._exit(9)


def test_a_killed_run_that_goes_on_leaves_the_same_files(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", "abcdefg")
    work(tmp_path / "whole", corpus)
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(tmp_path / "cut", corpus, 1))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert work(tmp_path / "cut", corpus) == ["c", "d", "e", "f", "g"]
    whole, cut = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".part"}
        for folder in (tmp_path / "whole", tmp_path / "cut")
    )
    assert whole == cut
