"""Stages that are killed with SIGKILL at drawn moments, started again, and held against runs that nobody disturbed.

    python tests/torture.py --kills 20 --seed 0      # what `make torture` does: a table, exit status 1 if any differs
    python tests/torture.py --kills 2 --quick        # what the ordinary tests do: fewer steps, no pictures drawn

Every run is a fork of this process, which has imported everything but computed nothing, so a kill costs the run's own
time and not that of imports. A run that is killed is started again in the same folder, with the same command, until it
ends; then its folder must hold what the undisturbed run's holds, byte for byte but for times.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from tiny_models import build_random_bundle, llama_tokenizer  # noqa: E402

from usdm.cli.main import main  # noqa: E402
from usdm.system_packages import system_packages  # noqa: E402

UNITS = 20  # of the random extractor
TEXT = "could you tell me the way to the station please"
LOOP = ["loop.warmup_steps=1", "loop.log_every=1", "loop.threads=1"]
SHARED = [f"shared.num_units={UNITS}", "shared.unit_rate=25", "shared.folder=shared"]
TIMES = ("seconds", "tokens_per_second", "timings")  # keys of log lines
# Accounts, logs and checkpoints, which hold times; what they say is in the model and in the loss curve.
LEFT_OUT = {"run.json", "run.lock", "training.json", "versions.json", "curves.png", "checkpoint.pt"}


@dataclass(frozen=True)
class Stage:
    """A verb, and the settings under which it is done in a second or two."""

    name: str
    command: Sequence[str]  # without output_dir
    packages: tuple[str, ...] = ()  # system packages that it wants
    quick: Sequence[str] = ()  # settings for --quick


# That verbs import late: before any fork, so that no run has to.
IMPORTED_LATE = ("accelerate", "matplotlib.pyplot", "pandas", "tensorboard")
FEWER_STEPS = ("loop.steps=8", "loop.save_every=2", "loop.validate_every=4")

STAGES = [
    Stage(
        "extraction",
        [
            *("extract_units", *SHARED, "corpora=[speech]", "extractor=bundle/units"),
            *("shard_utterances=3", "processes=1"),
        ],
    ),
    Stage(
        "alignment",
        [
            *("align", "corpus=speech", "aligner=textgrids", "aligner.folder=grids"),
            *("shard_utterances=2", "processes=1"),
        ],
    ),
    Stage(
        "speech synthesis",
        [
            *(
                "synthesize_corpus",
                "dialogs_file=dialogs.jsonl",
                "voices.user=[flite-kal16]",
                "voices.agents=[flite-kal16]",
            ),
            *("voices.held_out=[]", "voices.espeak_share=0", "processes=1"),
        ],
        ("flite",),
    ),
    Stage(
        "pretraining",
        [
            *("pretrain", *SHARED, *LOOP, "corpora=[unit_corpus]", "llm.tokenizer=tokenizer"),
            *("llm.model.hidden_size=32", "llm.model.intermediate_size=32", "loop.max_length=96", "loop.batch_size=1"),
            *("loop.steps=24", "loop.save_every=3", "loop.validate_every=12", "loop.validation_rows=2"),
            *("loop.report_to=[]", "segment_units=12"),
        ],
        quick=FEWER_STEPS,
    ),
    Stage(
        "decoder training",
        [
            *("train_decoder", *SHARED, *LOOP, "corpora=[speech]", "unit_corpus=unit_corpus"),
            *("decoder.hidden_size=32", "decoder.intermediate_size=32", "decoder.num_hidden_layers=2"),
            *("task.batch_size=2", "task.crop_seconds=0.4", "task.default_speaker=null", "task.regression_steps=4"),
            *("loop.steps=24", "loop.save_every=3", "loop.validate_every=12"),
        ],
        quick=FEWER_STEPS,
    ),
    Stage(
        "replies",
        [
            *("synthesize", "requests=questions.jsonl", "model.name=bundle", "device=cpu", "decoding.steps=8"),
            *("capacity=4", *(f"sampling.{stage}.max_new_tokens=12" for stage in ("transcribe", "respond", "speak"))),
        ],
    ),
]


@dataclass(frozen=True)
class Outcome:
    """A line of the table."""

    stage: str
    seconds: float  # of the undisturbed run
    kills: int
    starts: int
    compared: int  # folders that were killed and ended
    different: tuple[str, ...]  # files


def write_inputs(folder: Path) -> None:
    """Noise with words, dialogs, questions, and a random model: all that the stages read."""
    drawn = np.random.default_rng(0)
    (folder / "speech").mkdir()
    (folder / "grids").mkdir()
    rows = []
    for number in range(30):
        words = TEXT.split()[: 3 + number % 5]
        seconds = round(0.15 * len(words) + 0.2, 3)
        soundfile.write(folder / f"speech/{number}.wav", drawn.normal(0, 0.1, int(seconds * 16_000)), 16_000)
        times = [[word, round(0.1 + 0.15 * k, 3), round(0.25 + 0.15 * k, 3)] for k, word in enumerate(words)]
        split = "dev" if number // 2 % 5 == 4 else "train"
        row = {"id": f"u{number}", "audio": f"{number}.wav", "speaker": "s", "dialog": f"d{number // 2}"}
        row |= {
            "role": ("user", "agent")[number % 2],
            "turn": number % 2,
            "split": split,
            "text": " ".join(words),
            "duration": seconds,
            "sample_rate": 16_000,
        }
        rows.append(row | {"words": times})
        (folder / f"grids/u{number}.TextGrid").write_text(text_grid(times, seconds))
    (folder / "speech/manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dialogs = []
    for number in range(24):
        text = " ".join(TEXT.split()[: 4 + number % 6]) + "."
        turns = [{"role": role, "text": text} for role in ("user", "agent")]
        dialogs.append({"dialog": f"d{number}", "split": "train", "turns": turns})
    (folder / "dialogs.jsonl").write_text("".join(json.dumps(dialog) + "\n" for dialog in dialogs))
    kinds = ({"text": TEXT}, {"units": [1, 2, 3, 4]}, {"audio": "speech/3.wav"})
    questions = [{"id": f"q{number}", "seed": number} | kinds[number % 3] for number in range(24)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    build_random_bundle(folder / "bundle", UNITS)
    llama_tokenizer().save_pretrained(folder / "tokenizer")
    command = next(stage.command for stage in STAGES if stage.name == "extraction")
    assert main([*command, "output_dir=unit_corpus"]) == 0


def text_grid(times: Sequence[Sequence], seconds: float) -> str:
    """In Praat's short text format."""
    marks = "".join(f'{start}\n{end}\n"{word}"\n' for word, start, end in times)
    return (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        f'0\n{seconds}\n<exists>\n1\n"IntervalTier"\n"words"\n0\n{seconds}\n{len(times)}\n{marks}'
    )


def start(work: Callable[[], int | None], folder: Path) -> int:
    """A child that works in `folder`, in a process group of its own; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.setpgid(child, child)  # here, for it may be killed before it does anything
        return child
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        status = work() or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child: int, within: float | None = None) -> int | None:
    """The exit status; None if the child is still at work after `within` seconds."""
    until = None if within is None else time.monotonic() + within
    while True:
        found, status = os.waitpid(child, 0 if until is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() > until:
            return None
        time.sleep(0.002)


def torture(stage: Stage, folder: Path, kills: int, seed: int) -> Outcome:
    """Kill the stage `kills` times, in as many folders as that takes."""
    drawn = random.Random(f"{seed}/{stage.name}")

    def run(name: str) -> int:
        return start(lambda: main([*stage.command, f"output_dir={name}"]), folder)

    clock = time.monotonic()
    if (status := ended(run("whole"))) != 0:
        raise SystemExit(f"{stage.name}: exit status {status}: {(folder / 'log.txt').read_text()[-3000:]}")
    seconds, whole = time.monotonic() - clock, content(folder / "whole")
    done = starts = compared = 0
    different: set[str] = set()
    while done < kills:
        name, status = f"killed{compared}", None
        while status is None:
            starts += 1
            child = run(name)
            status = ended(child, drawn.uniform(0, seconds)) if done < kills else ended(child)
            if status is None:
                os.killpg(child, signal.SIGKILL)
                ended(child)
                done += 1
        if status != 0:
            raise SystemExit(f"{stage.name}: exit status {status}: {(folder / 'log.txt').read_text()[-3000:]}")
        found = content(folder / name)
        different |= {path for path in {*whole, *found} if whole.get(path) != found.get(path)}
        compared += 1
    return Outcome(stage.name, seconds, done, starts, compared, tuple(sorted(different)))


def content(folder: Path) -> dict[str, object]:
    """What a stage left, without times."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name in LEFT_OUT or path.suffix == ".log" or name.startswith((".hydra/", "checkpoint-")):
            continue
        if path.name in ("log.jsonl", "results.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            kept = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
            found[name] = sorted(kept, key=lambda row: str(row.get("id", ""))) if path.name == "results.jsonl" else kept
        else:
            found[name] = path.read_bytes()
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    lines = ["| stage | undisturbed | kills | starts | folders compared | files that differ |"]
    lines.append("|---|---|---|---|---|---|")
    for each in outcomes:
        differing = ", ".join(each.different) or "none"
        lines.append(
            f"| {each.stage} | {each.seconds:.1f} s | {each.kills} | {each.starts} | {each.compared} | {differing} |"
        )
    return "\n".join(lines)


def run_all(kills: int, seed: int, names: Sequence[str], quick: bool) -> int:
    for module in (*(f"usdm.cli.{stage.command[0]}" for stage in STAGES), *IMPORTED_LATE):
        importlib.import_module(module)
    gc.freeze()  # nor has any run to search what they left for garbage
    if quick:
        Figure.savefig = lambda self, path, **_: Path(path).write_bytes(b"")  # of figures that are compared as numbers
    outcomes = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if (status := ended(start(lambda: write_inputs(folder), folder))) != 0:
            raise SystemExit(f"the inputs: exit status {status}: {(folder / 'log.txt').read_text()[-3000:]}")
        for stage in STAGES:
            missing = [name for name in stage.packages if not system_packages()[name].is_there]
            if names and stage.name not in names:
                continue
            if missing:
                print(f"{stage.name}: left out for want of {', '.join(missing)}")
                continue
            work = folder / stage.name.replace(" ", "_")
            work.mkdir()
            for entry in list(folder.iterdir()):
                if entry.name in INPUTS:
                    (work / entry.name).symlink_to(entry)
            settings = stage.quick if quick else ()
            outcomes.append(torture(replace(stage, command=[*stage.command, *settings]), work, kills, seed))
    print(table(outcomes))
    return int(any(each.different for each in outcomes))


INPUTS = {"speech", "grids", "dialogs.jsonl", "questions.jsonl", "bundle", "tokenizer", "unit_corpus"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--stages", nargs="*", default=[], help="by name; all where none is given")
    parser.add_argument("--quick", action="store_true", help="fewer steps, and pictures stay empty")
    given = parser.parse_args()
    sys.exit(run_all(given.kills, given.seed, given.stages, given.quick))
