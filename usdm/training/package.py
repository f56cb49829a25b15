"""`package_model`: finished parts of a recipe -> one folder that the pipeline loads, with model cards."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import soundfile
import torch
from safetensors.torch import save_file

from usdm.chain import GenerationSettings
from usdm.chain.rejection import REJECTION_FOLDER, Rejection
from usdm.chain.voices import VOICES_FOLDER
from usdm.checkpoint import make_readable, read_object, read_tensors
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.runs import Places, publishing, record
from usdm.training.model_cards import bundle_card, part_card, training_record
from usdm.turns import HEAD_FOLDER
from usdm.types import InputError, Waveform

logger = logging.getLogger(__name__)

PARTS = ("units", "llm", "decoder", "vocoder")
RECORD_FOLDER = "record"  # how the model came about
VOICE_SECONDS = (1.5, 2.5)  # long enough to hear a voice, short enough to be read with every reply


@dataclass(frozen=True)
class PackagedModel:
    """What was written."""

    folder: Path
    parameters: Mapping[str, int]  # by part
    bytes: int


def package_model(
    output_dir: str,
    *,
    parts: Mapping[str, str],
    runs: Mapping[str, str],
    facts: Mapping[str, str],
    license_id: str,
    generation: GenerationSettings,
    voices: Mapping[str, str | None] | None = None,
    voices_corpus: str | None = None,
    turn_head: str | None = None,
    rejection: str | None = None,
    scorecard: str | None = None,
    tables: Sequence[str] = (),
    languages: Sequence[str] = ("en",),
) -> PackagedModel:
    """Copy four model folders into `output_dir/{units,llm,decoder,vocoder}` with float weights in half precision.

    `run.json` says for `usdm status` from which folders of this machine; it is no part of what is handed on.

    Args:
        parts: folder of each of `PARTS`.
        runs: training runs by name, each a folder with `training.json`; their figures go into `record/README.md`, and
            `curves.png` from there or from the folder above into `record/NAME.png`.
        facts: text by heading: `Data`, `Licence` and `Limits` go into the bundle's card, any other into the record.
        license_id: SPDX identifier of the licence that the data asks for, such as `cc-by-sa-4.0`.
        generation: how the model wants to be used; `generation.json` beside the parts.
        voices: names of voices to choose from, and the speakers of `voices_corpus` that they are; a dev recording of
            each goes into `voices/NAME.flac`. A name with None is no voice: an experiment takes away what it inherits.
        turn_head: folder of a head that knows when a turn is over; it goes into `turn_head/` as it is.
        rejection: folder that says when a turn is outside the domain, fitted to the packaged language model, whose
            weights are halved; it goes into `rejection/` as it is.
        scorecard: `scorecard.json` of `usdm evaluate`: a few figures for the card, all for the record.
        tables: Markdown files that go into the record as they are.
        languages: that it speaks, ISO 639-1 codes, for the cards.

    Raises:
        InputError: a part, a run or a speaker is missing, `rejection` was fitted to another language model, or
            `output_dir` holds something else than a packaged model, which is replaced; nothing is written then.
    """
    folder = Path(output_dir)
    _check(parts, runs, turn_head, rejection, scorecard, tables)
    _check_place(folder)
    speakers = {name: speaker for name, speaker in (voices or {}).items() if speaker is not None}
    recordings = _voices(speakers, voices_corpus)
    records = {name: read_object(Path(run) / "training.json", "train it again") for name, run in runs.items()}
    scores = read_object(Path(scorecard), "evaluate the model again") if scorecard else None
    if scores is not None and "items" not in scores:
        raise InputError(f"{scorecard}: not a scorecard, for it has no `items`; evaluate the model again")
    written = [_text(Path(table)) for table in tables]
    with publishing(folder, folder=True) as part:
        parameters = {name: _copy_half(Path(parts[name]), part / name) for name in PARTS}
        for name in PARTS:
            (part / name / "README.md").write_text(part_card(name, parameters[name], license_id, languages))
        if turn_head is not None:
            shutil.copytree(turn_head, part / HEAD_FOLDER)
            make_readable(part / HEAD_FOLDER)
        if rejection is not None:
            Rejection.load(rejection, part / "llm")
            shutil.copytree(rejection, part / REJECTION_FOLDER)
            make_readable(part / REJECTION_FOLDER)
        generation.save(part)
        for name, recording in recordings.items():
            path = part / VOICES_FOLDER / f"{name}.flac"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, recording.samples.numpy(), recording.sample_rate, subtype="PCM_16")
        size = sum(path.stat().st_size for path in part.rglob("*.safetensors"))
        (part / "README.md").write_text(bundle_card(parameters, size, facts, license_id, scores, languages))
        pictures = _curves(runs, part / RECORD_FOLDER)
        page = training_record(records, facts, scores, written, pictures)
        (part / RECORD_FOLDER / "README.md").write_text(page)
        settings = {
            "facts": dict(facts),
            "license_id": license_id,
            "languages": list(languages),
            "generation": asdict(generation),
            "voices": speakers,
        }
        inputs: dict[str, Places] = {f"parts.{name}": parts[name] for name in PARTS}
        inputs |= {f"runs.{name}": Path(run) / "training.json" for name, run in runs.items()}
        inputs |= {"scorecard": scorecard, "tables": list(tables), "voices_corpus": voices_corpus if speakers else None}
        record(part, settings, inputs, {"bytes": size})
    logger.info("%s: %.1f MB of weights", folder, size / 1e6)
    return PackagedModel(folder, parameters, size)


def _check_place(folder: Path) -> None:
    """Raises InputError if the folder that will be replaced is no packaged model."""
    if folder.is_dir() and any(folder.iterdir()) and not all((folder / part).is_dir() for part in PARTS):
        raise InputError(f"output_dir={folder} holds no packaged model but something else: give another folder")


def _voices(voices: Mapping[str, str], corpus: str | None) -> dict[str, Waveform]:
    """The first dev recording of each speaker that has a good length for a reference."""
    if not voices:
        return {}
    if corpus is None:
        raise InputError(f"voices={dict(voices)}: give voices_corpus, the speech corpus with these speakers")
    first: dict[str, Utterance] = {}  # by speaker
    for spoken in read_speech_corpora([corpus], "dev"):
        if VOICE_SECONDS[0] < spoken.duration < VOICE_SECONDS[1]:
            first.setdefault(spoken.speaker, spoken)
    found = {}
    for name, speaker in voices.items():
        if speaker not in first:
            raise InputError(
                f"{corpus}: speaker {speaker} has no dev recording of {VOICE_SECONDS[0]} to {VOICE_SECONDS[1]} seconds"
            )
        found[name] = first[speaker].read()
    return found


def _curves(runs: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Copies each run's curves; their places by run, as the record names them."""
    folder.mkdir()
    found = {}
    for name, run in runs.items():
        for place in (Path(run), Path(run).parent):
            if (place / "curves.png").is_file():
                shutil.copyfile(place / "curves.png", folder / f"{name}.png")
                found[name] = f"{name}.png"
                break
    return found


def _check(
    parts: Mapping[str, str],
    runs: Mapping[str, str],
    turn_head: str | None,
    rejection: str | None,
    scorecard: str | None,
    tables: Sequence[str],
) -> None:
    missing = [f"parts.{name}" for name in PARTS if name not in parts]
    missing += [f"parts.{name}={path}" for name, path in parts.items() if not (Path(path) / "config.json").is_file()]
    missing += [f"runs.{name}={run}" for name, run in runs.items() if not (Path(run) / "training.json").is_file()]
    for name, given in (("turn_head", turn_head), ("rejection", rejection)):
        if given and not (Path(given) / "config.json").is_file():
            missing.append(f"{name}={given}")
    if scorecard and not Path(scorecard).is_file():
        missing.append(f"scorecard={scorecard}")
    missing += [f"tables: {table}" for table in tables if not Path(table).is_file()]
    if missing:
        raise InputError(f"Missing: {', '.join(missing)}. Train these first, or name the folders where they lie.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no UTF-8 text ({error}); give a Markdown file") from error


def _copy_half(source: Path, target: Path) -> int:
    """Copy a hub-style folder; encoder, model and decoder weights become float16. Returns the number of parameters."""
    target.mkdir(parents=True)
    parameters = 0
    for path in sorted(source.iterdir()):
        if path.name != "model.safetensors":
            if not path.is_file() or path.name in ("README.md", "training_args.bin"):
                continue
            shutil.copy2(path, target / path.name)  # centroids stay as they are: their hash names the units
            continue
        state = read_tensors(path)
        parameters += sum(value.numel() for value in state.values())
        halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        save_file(halves, target / path.name, metadata={"format": "pt"})
    make_readable(target)
    config = target / "config.json"
    values = read_object(config, "train or download the part again")
    if "dtype" in values or "torch_dtype" in values:  # transformers loads what this says
        values.pop("torch_dtype", None)
        values["dtype"] = str(torch.float16).removeprefix("torch.")
        config.write_text(json.dumps(values, indent=2) + "\n")
    return parameters
