"""The one vocabulary and the dialog template: published ids exactly, and no id assumed elsewhere."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import SENTENCES, SHORT_TEMPLATE, llama_tokenizer, qwen_tokenizer
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from usdm.tokens import (
    IGNORED,
    LAYOUTS,
    PUBLISHED_PREAMBLE,
    DialogTemplate,
    SpeechTextVocabulary,
    TemplateSettings,
    TurnContent,
    extend_tokenizer,
    find_normaliser,
    normalise_text,
    read_tokenizer,
)
from usdm.tokens.stored import StoredTokenizer
from usdm.types import InputError, Turn

STAGES = ("transcribe", "respond", "speak")
TOKENIZERS = {
    "legacy": lambda: llama_tokenizer(legacy=True),
    "llama": llama_tokenizer,
    "qwen": qwen_tokenizer,
}
CONTENT = TurnContent(
    user_units=torch.tensor([5, 1, 1, 7]),
    user_text="Could you tell me?",
    agent_text="It's on your left.",
    agent_units=torch.tensor([3, 0, 9]),
)


@pytest.fixture(scope="module", params=TOKENIZERS)
def base(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def vocabulary(base: PreTrainedTokenizerFast) -> SpeechTextVocabulary:
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(base, 10))


@pytest.fixture(scope="module")
def template(vocabulary: SpeechTextVocabulary) -> DialogTemplate:
    return DialogTemplate(vocabulary)


def published_text(content: TurnContent) -> str:
    """The published turn as one string, for tokenizers that cut it where the template does."""

    def units(values: torch.Tensor) -> str:
        return "".join(f"<|unit{unit}|>" for unit in values.tolist())

    return (
        f"{PUBLISHED_PREAMBLE}### User\n{units(content.user_units)}<|correspond|>{content.user_text.lower()}\n"
        f"### Agent\n{content.agent_text.lower()}<|correspond|>{units(content.agent_units)}\n"
    )


def without_newlines(text: str) -> str:
    return " ".join(text.split())


# The vocabulary


def test_layout_follows_the_base(base: PreTrainedTokenizerFast, vocabulary: SpeechTextVocabulary) -> None:
    size, layout = len(base), vocabulary.layout
    assert (layout.continue_id, layout.correspond_id, layout.unit_offset) == (size, size + 1, size + 2)
    own_pad = base.pad_token_id is not None
    assert layout.size == len(vocabulary) == len(vocabulary.tokenizer) == size + 12 + (not own_pad)
    assert vocabulary.pad_id == (base.pad_token_id if own_pad else size + 12)
    assert len(base) == size  # the base itself is left alone
    text = "you? \u2014 ok"
    assert vocabulary.encode_text(text) == base(text, add_special_tokens=False).input_ids
    with pytest.raises(InputError, match="has <.correspond.> already|has <.continue.> already"):
        extend_tokenizer(vocabulary.tokenizer, 10)


def test_units_and_ids_are_one_addition_apart(vocabulary: SpeechTextVocabulary) -> None:
    units = torch.tensor([0, 9, 4])
    ids = vocabulary.encode_units(units)
    assert vocabulary.tokenizer.convert_ids_to_tokens(ids.tolist()) == ["<|unit0|>", "<|unit9|>", "<|unit4|>"]
    assert vocabulary.decode_units(ids).tolist() == [0, 9, 4]
    with pytest.raises(InputError, match=r"unit 10 is outside 0\.\.9"):
        vocabulary.encode_units([10])
    with pytest.raises(InputError, match="unit id 3 is outside"):
        vocabulary.decode_units([3])


def test_masks_divide_the_ids(vocabulary: SpeechTextVocabulary) -> None:
    layout = vocabulary.layout
    assert torch.nonzero(vocabulary.unit_mask)[:, 0].tolist() == list(
        range(layout.unit_offset, layout.unit_offset + 10)
    )
    special = set(vocabulary.tokenizer.all_special_ids) | {layout.continue_id, layout.correspond_id, layout.pad_id}
    expected = set(range(layout.text_size)) - special
    assert set(torch.nonzero(vocabulary.text_mask)[:, 0].tolist()) == expected


def test_saved_and_loaded(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    vocabulary.save_pretrained(tmp_path)
    loaded = SpeechTextVocabulary.from_pretrained(tmp_path)
    assert loaded.layout == vocabulary.layout
    assert loaded.start_ids == vocabulary.start_ids
    text = f"<|correspond|>{SENTENCES[0]}\n### Agent\nok<|unit3|>\n"
    assert loaded.encode_text(text) == vocabulary.encode_text(text)
    (tmp_path / "vocabulary.json").unlink()  # as in published checkpoints
    assert SpeechTextVocabulary.from_pretrained(tmp_path).layout == vocabulary.layout


def test_a_folder_of_ours_is_read_as_transformers_reads_it(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    extra = vocabulary.tokenizer.convert_ids_to_tokens([7])
    tokenizer = copy.deepcopy(vocabulary.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": extra})  # with a role, but an id as before
    tokenizer.chat_template = "{{ messages }}"
    SpeechTextVocabulary.from_tokenizer(tokenizer).save_pretrained(tmp_path / "ours")
    ours = SpeechTextVocabulary.from_pretrained(tmp_path / "ours").tokenizer
    theirs = read_tokenizer(tmp_path / "ours")
    assert isinstance(ours, StoredTokenizer)
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id", "eos_token"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert set(ours.all_special_ids) == set(theirs.all_special_ids) and 7 in ours.all_special_ids
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.convert_ids_to_tokens([5, 300]) == theirs.convert_ids_to_tokens([5, 300])
    special = {id_ for id_, token in theirs.added_tokens_decoder.items() if token.special}
    assert {id_ for id_, token in ours.added_tokens_decoder.items() if token.special} == special
    ours.save_pretrained(tmp_path / "again")
    files = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir() if path.name != "vocabulary.json"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files
    assert "chat_template.jinja" in files


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_folder_of_ours_that_is_damaged(vocabulary: SpeechTextVocabulary, name: str, tmp_path: Path) -> None:
    vocabulary.save_pretrained(tmp_path)
    (tmp_path / name).write_text('{"half": ')
    with pytest.raises(InputError, match="its tokenizer is damaged"):
        SpeechTextVocabulary.from_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        SpeechTextVocabulary.from_pretrained(tmp_path)


def test_a_layout_that_differs_names_both_sides(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    vocabulary.save_pretrained(tmp_path)
    path = tmp_path / "vocabulary.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"num_units": 500}))
    with pytest.raises(InputError, match=r"vocabulary\.json differ: num_units 10 against 500"):
        SpeechTextVocabulary.from_pretrained(tmp_path)
    path.write_text(json.dumps(saved | {"text_hash": "of another tokenizer"}))
    with pytest.raises(InputError, match="text_hash .* against of another tokenizer"):
        SpeechTextVocabulary.from_pretrained(tmp_path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"vocabulary\.json: not a vocabulary's layout"):
        SpeechTextVocabulary.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], r"no <\|continue\|>, <\|correspond\|>, <\|unit0\|>"),
        (
            ["<|continue|>", "<|correspond|>", "<|unit0|>", "<|unit2|>", "<|unit1|>"],
            r"<\|unit1\|> has id \d+, \d+ is its place: the 3 unit tokens must be one block",
        ),
        (["<|continue|>", "<|correspond|>", "<|unit0|>", "<|unit2|>"], r"<\|unit1\|> is missing"),
        (["<|continue|>", "<|unit0|>", "<|correspond|>"], "tags and units must follow each other"),
        (["<|unit0|>", "<|continue|>", "<|correspond|>"], "tags and units must follow each other"),
    ],
)
def test_units_that_are_no_block_are_refused(names: list[str], complaint: str) -> None:
    base = llama_tokenizer()
    base.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    with pytest.raises(InputError, match=complaint):
        SpeechTextVocabulary.from_tokenizer(base)


def test_ten_thousand_units() -> None:
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 10_000))
    assert vocabulary.encode_units([9_999]).item() == vocabulary.tokenizer.convert_tokens_to_ids("<|unit9999|>")
    assert int(vocabulary.unit_mask.sum()) == 10_000


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        SpeechTextVocabulary.from_pretrained(tmp_path)


# The template


def test_published_ids_labels_prompts_and_stops(compat_dir: Path) -> None:
    golden = json.loads((compat_dir / "text" / "sft_golden.json").read_text())
    published = SpeechTextVocabulary.from_pretrained(compat_dir / "text" / "extended_tokenizer")
    base = read_tokenizer(compat_dir / "text" / "base_tokenizer")
    extended = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(base, golden["num_units"]))
    assert extended.layout == published.layout
    assert len(golden["cases"]) == 3
    for template in (DialogTemplate(published), DialogTemplate(extended)):
        for case in golden["cases"]:
            content = TurnContent(
                torch.tensor(case["user_units"]),
                case["user_text"],
                case["agent_text"],
                torch.tensor(case["agent_units"]),
            )
            example = template.training_example(content)
            assert example.input_ids.tolist() == case["input_ids"]
            assert example.labels.tolist() == case["labels"]
            for stage in STAGES:
                assert template.prompt(stage, content) == case[f"prompt_{stage}"]
                assert template.stop_id(stage) == case[f"stop_{stage}"]


@pytest.mark.parametrize("legacy", [True, False])
def test_ids_are_those_of_the_whole_string(legacy: bool) -> None:
    tokenizer = extend_tokenizer(llama_tokenizer(legacy), 10)
    template = DialogTemplate(SpeechTextVocabulary.from_tokenizer(tokenizer))
    whole = tokenizer(published_text(CONTENT) + tokenizer.eos_token).input_ids
    assert template.training_example(CONTENT).input_ids.tolist() == whole


def test_a_piece_with_a_newline_does_not_swallow_the_stop() -> None:
    tokenizer = qwen_tokenizer()
    assert len(tokenizer.tokenize("?\n")) == 1  # or else this test shows nothing
    template = DialogTemplate(SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, 10)))
    newline = tokenizer("\n").input_ids
    assert [template.stop_id("transcribe")] == newline == [template.stop_id("speak")]
    example = template.training_example(CONTENT)
    prompt = template.prompt("transcribe", CONTENT)
    transcript = tokenizer("could you tell me?").input_ids
    end = len(prompt) + len(transcript) + 1
    assert example.labels[len(prompt) : end].tolist() == [*transcript, *newline]
    swallowing = tokenizer("?\n").input_ids[0]
    assert template.vocabulary.text_mask[swallowing]
    assert not template.allowed("transcribe")[swallowing]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "settings", [TemplateSettings(), SHORT_TEMPLATE, replace(SHORT_TEMPLATE, user_heading="", agent_heading="")]
)
@pytest.mark.parametrize("text", ["Could you tell me?", "", "the"])
def test_training_and_inference_agree(
    vocabulary: SpeechTextVocabulary, layout: str, settings: TemplateSettings, text: str
) -> None:
    template = DialogTemplate(vocabulary, settings)
    content = replace(CONTENT, user_text=text, reply_a=text, reply_b="it's on your left.", verdict="b")
    history = [Turn("user", "Hi"), Turn("agent", "Hello.")]
    example = template.training_example(content, history, layout)
    ids, labels = example.input_ids.tolist(), example.labels.tolist()
    assert len(ids) == len(labels)
    written = 0
    for stage in template.layout(layout).stages:
        prompt = template.prompt(stage, content, history, layout)
        assert ids[: len(prompt)] == prompt
        stop, allowed = template.stop_id(stage, layout), template.allowed(stage, layout)
        emitted = labels[len(prompt) : labels.index(stop, len(prompt)) + 1]
        assert emitted == ids[len(prompt) : len(prompt) + len(emitted)]  # content and stop carry loss
        assert bool(allowed[torch.tensor(emitted)].all())
        after = template.following(stage, layout)
        assert ids[len(prompt) + len(emitted) - 1 :][: len(after)] == after
        assert after[0] == stop
        written += len(emitted)
    assert sum(label != IGNORED for label in labels) == written  # and nothing else does
    assert all(label in (id_, IGNORED) for id_, label in zip(ids, labels, strict=True))


def test_stages_and_content_by_layout(template: DialogTemplate) -> None:
    vocabulary = template.vocabulary
    full = template.prompt("speak", CONTENT)
    for layout, stages, in_prompt in (
        ("multi_step", STAGES, ("could you", "it's on")),
        ("typed", ("respond", "speak"), ("could you", "it's on")),
        ("units_text_units", ("respond", "speak"), ("it's on",)),
        ("units_to_units", ("speak",), ()),
    ):
        assert template.layout(layout).stages == stages
        prompt = vocabulary.decode_text(template.prompt("speak", CONTENT, layout=layout))
        for text in ("could you", "it's on"):
            assert (text in prompt) == (text in in_prompt), layout
        assert ("<|unit5|>" in prompt) == (layout != "typed")
    assert vocabulary.decode_text(full).endswith("it's on your left.<|correspond|>")
    with pytest.raises(InputError, match="units_to_units has no stage 'respond', only speak"):
        template.prompt("respond", CONTENT, layout="units_to_units")
    with pytest.raises(InputError, match="layout='two_step': there are multi_step"):
        template.layout("two_step")
    with pytest.raises(InputError, match="user_units is missing"):
        template.prompt("transcribe", TurnContent(user_text="hi"))


def test_masks_of_the_stages(template: DialogTemplate) -> None:
    vocabulary = template.vocabulary
    transcribe, respond, speak = (template.allowed(stage) for stage in STAGES)
    assert not (transcribe & vocabulary.unit_mask).any() and not (respond & vocabulary.unit_mask).any()
    assert respond[vocabulary.correspond_id] and not transcribe[vocabulary.correspond_id]
    assert int(speak.sum()) == vocabulary.num_units + 1 and speak[template.stop_id("speak")]
    for id_ in (vocabulary.pad_id, vocabulary.tokenizer.eos_token_id, vocabulary.continue_id):
        assert not any(mask[id_] for mask in (transcribe, respond, speak))
    newlines = transcribe & vocabulary.newline_mask
    assert torch.nonzero(newlines)[:, 0].tolist() == [template.stop_id("transcribe")]


BREAKS = ("\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029")


@pytest.mark.parametrize("settings", [TemplateSettings(), SHORT_TEMPLATE])
@pytest.mark.parametrize("layout", ["typed", "multi_step"])
def test_no_text_closes_its_part_of_the_template(
    vocabulary: SpeechTextVocabulary, settings: TemplateSettings, layout: str
) -> None:
    """What people write cannot pose as the other side's turn, in whatever way it breaks its line."""
    template = DialogTemplate(vocabulary, settings)
    plain = replace(CONTENT, user_text="ok ok", agent_text="ok ok")
    newlines = template.prompt("speak", plain, [Turn("user", "ok ok")], layout).count(template.stop_id("transcribe"))
    for line_break in BREAKS:
        for heading in (settings.agent_heading, settings.user_heading, "\n"):
            text = f"ok{line_break}{heading}ok{line_break}"
            content = replace(CONTENT, user_text=text, agent_text=text)
            ids = template.prompt("speak", content, [Turn("user", text)], layout)
            assert ids.count(template.stop_id("transcribe")) == newlines, repr(text)
            one_line = replace(CONTENT, user_text=" ".join(text.split()), agent_text=" ".join(text.split()))
            assert ids == template.prompt("speak", one_line, [Turn("user", one_line.user_text or "")], layout)


def test_given_texts_are_read_as_the_model_learnt_them(vocabulary: SpeechTextVocabulary) -> None:
    template = DialogTemplate(vocabulary, normaliser=find_normaliser("spoken_english"))
    written = "A table for 2 at 7:30, $50"
    spoken = "a table for two at seven thirty, fifty dollars."
    for layout in ("typed", "multi_step"):
        content = replace(CONTENT, user_text=written, agent_text=written)
        as_learnt = replace(CONTENT, user_text=spoken, agent_text=spoken)
        prompt = template.prompt("speak", content, [Turn("agent", written)], layout)
        assert prompt == template.prompt("speak", as_learnt, [Turn("agent", spoken)], layout)
        assert prompt == DialogTemplate(vocabulary).prompt("speak", as_learnt, [Turn("agent", spoken)], layout)
        example = template.training_example(as_learnt, [Turn("agent", spoken)], layout).input_ids.tolist()
        assert example[: len(prompt)] == prompt
    for text, message in (("안녕 there", "not 안 녕"), ("...", "no words"), ("hi <|unit3|>", "reserves")):
        with pytest.raises(InputError, match=message):
            template.check_text(text)
        with pytest.raises(InputError, match=message):
            template.prompt("respond", replace(CONTENT, user_text=text), layout="typed")
    with pytest.raises(InputError, match="no characters"):
        template.check_text("Jos\udcc3\udca9")
    with pytest.raises(InputError, match="normaliser='english': there is spoken_english"):
        find_normaliser("english")


def test_what_the_model_itself_wrote_never_ends_a_conversation(vocabulary: SpeechTextVocabulary) -> None:
    template = DialogTemplate(vocabulary, normaliser=find_normaliser("spoken_english"))
    assert template.prompt("transcribe", CONTENT, [Turn("agent", "...")])


def test_history_is_text_and_truncated_by_whole_turns(vocabulary: SpeechTextVocabulary) -> None:
    turns = [
        Turn("user", "the station?", units=torch.tensor([1, 2])),
        Turn("agent", "It's on your LEFT.\nok"),
        Turn("user", "thanks"),
        Turn("agent", "bye"),
    ]
    long = DialogTemplate(vocabulary)
    prompt = vocabulary.decode_text(long.prompt("transcribe", CONTENT, turns))
    assert without_newlines(prompt[prompt.index("###") :]) == without_newlines(
        "### User\nthe station?\n### Agent\nit's on your left. ok\n### User\nthanks\n### Agent\nbye\n### User\n"
        "<|unit5|><|unit1|><|unit1|><|unit7|><|correspond|>"
    )
    bare = len(long.prompt("transcribe", CONTENT))
    last_two = len(long.prompt("transcribe", CONTENT, turns[2:])) - bare
    for budget, kept in ((last_two, 2), (last_two - 1, 1), (0, 0), (10_000, 4)):
        template = DialogTemplate(vocabulary, TemplateSettings(history_tokens=budget))
        expected = long.prompt("transcribe", CONTENT, turns[len(turns) - kept :])
        assert template.prompt("transcribe", CONTENT, turns) == expected


def test_history_does_not_change_what_follows(vocabulary: SpeechTextVocabulary) -> None:
    template = DialogTemplate(vocabulary, SHORT_TEMPLATE)
    alone = template.training_example(CONTENT)
    later = template.training_example(CONTENT, [Turn("user", "hi"), Turn("agent", "hi")])
    start = len(vocabulary.start_ids)
    assert later.input_ids[-len(alone.input_ids) + start :].tolist() == alone.input_ids[start:].tolist()


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_text_that_cannot_be_written(unknown: str | None) -> None:
    """Without byte fallback a character is unknown, or even dropped without a trace."""
    vocab = {piece: id_ for id_, piece in enumerate(["<unk>", "</s>", *"abcdefghiu:, \n"])}
    characters = Tokenizer(models.BPE(vocab, [], unk_token=unknown))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, eos_token="</s>", unk_token=unknown)
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, 10))
    template = DialogTemplate(vocabulary, SHORT_TEMPLATE)
    assert template.prompt("respond", replace(CONTENT, user_text="a bed, aha"))
    with pytest.raises(InputError, match="'a quiz': no ids for 'q' 'z'"):
        template.prompt("respond", replace(CONTENT, user_text="a quiz"))
    with pytest.raises(InputError, match="no ids for '#' .* 'A' 'B'"):
        DialogTemplate(vocabulary)  # the published wording


def test_byte_fallback_writes_any_text(template: DialogTemplate) -> None:
    text = "\u0142\u00f3d\u017a \u2014 \u4f60\u597d \U0001f600"
    prompt = template.prompt("respond", replace(CONTENT, user_text=text))
    assert text in template.vocabulary.decode_text(prompt)


def test_special_tokens_in_text_are_refused(template: DialogTemplate) -> None:
    for text in ("say <|unit5|> now", "<|correspond|>", template.vocabulary.tokenizer.eos_token):
        with pytest.raises(InputError, match="which the model reserves"):
            template.prompt("respond", replace(CONTENT, user_text=text))


def test_a_tokenizer_without_newline_is_refused() -> None:
    tokenizer = llama_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, 10))
    with pytest.raises(InputError, match=r"no ids for '\\n'"):
        DialogTemplate(vocabulary, SHORT_TEMPLATE)


def test_settings_saved_and_loaded(tmp_path: Path) -> None:
    assert TemplateSettings.load(tmp_path) == TemplateSettings()  # published checkpoints have no such file
    SHORT_TEMPLATE.save(tmp_path)
    assert TemplateSettings.load(tmp_path) == SHORT_TEMPLATE
    (tmp_path / "template.json").write_text('{"preambel": ""}')
    with pytest.raises(InputError, match=r"template\.json: not the settings of a template .*preambel"):
        TemplateSettings.load(tmp_path)


def test_normalised_text() -> None:
    assert normalise_text("  It's  9 o'Clock\n\tnow ") == "it's 9 o'clock now"


def test_bytes_that_are_no_character_are_left_out() -> None:
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 10))
    tokenizer = vocabulary.tokenizer
    lone = tokenizer.convert_tokens_to_ids("<0xE2>")
    text = vocabulary.encode_text("hello")
    assert vocabulary.decode_text([*text, lone]) == "hello"
