"""Files that users give and that are damaged, empty or of another kind: every verb names the file and what to do, and
none takes it for a defect of its own."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hums import write_hums
from tiny_models import llama_tokenizer
from torture import LOOP, SHARED, UNITS, write_inputs
from transformers import MistralConfig, MistralForCausalLM

from usdm.chain import DecoderSampling, GenerationSettings
from usdm.cli.main import main
from usdm.types import Sampling

ROWS = (*LOOP, "loop.max_length=96", "loop.batch_size=1", "loop.steps=1", "loop.validation_rows=1", "loop.report_to=[]")
TINY_LLM = ("llm.tokenizer=tokenizer", "llm.model.hidden_size=32", "llm.model.intermediate_size=32")
PART = (*LOOP, "loop.steps=1", "task.batch_size=1", "loop.validate_every=1", "loop.save_every=1", "shared.unit_rate=25")
DECODER = ("decoder.hidden_size=32", "decoder.intermediate_size=32", "decoder.num_hidden_layers=2")
DECODER += ("task.crop_seconds=0.4", "task.default_speaker=null", f"shared.num_units={UNITS}", "shared.folder=shared")
VOCODER = ("vocoder.dim=8", "vocoder.intermediate_dim=8", "vocoder.num_layers=1", "task.crop_frames=16")
SPEECH = ("corpora=[speech]",)
SPOKEN = ("model.name=bundle", "output=out.wav")


def command(*words: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(each for word in words for each in ([word] if isinstance(word, str) else word))


COMMANDS = {
    "prepare_dialogs": command("prepare_dialogs", "train_file=sgd.jsonl", "held_out_file=sgd.jsonl"),
    "prepare_sentences": command(
        *("prepare_sentences", "text_files=[text.txt]", "dialogs_folder=dialogs", "sentences=2", "min_words=1")
    ),
    "synthesize_corpus": command(
        *("synthesize_corpus", "dialogs_file=few.jsonl", "voices.user=[flite-kal16]", "voices.agents=[kal16]"),
        *("voices.held_out=[]", "voices.espeak_share=0", "processes=1"),
    ),
    "make_held_out": command("make_held_out", "corpus=tested", "exchanges=1"),
    "import_recordings": command("import_recordings", "sources=[speech]"),
    "import_corpus": command("import_corpus", "source=jsonl", "source.file=speech/manifest.jsonl"),
    "transcribe": command("transcribe", "corpus=speech", "asr.name=bundle/llm"),
    "align": command(
        "align", "corpus=speech", "aligner=textgrids", "aligner.folder=grids", "processes=1", "max_failed_share=0.1"
    ),
    "align_ctc": command("align", "corpus=speech", "aligner.model=bundle/units", "processes=1"),
    "extract_units": command("extract_units", SHARED, SPEECH, "extractor=bundle/units", "processes=1"),
    "fit_kmeans": command(
        *("fit_kmeans", "shared.unit_layer=0", "shared.encoder_padding=0", "encoder_folder=bundle/units"),
        *(SHARED, SPEECH, "init_from=bundle/units"),
    ),
    "train_encoder": command("train_encoder", LOOP, SPEECH, "loop.steps=1", "task.repeats=null"),
    "train_tokenizer": command("train_tokenizer", SPEECH, "size=330"),
    "pretrain": command("pretrain", SHARED, ROWS, TINY_LLM, "corpora=[unit_corpus]"),
    "pretrain_mixed": command(
        *("pretrain", SHARED, ROWS, TINY_LLM, "corpora=[unit_corpus]"),
        "mixture=[{_target_: usdm.data.mixture.MixtureMember, text: [text.jsonl]}]",
    ),
    "pretrain_llm": command("pretrain", SHARED, ROWS, "corpora=[unit_corpus]", "llm=mistral_7b", "llm.folder=plain"),
    "finetune": command(
        "finetune", SHARED, ROWS, "corpora=[unit_corpus]", "pretrained=bundle/llm", "splice_augmentation=null"
    ),
    "train_decoder": command("train_decoder", PART, DECODER, SPEECH, "unit_corpus=unit_corpus"),
    "train_decoder_on": command(
        "train_decoder", PART, DECODER, SPEECH, "unit_corpus=unit_corpus", "task.init_from=bundle/decoder"
    ),
    "train_vocoder": command("train_vocoder", PART, VOCODER, "corpora=[hums]"),
    "train_vocoder_on": command("train_vocoder", PART, VOCODER, "corpora=[hums]", "task.init_from=bundle/vocoder"),
    "average_models": command("average_models", "models=[bundle/llm,other]", "shares=[1,1]"),
    "package_model": command(
        "package_model",
        *(f"parts.{part}=bundle/{part}" for part in ("units", "llm", "decoder", "vocoder")),
        *(f"runs.{run}=run" for run in ("encoder", "pretrain", "finetune", "decoder", "vocoder")),
        *("voices={rms: s, slt: s}", "voices_corpus=voices", "scorecard=scorecard.json", "tables=[table.md]"),
    ),
    "convert_units": command("convert_units", "units=hubert_base", "checkpoint=hub", "centroids=km.npy"),
    "inspect": command("inspect", SPEECH, "unit_corpus=unit_corpus", "processes=1"),
    "evaluate": command("evaluate", "model.name=bundle", "held_out=tested", "dialogs_file=dialogs/dialogs.jsonl"),
    "evaluate_recordings": command(
        "evaluate", "model.name=bundle", "dialogs=false", "recordings=[speech]", "training_corpus=tested", "limit=1"
    ),
    "benchmark": command("benchmark", "model.name=bundle", "questions=questions.jsonl", "limit=1", "repeats=1"),
    "synthesize": command("synthesize", "requests=questions.jsonl", "model.name=bundle"),
    "respond": command(
        "respond", "input=speech/4.wav", "model.name=bundle", "output=out.wav", "reference=speech/9.wav"
    ),
    "respond_history": command("respond", "text=hello", "model.name=bundle", "output=out.wav", "history=before.json"),
}
NO_FOLDER = ("respond", "respond_history")

# Which files of each command are damaged.
GIVEN: Mapping[str, tuple[str, ...]] = {
    "prepare_dialogs": ("sgd.jsonl",),
    "prepare_sentences": ("text.txt", "dialogs/dialogs.jsonl", "dialogs/domain.json"),
    "synthesize_corpus": ("few.jsonl",),
    "make_held_out": ("tested/manifest.jsonl", "tested/0.wav"),
    "import_recordings": ("speech/manifest.jsonl", "speech/0.wav"),
    "import_corpus": ("speech/manifest.jsonl", "speech/0.wav"),
    "transcribe": ("bundle/llm/config.json",),
    "align": ("speech/manifest.jsonl", "speech/0.wav", "grids/u0.TextGrid"),
    "align_ctc": ("bundle/units/config.json",),
    "extract_units": (
        *("speech/manifest.jsonl", "speech/0.wav", "bundle/units/config.json", "bundle/units/model.safetensors"),
        "bundle/units/centroids.safetensors",
    ),
    "fit_kmeans": (
        *("speech/manifest.jsonl", "speech/0.wav", "bundle/units/config.json", "bundle/units/model.safetensors"),
        "bundle/units/centroids.safetensors",
    ),
    "train_encoder": ("speech/manifest.jsonl",),
    "train_tokenizer": ("speech/manifest.jsonl",),
    "pretrain": ("unit_corpus/*.parquet", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
    "pretrain_mixed": ("text.jsonl",),
    "pretrain_llm": ("plain/config.json", "plain/model.safetensors", "plain/tokenizer.json"),
    "finetune": (
        *("unit_corpus/*.parquet", "bundle/llm/config.json", "bundle/llm/model.safetensors"),
        *("bundle/llm/vocabulary.json", "bundle/llm/generation_config.json"),
    ),
    "train_decoder": ("speech/manifest.jsonl", "speech/0.wav", "unit_corpus/*.parquet"),
    "train_decoder_on": ("bundle/decoder/config.json", "bundle/decoder/model.safetensors"),
    "train_vocoder": ("hums/manifest.jsonl", "hums/0.wav"),
    "train_vocoder_on": ("bundle/vocoder/config.json", "bundle/vocoder/model.safetensors"),
    "average_models": ("other/model.safetensors", "bundle/llm/training.json"),
    "package_model": (
        *("bundle/llm/model.safetensors", "bundle/units/config.json", "run/training.json", "scorecard.json"),
        *("table.md", "voices/manifest.jsonl", "voices/0.wav"),
    ),
    "convert_units": ("hub/config.json", "hub/model.safetensors", "hub/preprocessor_config.json", "km.npy"),
    "inspect": ("speech/manifest.jsonl", "speech/0.wav", "unit_corpus/*.parquet"),
    "evaluate": ("tested/manifest.jsonl", "tested/0.wav", "dialogs/dialogs.jsonl"),
    "evaluate_recordings": ("speech/manifest.jsonl", "speech/0.wav", "tested/manifest.jsonl"),
    "benchmark": ("questions.jsonl",),
    "synthesize": ("questions.jsonl",),
    "respond": (
        *("speech/4.wav", "speech/9.wav", "bundle/llm/model.safetensors", "bundle/decoder/config.json"),
        *("bundle/vocoder/model.safetensors", "bundle/units/centroids.safetensors", "bundle/generation.json"),
        *("bundle/llm/tokenizer.json", "bundle/llm/template.json"),
    ),
    "respond_history": ("before.json",),
}


def write_bytes(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()  # it is linked to the whole one
    path.write_bytes(data[: len(data) // 2])


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "empty": write_bytes(b""),
    "cut": cut,
    "noise": write_bytes(random.Random(0).randbytes(3000)),
    "list": write_bytes(b"[1, 2]\n"),
    "object": write_bytes(b'{"a": 1}\n'),
    "folder": lambda path: path.mkdir(),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the commands read, whole."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_all()
    return folder


def write_all() -> None:
    here = Path()
    write_inputs(here)
    write_hums(here / "hums")
    sampling = {stage: Sampling(max_new_tokens=4) for stage in ("transcribe", "respond", "speak")}
    GenerationSettings(sampling, DecoderSampling(steps=1, solver="euler", guidance=0.0)).save("bundle")
    lines = (here / "dialogs.jsonl").read_text().splitlines()
    shutil.move("dialogs.jsonl", "few.jsonl")
    Path("few.jsonl").write_text("\n".join(lines[:2]) + "\n")
    turns = [{"speaker": role, "text": "yes please, play music"} for role in ("user", "agent")]
    sgd = [json.dumps({"dialog": f"d{n}", "services": ["s"], "turns": turns}) for n in range(3)]
    Path("sgd.jsonl").write_text("\n".join(sgd) + "\n")
    Path("text.txt").write_text("This is a sentence. And this is another one. Here is a third.\n")
    Path("text.jsonl").write_text('{"text": "this is a document"}\n' * 20)
    Path("dialogs").mkdir()
    turns = [{"role": role, "text": "play some music"} for role in ("user", "agent")]
    rows = [
        {"dialog": f"d{n}", "split": split, "services": ["s"], "turns": turns}
        for n, split in enumerate(("train", "test"))
    ]
    Path("dialogs/dialogs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("dialogs/domain.json").write_text('{"words": ["play", "some", "music"]}')
    Path("tested").mkdir()
    rows = []
    for number in range(4):
        soundfile.write(f"tested/{number}.wav", np.random.default_rng(number).normal(0, 0.1, 16_000), 16_000)
        role, split = ("user", "agent")[number % 2], ("test", "train")[number // 2]
        row = {
            "id": f"t{number}",
            "audio": f"{number}.wav",
            "speaker": "s",
            "role": role,
            "dialog": f"d{1 - number // 2}",
        }
        rows.append({**row, "turn": number % 2, "split": split, "text": "play", "duration": 1.0, "sample_rate": 16_000})
    Path("tested/manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("voices").mkdir()
    soundfile.write("voices/0.wav", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    Path("voices/manifest.jsonl").write_text(json.dumps({**rows[0], "audio": "0.wav", "split": "dev", "duration": 2.0}))
    Path("run").mkdir()
    Path("run/training.json").write_text('{"settings": {"steps": 1}, "hours": 0.5, "validation": {"loss": 1.0}}')
    shutil.copy("run/training.json", "bundle/llm/training.json")
    shutil.copytree("bundle/llm", "other")
    Path("scorecard.json").write_text('{"items": 4, "transcript_wer": 0.1}')
    Path("table.md").write_text("| a |\n")
    np.save("km.npy", np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32))
    shutil.copytree("bundle/units", "hub")
    facts = {"feature_size": 1, "sampling_rate": 16_000, "do_normalize": True, "return_attention_mask": False}
    Path("hub/preprocessor_config.json").write_text(json.dumps({**facts, "padding_value": 0.0}))
    tokenizer = llama_tokenizer()
    tokenizer.save_pretrained("plain")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)
    MistralForCausalLM(config).save_pretrained("plain")
    assert main(["respond", "text=hello", "model.name=bundle", "output=out.wav", "trace=before.json"]) == 0


def problem_with(verb: str, file: str, damage: str) -> str | None:
    """What is wrong with how the verb ends; None if it names the file, or could do without it."""
    path = next(iter(sorted(Path().glob(file))))
    if damage != "cut":
        path.unlink()
    DAMAGES[damage](path)
    output = () if verb in NO_FOLDER else ("output_dir=result",)
    status = main([*COMMANDS[verb], *output])
    told = sys.stderr.getvalue()  # type: ignore[attr-defined]
    if "defect of usdm" in told or "Traceback" in told:
        return told[-1500:]
    if status == 2 and not any(name in told for name in (path.name, path.parent.name, "u0")):
        return f"the message does not name it: {told[-1500:]}"
    return None


def check(verb: str, cases: list[tuple[str, str]], inputs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    wrong = {}
    for number, (file, damage) in enumerate(cases):
        place = folder / str(number)
        shutil.copytree(inputs, place, copy_function=os.link)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with chdir(place):
            if problem := problem_with(verb, file, damage):
                wrong[f"{file}, {damage}"] = problem
    assert not wrong


@pytest.mark.parametrize("verb", sorted(GIVEN))
def test_damaged_files_are_the_user_s_to_mend(
    verb: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file of each verb, in one way; `test_every_damage` tries every file in all ways."""
    file, ways = GIVEN[verb][0], list(DAMAGES)
    check(verb, [(file, ways[len(verb) % len(ways)])], inputs, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("verb", sorted(GIVEN))
def test_every_damage(verb: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(file, damage) for file in GIVEN[verb] for damage in DAMAGES]
    check(verb, cases, inputs, tmp_path, monkeypatch)
