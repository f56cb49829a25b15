"""Adapters: rounded weights with trained scales, prompt tokens, and the rest; what a task is on a shared base."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lm_models import quick_runs  # noqa: F401 (used by itself)
from safetensors.torch import load_file
from test_lm_families import SETTINGS, bundle, corpus  # noqa: F401 (fixtures)
from tiny_models import SHORT_TEMPLATE, as_readable_as_new_files
from torch import nn
from transformers import MistralConfig, PreTrainedModel

from usdm.chain import LoadOptions, SpokenDialogPipeline
from usdm.cli.main import main
from usdm.lm import build_model, load_for_generation, load_model
from usdm.lm.adapters import Bottleneck, Peqa, PromptTokens, trained_weights, with_adapter, with_prompt_tokens
from usdm.lm.quantization import Int8Linear
from usdm.lm.scaled_integers import ScaledIntLinear, in_floats, round_to_nearest, scaled_layers
from usdm.lm.task_scales import TaskScales, to_infer
from usdm.tokens import SpeechTextVocabulary, TemplateSettings
from usdm.training.language_model import finetune, pretrain
from usdm.training.lm_settings import LanguageModelSettings
from usdm.training.plan import plan_training
from usdm.types import InputError

REFERENCE = Path(__file__).parent / "references" / "torchao_ia3.json"
ONCE = (1.0,)  # the whole range, as torchao rounds


@pytest.fixture
def base(bundle: Path) -> PreTrainedModel:  # noqa: F811
    return load_model(bundle / "llm")


@pytest.fixture
def vocabulary(bundle: Path) -> SpeechTextVocabulary:  # noqa: F811
    return SpeechTextVocabulary.from_pretrained(bundle / "llm")


def tuned(bundle: Path, corpus: Path, run: Path, adapter: Any, **changed: Any) -> dict[str, float]:  # noqa: F811
    settings = replace(SETTINGS, **changed)
    vocabulary = SpeechTextVocabulary.from_pretrained(bundle / "llm")
    model = load_model(bundle / "llm")
    return finetune(
        model, vocabulary, [corpus], run, settings, template=SHORT_TEMPLATE, adapter=adapter, dtype=torch.float32
    )


# Rounded weights with trained scales


def formula_weight(rows: int, columns: int, factor: int) -> torch.Tensor:
    """As `tests/references` has been made for."""
    k = torch.arange(rows * columns, dtype=torch.float64)
    return (0.1 * torch.sin(1 + factor * k * k % 17.3) + 0.02 * torch.cos(k)).float().view(rows, columns)


def test_rounding_outputs_and_gradients_are_those_of_torchao_with_ia3() -> None:
    x = torch.cos(torch.arange(48, dtype=torch.float64) * 0.7).float().view(3, 16)
    for case in json.loads(REFERENCE.read_text())["cases"]:
        layers = []
        for weight, found in zip((formula_weight(8, 16, 3), formula_weight(4, 8, 5)), case["layers"], strict=True):
            rounded = round_to_nearest(weight, case["bits"], case["group"], ONCE)
            groups = rounded.integers.shape[:2]
            zero = torch.tensor(found["zero_point"]).view(*groups, 1)
            assert torch.equal(rounded.integers, torch.tensor(found["integers"]).view_as(rounded.integers) - zero)
            torch.testing.assert_close(
                rounded.scale.flatten(), torch.tensor(found["scale"]).flatten(), rtol=1e-6, atol=0
            )
            layers.append(ScaledIntLinear(rounded))
        output = nn.Sequential(layers[0], nn.SiLU(), layers[1])(x)
        torch.testing.assert_close(output, torch.tensor(case["output"]), atol=1e-6, rtol=1e-5)
        if case["group"] is None:  # then (1 + ds / s) s W is a factor of each output
            output.square().sum().backward()
            for layer, expected in zip(layers, case["ia3_gradients"], strict=True):
                gradient = (layer.scale.grad * layer.scale).flatten()
                torch.testing.assert_close(gradient, torch.tensor(expected), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_best_range_leaves_less_error_than_the_whole(bits: int) -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) + 0.3  # not around zero
    weight[3] = 0
    whole, best = round_to_nearest(weight, bits, 32, ONCE), round_to_nearest(weight, bits, 32)
    errors = [(found.weight - weight).square().view(16, 2, 32).sum(-1) for found in (whole, best)]
    assert (errors[1] <= errors[0] + 1e-9).all()
    assert bits == 8 or errors[1].sum() < 0.97 * errors[0].sum()
    assert (best.integers.amax(-1).int() - best.integers.amin(-1).int() < 2**bits).all()
    assert not best.weight[3].any()


def test_the_layers_of_the_8_bit_kernel_compute_what_was_trained(base: PreTrainedModel) -> None:
    ids = torch.arange(1, 3)[None]
    for bits, group, kept in ((4, None, Int8Linear), (8, None, Int8Linear), (4, 16, ScaledIntLinear)):
        model = with_adapter(deepcopy(base), Peqa(bits, group))
        for layer in scaled_layers(model).values():
            layer.scale.data *= 1.1
        logits = model(ids).logits
        floats = to_infer(deepcopy(model), torch.float32, quantized=False)
        assert type(floats.model.layers[0].mlp.up_proj) is nn.Linear
        torch.testing.assert_close(floats(ids).logits, logits, atol=1e-4, rtol=1e-4)
        integers = to_infer(model, torch.float32, quantized=True)
        assert type(integers.model.layers[0].mlp.up_proj) is kept
        apart = (integers(ids).logits - logits).norm() / logits.norm()
        assert apart < 0.03  # the kernel has bfloat16 in and out


def test_a_task_is_its_scales_on_integers_that_stay(
    bundle: Path,  # noqa: F811
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = Peqa(bits=3)
    runs = [tmp_path / "first", tmp_path / "second"]
    for seed, run in enumerate(runs):
        tuned(bundle, corpus, run, adapter, seed=seed, learning_rate=3e-2)
    rounded = with_adapter(load_model(bundle / "llm"), adapter).state_dict()
    trained = load_file(runs[0] / "checkpoint-2" / "model.safetensors")
    for name, weight in rounded.items():
        changed = not torch.equal(trained[name], weight)
        assert changed == name.endswith(".scale"), name
    stored = load_file(runs[0] / "scales" / "scales.safetensors")
    assert stored.keys() == {name for name in rounded if name.endswith(".scale")}
    for name, scale in stored.items():
        assert torch.equal(scale, trained[name])

    # The same replies as of the models in floats, each its own
    said = []
    for run in runs:
        whole = SpokenDialogPipeline.from_pretrained(bundle, llm=run / "model")
        switched = SpokenDialogPipeline.from_pretrained(bundle, scales=run / "scales")
        replies = [pipeline.respond(text="hi, how are you?", speak=False) for pipeline in (whole, switched)]
        assert replies[0].agent_text == replies[1].agent_text
        said.append(switched.parts.llm.state_dict())
        assert switched.fingerprint != SpokenDialogPipeline.from_pretrained(bundle).fingerprint
    assert not torch.equal(said[0]["model.layers.0.mlp.up_proj.weight"], said[1]["model.layers.0.mlp.up_proj.weight"])
    small = SpokenDialogPipeline.from_pretrained(bundle, LoadOptions(quantization="int8"), scales=runs[0] / "scales")
    assert any(isinstance(module, Int8Linear) for module in small.parts.llm.modules())
    assert small.respond(text="hi, how are you?", speak=False).agent_text is not None
    arguments = ["respond", f"model.name={bundle}", f"model.scales={runs[0] / 'scales'}", "text=hi", "reply=text"]
    assert main(arguments) == 0
    capsys.readouterr()

    # What does not fit
    shutil.copytree(bundle / "llm", tmp_path / "other")
    other = load_model(tmp_path / "other")
    other.model.layers[0].mlp.up_proj.weight.data[0, 0] += 5.0
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="the scales belong to a model whose integers are .* give the language model"):
        SpokenDialogPipeline.from_pretrained(bundle, llm=tmp_path / "other", scales=runs[0] / "scales")
    with pytest.raises(InputError, match="no scales can be read there"):
        SpokenDialogPipeline.from_pretrained(bundle, scales=runs[0] / "model")
    with pytest.raises(InputError, match="these scales are of integers already; take int8"):
        load_for_generation(bundle / "llm", quantization="int4", scales=runs[0] / "scales")


def test_bits_and_groups_that_do_not_fit_are_refused_before_anything_is_changed(base: PreTrainedModel) -> None:
    with pytest.raises(InputError, match="bits=9: weights can be rounded to 2 to 8 bits"):
        with_adapter(base, Peqa(bits=9))
    with pytest.raises(InputError, match=r"group=5: layer model.layers.0.self_attn.q_proj has 32 inputs"):
        with_adapter(base, Peqa(group=5))
    with pytest.raises(InputError, match=r"scales \(bits=3, group=5\) fit no layers of base: give the language model"):
        TaskScales(3, 5, "of another model", {}).put_into(base, "base")
    assert not scaled_layers(base)


def test_a_plan_counts_the_integers() -> None:
    published = MistralConfig(vocab_size=42003, num_hidden_layers=2)
    settings = LanguageModelSettings(steps=10, bf16=True)
    plans = [
        plan_training(published, settings, adapter=adapter, corpus_hours=1, unit_rate=50)
        for adapter in (None, Peqa(bits=4), Peqa(bits=4, group=64))
    ]
    full, rows, groups = plans
    linears = full.parameters - 2 * 42003 * 4096 - 5 * 4096
    assert rows.integers == groups.integers == linears and rows.integer_bits == 4
    outputs = 2 * (4096 * 2 + 1024 * 2 + 14336 * 2 + 4096)
    assert rows.trained_parameters == outputs and groups.trained_parameters == linears // 64
    assert rows.parameters == full.parameters + outputs
    # A byte for an integer, two for the rest that is frozen, 18 for a scale
    assert rows.state_bytes == linears + 2 * (full.parameters - linears) + 18 * outputs


def test_a_plan_says_how_little_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan_training", "architecture=tiny"]
    assert main([*plan, "adapter=prompt_tokens", "adapter.count=23"]) == 0
    assert "M parameters, 5,888 trained: 0.126 %" in capsys.readouterr().out
    assert main([*plan, "adapter=prefix"]) == 2  # as the training itself
    assert "it is for `usdm train_classifier`" in capsys.readouterr().err


# Prompt tokens


@pytest.mark.parametrize("adapter", [Peqa(4, group=8), PromptTokens(3)])
def test_a_run_that_was_stopped_gives_the_same_model(
    adapter: Any,
    bundle: Path,  # noqa: F811
    corpus: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    figures = tuned(bundle, corpus, tmp_path, adapter, learning_rate=3e-2)
    whole = load_file(tmp_path / "model" / "model.safetensors")
    for folder in ("model", "checkpoint-2", *(["scales"] if isinstance(adapter, Peqa) else [])):
        shutil.rmtree(tmp_path / folder)
    assert tuned(bundle, corpus, tmp_path, adapter, learning_rate=3e-2) == figures
    for name, weight in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.equal(weight, whole[name]), name
    assert (tmp_path / "scales" / "template.json").is_file() == isinstance(adapter, Peqa)
    assert as_readable_as_new_files(tmp_path / ("scales" if isinstance(adapter, Peqa) else "model"))


def test_prompt_tokens_of_a_model_whose_head_is_its_embeddings(vocabulary: SpeechTextVocabulary) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = build_model(vocabulary, "qwen2", **sizes, num_key_value_heads=1, tie_word_embeddings=True)
    adapter = PromptTokens(3)
    extended, _ = with_prompt_tokens(model, vocabulary, SHORT_TEMPLATE, adapter)
    ids = torch.tensor([extended.encode_text("<|prompt0|><|prompt1|><|prompt2|>how are you")])
    inserted = with_adapter(model, adapter)
    (rows,) = trained_weights(inserted).values()
    rows += 0.1
    logits = inserted(ids).logits
    merged = adapter.merge(inserted)
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    torch.testing.assert_close(merged(ids).logits, logits)


def test_prompt_tokens_are_prompt_tuning_and_train_their_rows_alone(
    base: PreTrainedModel, vocabulary: SpeechTextVocabulary
) -> None:
    adapter = PromptTokens(3, init_text="hi")
    text = torch.tensor([vocabulary.encode_text("how are you")])
    soft: Any = peft.get_peft_model(
        deepcopy(base), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )
    extended, template = with_prompt_tokens(base, vocabulary, SHORT_TEMPLATE, adapter)
    assert len(extended) == len(vocabulary) + 3 and template.preamble == "<|prompt0|><|prompt1|><|prompt2|>"
    first = vocabulary.encode_text("hi")[0]
    rows = base.get_input_embeddings().weight
    assert torch.equal(rows[len(vocabulary)], rows[first])
    soft.prompt_encoder["default"].embedding.weight.data.copy_(rows[-3:])

    model = with_adapter(base, adapter)
    assert {tuple(weight.shape) for weight in trained_weights(model).values()} == {(3, 32)}
    ids = torch.cat([torch.tensor([extended.encode_text(template.preamble)]), text], dim=1)
    logits = model(ids).logits
    torch.testing.assert_close(logits[..., : len(vocabulary)], soft(text).logits, atol=1e-5, rtol=1e-5)
    logits.square().sum().backward()
    (gradient,) = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert gradient is not None and gradient.abs().sum(dim=1).all()
    torch.testing.assert_close(adapter.merge(model)(ids).logits, logits)


def test_prompt_tokens_are_trained_in_packed_rows_and_saved_as_rows(
    bundle: Path,  # noqa: F811
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    vocabulary: SpeechTextVocabulary,
) -> None:
    tuned(bundle, corpus, tmp_path, PromptTokens(4), learning_rate=1e-2)
    before, after = load_model(bundle / "llm").state_dict(), load_model(tmp_path / "model").state_dict()
    for name, weight in before.items():
        assert torch.equal(after[name][: len(weight)], weight), name
    assert len(after["model.embed_tokens.weight"]) == len(vocabulary) + 4
    assert TemplateSettings.load(tmp_path / "model").preamble.startswith("<|prompt0|>")
    pipeline = SpokenDialogPipeline.from_pretrained(bundle, llm=tmp_path / "model")
    assert pipeline.respond(0.1 * torch.randn(8000), 16_000).agent_units is not None


def test_adapters_that_fit_nowhere_are_refused(
    bundle: Path,  # noqa: F811
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    base: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
) -> None:
    for adapter in (Bottleneck(4), peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")):
        with pytest.raises(InputError, match="it is for `usdm train_classifier`, here take lora"):
            tuned(bundle, corpus, tmp_path, adapter)
    with pytest.raises(InputError, match="its tokens stand before dialogs"):
        pretrain(base, vocabulary, [corpus], tmp_path, SETTINGS, adapter=PromptTokens(2))
    extended, template = with_prompt_tokens(base, vocabulary, SHORT_TEMPLATE, PromptTokens(2))
    assert with_prompt_tokens(base, extended, template, PromptTokens(2)) == (extended, template)
    with pytest.raises(InputError, match="count=3: the model has 2 prompt tokens already"):
        with_prompt_tokens(base, extended, template, PromptTokens(3))
    with pytest.raises(InputError, match="init_text='': it has no ids"):
        with_prompt_tokens(load_model(bundle / "llm"), vocabulary, template, PromptTokens(3, init_text=""))
    bloom = build_model(vocabulary, "bloom", hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(InputError, match="rank=0: give 1 or more"):
        with_adapter(bloom, Bottleneck(0))


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")  # peft's prefixes use it
def test_a_classifiers_adapters_begin_as_the_model_and_leave_it_frozen(base: PreTrainedModel) -> None:
    ids, mask = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    before = base(input_ids=ids, attention_mask=mask).logits
    trained = {
        "bottleneck": (Bottleneck(4), 2 * 2 * (32 * 4 + 4 + 4 * 32 + 32), True),
        "ia3": (peft.IA3Config(task_type="CAUSAL_LM"), 2 * (16 + 16 + 48), True),
        "prefix": (peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), 2 * 3 * 2 * 16, False),
    }
    for adapter, count, same in trained.values():
        model = with_adapter(deepcopy(base), adapter)
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        assert output.hidden_states[-1].shape == (2, 4, 32)
        assert torch.allclose(output.logits, before, atol=1e-5) == same
        assert sum(weight.numel() for weight in trained_weights(model).values()) == count
        output.logits.square().sum().backward()
        frozen = [weight for weight in model.parameters() if not weight.requires_grad]
        assert frozen and all(weight.grad is None for weight in frozen)


def test_rounding_leaves_the_head(base: PreTrainedModel) -> None:
    model = with_adapter(base, Peqa())
    assert type(model.get_output_embeddings()) is nn.Linear and len(scaled_layers(model)) == 2 * 7
    in_floats(model)
    assert not scaled_layers(model)
