"""What a run leaves behind: identities, claimed folders, lines, and shards of inputs that grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kills import die, killed

from usdm.runs import (
    JsonLines,
    RowsById,
    Shards,
    claim,
    content_digest,
    identity,
    in_processes,
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


def test_what_a_killed_run_was_publishing_is_deleted_beside_its_folder_too(tmp_path: Path) -> None:
    inside, beside = tmp_path / "shards", tmp_path / "manifest.jsonl"

    def work() -> None:
        with claim(inside, {}, {}, results=["*.txt"], beside=[beside.name]), publishing(beside) as part:
            part.write_text("half")
            with publishing(inside / "a.txt") as shard:
                shard.write_text("half")
                die()

    beside.write_text("the user's")
    killed(work)
    assert len([*tmp_path.rglob("*.part")]) == 2
    with claim(inside, {"seed": 1}, {}, results=["*.txt"], beside=[beside.name], overwrite=True):
        assert not [*tmp_path.rglob("*.part")] and beside.read_text() == "the user's"


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
        job = tmp_path / name / "sweep" / f"seed-{hours}" / "model.safetensors"  # a run of its own
        job.parent.mkdir(parents=True)
        job.write_bytes(name.encode())
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"Weights")
    assert content_digest(tmp_path / "a") != content_digest(tmp_path / "b")


def test_a_large_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "REMEMBERED", tmp_path / "cache/digests.jsonl")
    monkeypatch.setattr(identity, "LARGE", 4)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"12345678")
    first = content_digest(weights)
    identity._remembered.cache_clear()  # as another process
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
    for task in shards.share([corpus], size, **options).tasks:
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
    mine, other = (shards.outcome(shards.share([corpus], 2, job=job, num_jobs=2)) for job in (1, 0))
    assert [(row.id, row.message) for row in mine.failed] == [("x", "x: bad")] and not other.failed
    assert work(folder, corpus, job=0, num_jobs=2, retry_failed=True) == []  # the row is not this job's
    assert work(folder, corpus, retry_failed=True) == ["x"]  # c is not done again
    assert sorted(found(folder)) == ["AAA", "BBB", "CCC"] and shards.outcome(shards.share([corpus], 2)).failed


def test_what_other_jobs_have_still_to_do_is_counted(tmp_path: Path) -> None:
    corpus, shards = write_corpus(tmp_path / "corpus.jsonl", "abcde"), Shards(tmp_path / "shards", ".txt")
    share = shards.share([corpus], 2, job=0, num_jobs=2)
    work(shards.folder, corpus, job=0, num_jobs=2)
    assert shards.outcome(share).missing == 2
    work(shards.folder, corpus, job=1, num_jobs=2)
    assert shards.outcome(share).missing == 0


def test_rows_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus.jsonl", "abcb"), tmp_path / "shards"
    with pytest.raises(InputError, match="1 rows are there a second time: b; take the copies out"):
        work(folder, corpus)
    write_corpus(corpus, "abcd")
    pairs, triples = (Shards(folder, ".txt").share([corpus], size).tasks for size in (2, 3))  # two runs at once
    for task in (*pairs, *triples):
        with Shards(folder, ".txt").making(task) as (path, _):
            path.write_text("".join(json.loads(line)["text"].upper() + "\n" for _, line in task.rows))
    with pytest.raises(InputError, match="holds 2 rows that another shard holds too: a, b; .*overwrite=true"):
        work(folder, corpus)
    work(folder, corpus, overwrite=True)
    assert sorted(found(folder)) == ["AAA", "BBB", "CCC", "DDD"]


def test_an_input_that_changes_under_the_work_is_noticed(tmp_path: Path) -> None:
    corpus, shards = write_corpus(tmp_path / "corpus.jsonl", "ab"), Shards(tmp_path / "shards", ".txt")
    (task,) = shards.share([corpus], 2).tasks
    with pytest.raises(InputError, match="was changed while"), shards.making(task) as (path, _):
        path.write_text("AAA\nBBB\n")
        write_corpus(corpus, "ba")
    assert shards.done() == [] and found(shards.folder) == []


def text_alone(line: bytes) -> bytes | None:
    text = json.loads(line)["text"]
    return None if text is None else str(text).encode()


def test_a_key_says_what_counts_and_whether_there_is_anything_to_do(tmp_path: Path) -> None:
    corpus, shards = write_corpus(tmp_path / "corpus.jsonl", "abc"), Shards(tmp_path / "shards", ".txt", text_alone)
    corpus.write_text(corpus.read_text().replace('"bbb"', "null"))

    def work() -> list[str]:
        tasks = shards.share([corpus], 5).tasks
        for task in tasks:
            with shards.making(task) as (path, _):
                path.touch()
        return [json.loads(line)["id"] for task in tasks for _, line in task.rows]

    assert work() == ["a", "c"]
    corpus.write_text(corpus.read_text().replace("null", '"bbb"').replace("{", '{"words": [], '))
    assert work() == ["b"]


def test_a_killed_run_that_goes_on_leaves_the_same_files(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", "abcdefg")
    work(tmp_path / "whole", corpus)

    def work_and_die() -> None:
        shards = Shards(tmp_path / "cut", ".txt")
        for number, task in enumerate(shards.share([corpus], 2).tasks):
            with shards.making(task) as (path, _):
                path.write_text("".join(json.loads(line)["text"].upper() + "\n" for _, line in task.rows))
                if number == 1:
                    die()

    killed(work_and_die)
    assert work(tmp_path / "cut", corpus) == ["c", "d", "e", "f", "g"]
    whole, cut = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".part"}
        for folder in (tmp_path / "whole", tmp_path / "cut")
    )
    assert whole == cut


class Doubles:
    """A worker that says in which process it is."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, task: int) -> tuple[int, int]:
        if task == -2:
            os._exit(9)
        if task == -3:
            time.sleep(60)
        return self.number, 2 * task


def test_tasks_are_done_in_several_processes() -> None:
    assert list(in_processes(Doubles, [1, 2, 3], 1)) == [(0, 2), (0, 4), (0, 6)]
    done = []
    with pytest.raises(ChildProcessError, match="one of 2 processes was killed"):
        for number, result in in_processes(Doubles, [*range(20), -2], 2):
            assert number in (0, 1)
            done.append(result)
    assert len(set(done)) == len(done) and set(done) <= set(range(0, 40, 2))


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
if __name__ == "__main__":
    from test_runs import Doubles
    from usdm.runs import in_processes
    for _ in in_processes(Doubles, [1, -3, -3], 2):
        print("at work", flush=True)
"""


def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    arguments = [sys.executable, str(tmp_path / "parent.py"), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": str(Path(identity.__file__).parents[2])}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"at work\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) >= 2
        parent.kill()
        assert parent.stdout.read() == b""  # once nobody holds the pipe's other end any more


def test_rows_are_found_by_their_id(tmp_path: Path) -> None:
    first, second = write_corpus(tmp_path / "a.jsonl", "abc"), write_corpus(tmp_path / "b.jsonl", "xyz")
    rows = RowsById([first, second])
    assert len(rows) == 6
    assert [rows.get(name) for name in "zb?"] == [{"id": "z", "text": "zzz"}, {"id": "b", "text": "bbb"}, None]


def test_what_a_run_itself_wrote_into_its_input_is_no_change(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", "ab")
    for _ in range(2):
        with claim(tmp_path / "run", {}, {"corpus": corpus}, results=(), grows=("corpus",)) as claimed:
            was_done = claimed.record.done
            write_corpus(corpus, "abc")
            claimed.finish(rewritten=["corpus"])
    assert was_done
