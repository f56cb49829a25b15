"""Checkpoints in the published layouts, through the very command that takes the real ones, from files to sound."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import published_layout as published
import pytest
import soundfile
import torch
from published_layout import K, add_speech_tokens, save_language_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from usdm.cli.main import main
from usdm.tokens import PUBLISHED_PREAMBLE, DialogTemplate, SpeechTextVocabulary, TurnContent
from usdm.types import Turn

STAGES = ("transcribe", "respond", "speak")
MOST = 8  # ids of a stage
SHORT = ["decoding.steps=2", *(f"sampling.{stage}.max_new_tokens={MOST}" for stage in STAGES)]
UNITS = torch.tensor([5, 1, 1, 7, K - 1])
REPLY_UNITS = torch.tensor([3, 0, 9])
HISTORY = [
    Turn("user", "Hi, how are you?"),
    Turn("agent", "I'm fine."),
    Turn("user", "The way?"),
    Turn("agent", "Ahead."),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every part in its published layout, and the units as they are converted once."""
    folder = tmp_path_factory.mktemp("published")
    for layout in published.KEY_LAYOUTS:
        published.save_encoder_files(folder / layout, layout)
        assert convert(folder / layout, folder / f"units_{layout}") == 0
    for name, make in published.TOKENIZERS.items():
        save_language_model(folder / f"llm_{name}", add_speech_tokens(make()))
    published.save_voicebox(folder / "decoder")
    published.save_bigvgan(folder / "vocoder")
    return folder


def convert(folder: Path, output: Path, *overrides: str) -> int:
    given = [f"checkpoint={folder}/xlsr2_1b_v2.pt", f"centroids={folder}/kmeans_10k.npy", f"output_dir={output}"]
    return main(["convert_units", *given, *published.CONVERSION, *overrides])


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a question and a voice in it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    soundfile.write("question.wav", random.uniform(-0.5, 0.5, 16_000), 16_000)
    soundfile.write("voice.wav", random.uniform(-0.5, 0.5, 24_000), 24_000)


def respond(files: Path, *arguments: str, **parts: Path | str) -> int:
    """`usdm respond model=usdm_dailytalk` with local copies of all parts, some of them replaced."""
    own = {"units": "units_fairseq", "llm": "llm_mistral", "decoder": "decoder", "vocoder": "vocoder"}
    places = [f"model.{part}={files / parts.get(part, folder)}" for part, folder in own.items()]
    return main(["respond", "model=usdm_dailytalk", "device=cpu", *places, *SHORT, *arguments])


def read_trace(name: str) -> dict:
    trace: dict = json.loads(Path(name).read_text())
    return trace


# What the published system would say, worked out from tokenizer and model alone


Piece = tuple[str, slice]  # a stretch of the sequence, and which of its ids the model learns to write
ALL, NOTHING, STOP = slice(None), slice(0), slice(1)


def spoken(units: list[int]) -> str:
    return "".join(f"<|unit{unit}|>" for unit in units)


def ids_of(tokenizer: PreTrainedTokenizerFast, pieces: list[Piece]) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels and the end of each piece. A tokenizer with pieces such as "?\\n" cuts the stretches one by one,
    any other the whole at once."""
    ids: list[int] = []
    labels: list[int] = []
    ends: list[int] = []
    for number, (text, learnt) in enumerate(pieces, start=1):
        if tokenizer.bos_token_id is None:
            ids = ids + tokenizer(text).input_ids
        else:
            ids = tokenizer("".join(before for before, _ in pieces[:number])).input_ids
        new = ids[len(labels) :]
        scored = new[learnt]
        labels += scored + [-100] * (len(new) - len(scored))
        ends.append(len(ids))
    return ids, labels, ends


@pytest.mark.parametrize("name", published.TOKENIZERS)
def test_template_labels_prompts_and_stops_follow_from_the_tokenizer(files: Path, name: str) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(files / f"llm_{name}")
    template = DialogTemplate(SpeechTextVocabulary.from_pretrained(files / f"llm_{name}"))
    content = TurnContent(UNITS, "How are you?", "It's on your left.", REPLY_UNITS)
    ids, labels, ends = ids_of(
        tokenizer,
        [
            (f"{PUBLISHED_PREAMBLE}### User\n{spoken(UNITS.tolist())}<|correspond|>", NOTHING),
            ("how are you?", ALL),
            ("\n### Agent\n", STOP),
            ("it's on your left.", ALL),
            ("<|correspond|>", ALL),
            (spoken(REPLY_UNITS.tolist()), ALL),
            ("\n", STOP),
            (tokenizer.eos_token, NOTHING),
        ],
    )
    example = template.training_example(content)
    assert example.input_ids.tolist() == ids
    assert example.labels.tolist() == labels
    for stage, start, stop in (("transcribe", 0, 1), ("respond", 2, 3), ("speak", 4, 5)):
        assert template.prompt(stage, content) == ids[: ends[start]], stage
        assert template.stop_id(stage) == ids[ends[stop]], stage
    assert ids[:1] == ([tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else tokenizer("B").input_ids)


def test_the_published_vocabulary_has_text_tags_units_and_pad_in_this_order(files: Path) -> None:
    base, tokenizer = published.mistral_tokenizer(), PreTrainedTokenizerFast.from_pretrained(files / "llm_mistral")
    names = ["<|continue|>", "<|correspond|>", "<|unit0|>", f"<|unit{K - 1}|>", "<pad>"]
    size = len(base)
    assert tokenizer.convert_tokens_to_ids(names) == [size, size + 1, size + 2, size + 1 + K, size + 2 + K]
    assert (
        len(tokenizer) == size + 3 + K == AutoModelForCausalLM.from_pretrained(files / "llm_mistral").config.vocab_size
    )


@pytest.mark.parametrize("name", published.TOKENIZERS)
def test_a_spoken_question_after_several_turns_is_answered_in_a_given_voice(files: Path, name: str) -> None:
    """Units, ids and sound of the reply; the greedy ids worked out anew, without cache, stages or template."""
    for number, (question, answer) in enumerate(zip(HISTORY[::2], HISTORY[1::2], strict=True)):
        turn = {"history": [], "user_text": question.text, "agent_text": answer.text}
        Path(f"{number}.json").write_text(json.dumps(turn))
    given = ["input=question.wav", "reference=voice.wav", "history=[0.json,1.json]", "trace=reply.json"]
    assert respond(files, *given, llm=f"llm_{name}") == 0
    trace = read_trace("reply.json")
    assert trace["user_units"] == units_of("question.wav")
    assert [turn["text"] for turn in trace["history"]] == [turn.text for turn in HISTORY]
    samples, rate = soundfile.read("reply.wav")
    assert rate == 22_050 and abs(len(samples) / rate - len(trace["agent_units"]) / 50) < 256 / rate
    assert np.isfinite(samples).all() and np.abs(samples).max() > 0

    tokenizer = PreTrainedTokenizerFast.from_pretrained(files / f"llm_{name}")
    model = AutoModelForCausalLM.from_pretrained(files / f"llm_{name}")
    turns = [piece for turn in HISTORY for piece in (f"### {turn.role.capitalize()}\n", turn.text.lower(), "\n")]
    pieces = [PUBLISHED_PREAMBLE, *turns, f"### User\n{spoken(trace['user_units'])}<|correspond|>"]
    prompt, _, _ = ids_of(tokenizer, [(piece, NOTHING) for piece in pieces])
    assert trace["user_text"] == transcript(model, tokenizer, prompt)


def units_of(recording: str) -> list[int]:
    """Units by the whole published encoder, its layer and centroids, without this package."""
    samples, rate = soundfile.read(recording, dtype="float32")
    assert rate == 16_000
    waveform = torch.nn.functional.layer_norm(torch.from_numpy(samples), (len(samples),))
    with torch.no_grad():
        hidden = published.published_encoder()(waveform[None], output_hidden_states=True).hidden_states
    distances = torch.cdist(hidden[published.UNITS_LAYER + 1][0], torch.from_numpy(published.published_centroids()))
    units: list[int] = distances.argmin(-1).tolist()
    return units


def transcript(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """Greedy text up to a newline: no special token, and no other piece with a newline in it."""
    stop_id = tokenizer("\n").input_ids[-1]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    forbidden = [
        id_
        for id_ in range(len(tokenizer))
        if id_ != stop_id and (id_ in special or "\n" in tokenizer.backend_tokenizer.decode([id_]))
    ]
    text: list[int] = []
    while len(text) < MOST:
        with torch.no_grad():
            logits = model(torch.tensor([ids + text])).logits[0, -1]
        logits[forbidden] = -torch.inf
        if int(logits.argmax()) == stop_id:
            break
        text.append(int(logits.argmax()))
    return tokenizer.backend_tokenizer.decode(text, skip_special_tokens=False).replace("\ufffd", "").strip()


def test_both_key_layouts_give_the_same_units_and_keep_no_layer_above(files: Path) -> None:
    for layout in published.KEY_LAYOUTS:
        given = ["input=question.wav", "chain=units_to_units", f"trace={layout}.json"]
        assert respond(files, *given, units=f"units_{layout}") == 0
        config = json.loads((files / f"units_{layout}" / "config.json").read_text())
        assert config["num_hidden_layers"] == published.UNITS_LAYER + 1 < published.LAYERS
    heard = [read_trace(f"{layout}.json")["user_units"] for layout in published.KEY_LAYOUTS]
    assert heard[0] == heard[1] == units_of("question.wav")


def test_a_voice_changes_the_sound_alone(files: Path) -> None:
    for name, reference in (("a", []), ("b", ["reference=voice.wav"])):
        assert respond(files, "text=how are you", f"output={name}.wav", f"trace={name}.json", *reference) == 0
    assert read_trace("a.json")["agent_units"] == read_trace("b.json")["agent_units"]
    assert Path("a.wav").read_bytes() != Path("b.wav").read_bytes()


def test_local_copies_are_found_in_one_folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = tmp_path / "copies"
    for name, folder in (
        ("xlsr2_1b_v2", "units_fairseq"),
        ("naver-ai/USTM", "llm_mistral"),
        ("naver-ai/xlsr-token-Voicebox", "decoder"),
        ("nvidia/bigvgan_22khz_80band", "vocoder"),
    ):
        shutil.copytree(files / folder, copies / name)
    monkeypatch.setenv("USDM_MODELS", str(copies))
    assert main(["respond", "model=ustm", "device=cpu", "text=hi", "output=reply.wav", *SHORT]) == 0
    assert Path("reply.wav").stat().st_size > 1000


# What does not belong together, or cannot be trusted


@pytest.fixture
def copy(files: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of all parts, to be spoilt."""
    folder = tmp_path / "copy"
    shutil.copytree(files, folder)
    yield folder


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


class Harmful:
    """Unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("harm"),)


def replace_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.save_pretrained(folder)


def save_centroids(folder: Path, width: int) -> None:
    from safetensors.torch import save_file

    rewrite(folder / "units.json", centroid_hash=None)
    save_file({"centroids": torch.randn(K, width)}, folder / "centroids.safetensors")


SPOILT = {
    "fewer units in the language model": (
        lambda at: (
            shutil.rmtree(at / "llm_mistral"),
            save_language_model(at / "llm_mistral", add_speech_tokens(published.mistral_tokenizer(), K - 4)),
        ),
        f"number of units: units has {K}, llm has {K - 4}, decoder has {K}",
    ),
    "fewer units in the decoder": (
        lambda at: (shutil.rmtree(at / "decoder"), published.save_voicebox(at / "decoder", n_tokens=K - 4)),
        f"number of units: units has {K}, llm has {K}, decoder has {K - 4}",
    ),
    "more units asked of the extractor": (
        lambda at: rewrite(at / "units_fairseq/units.json", num_units=K + 1),
        rf"\({K}, {published.WIDTH}\).*\({K + 1}, {published.WIDTH}\)",
    ),
    "a layer that is not there": (
        lambda at: rewrite(at / "units_fairseq/units.json", layer=published.LAYERS),
        rf"Layer {published.LAYERS} \(0-based\) .* {published.UNITS_LAYER + 1} layers",
    ),
    "units of another layer than the model was trained on": (
        lambda at: (at / "llm_mistral/unit_source.json").write_text(
            json.dumps({"num_units": K, "unit_rate": 50, "centroid_hash": "0123456789abcdef"})
        ),
        r"the units of 0123456789abcdef, but the unit tokenizer is [0-9a-f]{16}",
    ),
    "centroids of another width": (
        lambda at: save_centroids(at / "units_fairseq", 31),
        rf"\({K}, 31\).*\({K}, {published.WIDTH}\)",
    ),
    "another unit rate in the decoder": (
        lambda at: rewrite(at / "decoder/config.json", unit_rate=25),
        r"unit rate \(Hz\): units has 50, decoder has 25",
    ),
    "another unit rate than the encoder makes": (
        lambda at: rewrite(at / "units_fairseq/units.json", unit_rate=25),
        "unit_rate is 25 Hz.*50 Hz",
    ),
    "a tokenizer without speech tokens": (
        lambda at: replace_tokenizer(at / "llm_mistral", published.mistral_tokenizer()),
        r"no <\|continue\|>, <\|correspond\|>, <\|unit0\|>",
    ),
    "a tokenizer of another model": (
        lambda at: replace_tokenizer(at / "llm_mistral", add_speech_tokens(published.other_llama_tokenizer())),
        r"model has 326 rows, its tokenizer 367 ids",
    ),
    "a decoder whose unconditional id is not K": (
        lambda at: rewrite(at / "decoder/config.json", n_tokens=K - 1),
        f"n_tokens={K - 1} .* needs {K} rows .* has {K + 1}",
    ),
    "a vocoder of another mel": (
        lambda at: rewrite(at / "vocoder/config.json", fmax=11025),
        r"mel setting f_max: decoder has 8000\.0, vocoder has 11025",
    ),
    "a vocoder of another rate": (
        lambda at: rewrite(at / "vocoder/config.json", sampling_rate=24000),
        "mel setting sample_rate: decoder has 22050, vocoder has 24000",
    ),
    "truncated units": (lambda at: cut_off(at / "units_fairseq/model.safetensors"), r"model\.safetensors.*cut off"),
    "truncated centroids": (lambda at: cut_off(at / "units_fairseq/centroids.safetensors"), r"centroids\.safetensors"),
    "truncated language model": (
        lambda at: cut_off(at / "llm_mistral/model.safetensors"),
        "llm_mistral.*cut off|llm_mistral: no causal",
    ),
    "truncated decoder": (lambda at: cut_off(at / "decoder/model.safetensors"), r"model\.safetensors.*cut off"),
    "truncated vocoder": (lambda at: cut_off(at / "vocoder/bigvgan_generator.pt"), r"bigvgan_generator\.pt: damaged"),
    "unsafe vocoder": (
        lambda at: torch.save({"generator": Harmful()}, at / "vocoder/bigvgan_generator.pt"),
        r"bigvgan_generator\.pt: damaged",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_does_not_fit_is_told_at_load(case: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, told = SPOILT[case]
    spoil(copy)
    assert respond(copy, "text=hi", "output=reply.wav") == 2
    printed = capsys.readouterr().err
    assert re.search(told, printed, flags=re.DOTALL), printed
    assert "Traceback" not in printed
    assert not Path("reply.wav").exists() and not Path("harm").exists()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            [f"settings.layer={published.LAYERS}"],
            f"has {published.LAYERS} layers, so there is no layer {published.LAYERS}",
        ),
        ([f"settings.num_units={K + 1}"], f"({K + 1}, {published.WIDTH})"),
        (["settings.unit_rate=25"], "25 Hz"),
        (["config.hidden_size=48"], "does not fit the encoder"),
    ],
)
def test_conversion_refuses_what_does_not_fit(
    files: Path, overrides: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(files / "fairseq", Path("made"), *overrides) == 2
    assert told in capsys.readouterr().err
    assert not Path("made").exists()


def test_conversion_refuses_unsafe_and_truncated_files(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut_off(copy / "fairseq/xlsr2_1b_v2.pt")
    torch.save({"model": Harmful()}, copy / "fairseq2/xlsr2_1b_v2.pt")
    for layout in published.KEY_LAYOUTS:
        assert convert(copy / layout, Path("made")) == 2
        assert "is truncated, or holds more than tensors" in capsys.readouterr().err
    assert not Path("made").exists() and not Path("harm").exists()
