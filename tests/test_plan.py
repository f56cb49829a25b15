"""What a plan says, against the models that it speaks of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import build_random_bundle
from torch import nn

from usdm.chain import LoadOptions, SpokenDialogPipeline, bundle_locations
from usdm.chain.memory import Memory, main_memory
from usdm.chain.plan import ModelPlan, plan_model
from usdm.cli.main import main
from usdm.lm import in_transformers
from usdm.types import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
DAILYTALK = {
    "units": "xlsr2_1b_v2",
    "llm": "naver-ai/USDM-DailyTalk",
    "decoder": "naver-ai/xlsr-token-Voicebox",
    "vocoder": "nvidia/bigvgan_22khz_80band",
}
MISTRAL_7B = 7_241_732_096  # parameters; 32,000 of its rows are text


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("USDM_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def dailytalk() -> ModelPlan:
    with pytest.MonkeyPatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return plan_model(DAILYTALK)


def by_part(plan: ModelPlan, field: str) -> dict:
    return {part.part: getattr(part, field) for part in plan.parts}


def bytes_of(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("options", [LoadOptions(), LoadOptions(dtype=torch.bfloat16, decoder_dtype=torch.bfloat16)])
@pytest.mark.parametrize("name", ["tiny", "random"])
def test_a_plan_is_what_loading_takes(name: str, options: LoadOptions, bundle: Path) -> None:
    model = bundle if name == "random" else "tiny"
    plan = plan_model(bundle_locations(model), options)
    parts = SpokenDialogPipeline.from_pretrained(model, options).parts
    loaded = {"units": parts.units, "llm": parts.llm, **dict(parts.speech.named_children())}
    counts = {part: sum(weight.numel() for weight in module.parameters()) for part, module in loaded.items()}
    assert by_part(plan, "parameters") == counts
    assert by_part(plan, "memory_bytes") == pytest.approx(
        {part: bytes_of(module) for part, module in loaded.items()}, rel=0.01
    )
    assert by_part(plan, "precision")["llm"] == str(parts.llm.dtype).removeprefix("torch.")
    for part, place in bundle_locations(model).items():
        files = [path for path in place.iterdir() if path.suffix in (".json", ".safetensors")]
        assert by_part(plan, "disk_bytes")[part] == sum(path.stat().st_size for path in files), part
    assert set(by_part(plan, "where").values()) == {"local"}
    assert not any(part.to_download or part.disk_estimated for part in plan.parts) and plan.unavailable is None


def test_the_cache_is_that_of_a_forward(bundle: Path) -> None:
    plan = plan_model(bundle_locations(bundle), context=500)
    model = in_transformers(SpokenDialogPipeline.from_pretrained(bundle).parts.llm)
    with torch.no_grad():
        cache = model(torch.zeros(1, 10, dtype=torch.long), use_cache=True).cache
    ten = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert plan.cache_bytes_per_1000_tokens == 100 * ten
    assert plan.cache_bytes == 50 * ten


def test_8_bit_weights_take_what_was_planned(bundle: Path) -> None:
    options = LoadOptions(quantization="int8", dtype=torch.float32)
    plan = plan_model(bundle_locations("tiny"), options)
    model = SpokenDialogPipeline.from_pretrained("tiny", options).parts.llm
    assert by_part(plan, "memory_bytes")["llm"] == pytest.approx(bytes_of(model), rel=0.02)
    assert by_part(plan, "precision")["llm"] == "int8"
    assert by_part(plan, "parameters")["llm"] == by_part(plan_model(bundle_locations("tiny")), "parameters")["llm"]


def test_the_published_system_is_planned_without_a_file_of_it(dailytalk: ModelPlan) -> None:
    parameters = by_part(dailytalk, "parameters")
    assert parameters["llm"] == MISTRAL_7B + 2 * 4096 * (42_003 - 32_000)
    layer = 4 * (1280 * 1280 + 1280) + 2 * 1280 * 5120 + 1280 + 5120 + 4 * 1280
    assert 35 * layer < parameters["units"] < 35 * layer + 25_000_000  # 35 layers; the rest are its convolutions
    assert parameters["decoder"] == 345_913_742 and parameters["vocoder"] == 112_199_473
    memory = by_part(dailytalk, "memory_bytes")
    assert memory["llm"] == pytest.approx(2 * parameters["llm"], rel=1e-6)  # as stored: bfloat16
    assert memory["units"] == pytest.approx(4 * (parameters["units"] + 10_000 * 1280), rel=1e-6)
    assert dailytalk.cache_bytes_per_1000_tokens == 1000 * 32 * 2 * 8 * 128 * 2
    assert set(by_part(dailytalk, "where").values()) == {"not here"}
    assert all(part.disk_estimated for part in dailytalk.parts)
    assert by_part(dailytalk, "to_download") == {"units": False, "llm": True, "decoder": True, "vocoder": True}
    assert "4 of 4 parts are missing" in (dailytalk.unavailable or "")
    assert by_part(plan_model(DAILYTALK | {"llm": "naver-ai/USTM"}), "parameters") == parameters


def test_quantisation_leaves_embeddings_and_output_alone(dailytalk: ModelPlan) -> None:
    whole, rows = by_part(dailytalk, "parameters")["llm"], 2 * 42_003 * 4096
    sizes = dailytalk.language_model_bytes
    assert sizes["float32"] == pytest.approx(4 * whole, rel=1e-6)
    assert sizes["int8"] == pytest.approx(whole - rows + 4 * rows, rel=1e-3)  # a CPU computes the rest in float32
    planned = plan_model(DAILYTALK, LoadOptions(quantization="int8"))
    assert by_part(planned, "memory_bytes")["llm"] == sizes["int8"]
    others = planned.needed_bytes - sizes["int8"] - planned.cache_bytes
    assert planned.peak_bytes == pytest.approx(others + 2 * whole, rel=1e-3)  # loaded whole, then quantised
    assert planned.peak_bytes > planned.needed_bytes
    on_gpu = plan_model(DAILYTALK, LoadOptions(device="cuda", quantization="int4"))
    assert by_part(on_gpu, "memory_bytes")["llm"] == pytest.approx((whole - rows) * 0.516 + 2 * rows, rel=1e-3)
    assert on_gpu.needed_bytes == on_gpu.needed_at("int4") == on_gpu.peak_bytes


def test_a_gpu_is_planned_in_bfloat16_where_there_is_none() -> None:
    plan = plan_model(DAILYTALK, LoadOptions(device="cuda:7"))
    assert by_part(plan, "precision") == {
        "units": "float32",
        "llm": "bfloat16",
        "decoder": "bfloat16",
        "vocoder": "float32",
    }
    assert plan.memory is None and plan.fits is None


# What cannot be planned


def test_a_hub_name_that_is_unknown_here() -> None:
    with pytest.raises(InputError, match=r"(?s)llm: lab/secret is not at .*configurations of naver-ai/USDM-DailyTalk"):
        plan_model(DAILYTALK | {"llm": "lab/secret"})


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("units/config.json", "{", "not valid JSON"),
        ("units/units.json", "{}", "not the configuration of a part units"),
        ("llm/config.json", '{"model_type": "parrot"}', "not the configuration of a part llm"),
        ("decoder/config.json", '{"n_tokens": 20, "size": 3}', "not the configuration of a part decoder.*size"),
        ("vocoder/config.json", '{"model_type": "vocos"}', "not the configuration of a part vocoder.*mel"),
    ],
)
def test_a_wrong_configuration(file: str, content: str, told: str, tmp_path: Path) -> None:
    folder = build_random_bundle(tmp_path / "model")
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=told):
        plan_model(bundle_locations(folder))


def test_a_context_of_nothing() -> None:
    with pytest.raises(InputError, match="context=0: at least 1 token"):
        plan_model(DAILYTALK, context=0)


# The machine


def test_memory_is_what_a_container_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usdm.chain.memory.MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr("usdm.chain.memory.CONTROL_GROUP", tmp_path)
    assert main_memory() is None  # not Linux
    (tmp_path / "meminfo").write_text("MemTotal: 64000 kB\nMemFree: 1000 kB\nMemAvailable: 50000 kB\n")
    memory = main_memory()
    assert memory is not None and (memory.total, memory.free) == (64000 * 1024, 50000 * 1024)
    (tmp_path / "memory.max").write_text("max\n")
    assert main_memory() == memory
    (tmp_path / "memory.max").write_text("20000000\n")
    (tmp_path / "memory.current").write_text("5000000\n")
    limited = main_memory()
    assert limited is not None and (limited.total, limited.free) == (20_000_000, 15_000_000)


# The command


def set_free(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    memory = Memory("cpu", "RAM", 64 * 10**9, int(gigabytes * 10**9))
    monkeypatch.setattr("usdm.chain.plan.device_memory", lambda device: memory)


@pytest.mark.parametrize(
    ("device", "gigabytes", "told"),
    [
        ("cpu", 40, "40.0 GB free (64.0 GB in all): fits"),
        ("cpu", 16, "does not fit, at no precision"),
        ("cpu dtype=float32", 30, "does not fit, but would with dtype=bfloat16"),
        ("cpu quantization=int8", 15, "while it is loaded, of 15.0 GB free (64.0 GB in all): does not fit"),
        ("cuda", 24, "24.0 GB free (64.0 GB in all): fits"),
        ("cuda", 16, "does not fit, but would with quantization=int8"),
        ("cuda", 12, "does not fit, but would with quantization=int4"),
    ],
)
def test_the_verdict_and_its_way_out(
    device: str, gigabytes: float, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_free(monkeypatch, gigabytes)
    assert main(["plan", "model=usdm_dailytalk", *f"device={device}".split()]) == 0
    assert told in capsys.readouterr().out


def test_a_machine_that_must_be_large_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_free(monkeypatch, 0.5)
    assert main(["plan", "device=cpu", "must_fit=true"]) == 1
    assert "does not fit" in capsys.readouterr().err
    set_free(monkeypatch, 5)
    assert main(["plan", "device=cpu", "must_fit=true"]) == 0


def test_the_table_and_the_same_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["model=ustm", "device=cpu", "quantization=int8", "context=4000", "json=plan.json"]
    assert main(["plan", *given]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(Path("plan.json").read_text())
    assert figures["context"] == 4000 and figures["needed_bytes"] > figures["cache_bytes"]
    assert {part["name"] for part in figures["parts"]} == {*DAILYTALK.values(), "naver-ai/USTM"} - {DAILYTALK["llm"]}
    for words in ("7,323.7 M", "int8", "1.0 GB", "262.1 MB per 1,000 tokens", "unknown offline", "USDM_MODELS"):
        assert words in printed
    assert not Path("cache").exists()  # nothing was downloaded


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["model=random_small"], "no folder or hub name for units, llm, decoder, vocoder"),
        (["model.name=absent"], "absent: neither an embedded model"),
        (["json=absent/plan.json"], "absent/plan.json: the folder absent does not exist"),
        (["quantization=int2"], "full_key: quantization"),
    ],
)
def test_bad_input(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_planning_imports_no_package_that_a_plan_has_no_use_for() -> None:
    code = "import sys; from usdm.cli.main import main; main(['plan', 'model=usdm_dailytalk']); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    loaded = set(output.stdout.splitlines()[-1].split())
    assert "transformers" in loaded
    assert not loaded & {"bigvgan", "librosa", "matplotlib", "gradio", "sklearn", "pandas"}
