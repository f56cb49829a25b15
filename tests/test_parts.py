"""Where parts are looked for, what is said of those that are missing, and how they are loaded."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tiny_models import build_random_bundle

from usdm.chain import LoadOptions, SpokenDialogPipeline
from usdm.chain.hub import Hub, is_complete
from usdm.chain.locations import find_parts, locate_parts
from usdm.chain.options import SMALLEST_ON_GPU
from usdm.cli.main import main
from usdm.runs import content_digest, split_revision
from usdm.types import InputError

REVISION = "0" * 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, an empty cache of downloads, and a hub that refuses every connection."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the only tests that ask one
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("USDM_MODELS", raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def put_in_cache(tmp_path: Path, name: str, *files: str) -> Path:
    """A snapshot as the hub's client keeps it."""
    repository = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that has `lab/vocoder` alone; what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            known = self.path.startswith("/api/models/lab/vocoder")
            sizes = {"config.json": 100, "bigvgan_generator.pt": 5000, "bigvgan_discriminator_optimizer.pt": 70000}
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            answer = json.dumps({"id": "lab/vocoder", "siblings": siblings} if known else {"error": "not found"})
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()


# Where


def test_a_name_is_looked_for_here_then_under_the_models_folder_then_in_the_cache(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    snapshot = put_in_cache(tmp_path, "lab/vocoder", "config.json", "model.safetensors")
    assert find_parts({"vocoder": "lab/vocoder"}) == {"vocoder": snapshot}
    assert locate_parts({"vocoder": "lab/vocoder"})["vocoder"].cached
    (models / "lab/vocoder").mkdir(parents=True)
    monkeypatch.setenv("USDM_MODELS", str(models))
    assert find_parts({"vocoder": "lab/vocoder"}) == {"vocoder": models / "lab/vocoder"}
    (elsewhere / "lab/vocoder").mkdir(parents=True)
    assert find_parts({"vocoder": "lab/vocoder"}) == {"vocoder": elsewhere / "lab/vocoder"}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_parts({"vocoder": "~/models/lab/vocoder"}) == {"vocoder": models / "lab/vocoder"}


def test_a_bundle_is_found_by_the_same_rule(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USDM_MODELS", str(bundle.parent))
    assert SpokenDialogPipeline.from_pretrained(bundle.name).folders["llm"] == bundle / "llm"


def test_a_download_that_was_broken_off_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    snapshot = put_in_cache(tmp_path, "lab/model", "config.json", "model-00001-of-00002.safetensors")
    assert not is_complete(snapshot)  # its index is not there yet
    index = {"weight_map": {f"layer{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_complete(snapshot)
    with pytest.raises(InputError, match="llm: lab/model is not at"):
        find_parts({"llm": "lab/model"})
    (snapshot / "model-00002-of-00002.safetensors").touch()
    assert find_parts({"llm": "lab/model"}) == {"llm": snapshot}
    assert put_in_cache(tmp_path, "lab/started", "config.json") and Hub().cached("decoder", "lab/started") is None


def test_the_hub_is_asked_for_the_sizes_of_what_is_read(hub: list[str]) -> None:
    places = locate_parts({"llm": "lab/absent", "vocoder": "lab/vocoder"})
    assert places["vocoder"].hub_bytes == 5100 and not places["vocoder"].missing
    assert places["llm"].missing and "404" in places["llm"].looked_for[-1]
    main = [f"/api/models/lab/{name}/revision/main" for name in ("absent", "vocoder")]
    assert [path.partition("?")[0] for path in hub] == main


def test_a_name_of_the_hub_may_say_which_revision(hub: list[str], tmp_path: Path) -> None:
    assert locate_parts({"vocoder": "lab/vocoder@v2"})["vocoder"].hub_bytes == 5100
    assert hub[0].startswith("/api/models/lab/vocoder/revision/v2?")
    snapshot = put_in_cache(tmp_path, "lab/decoder", "config.json", "model.safetensors")
    assert find_parts({"decoder": f"lab/decoder@{REVISION}"}) == {"decoder": snapshot}
    assert content_digest(f"lab/decoder@{REVISION}") == content_digest("lab/decoder") == REVISION[:16]
    assert split_revision(tmp_path) == (str(tmp_path), "main")
    (folder := tmp_path / "a@b").mkdir()
    assert split_revision(folder) == (str(folder), "main")
    with pytest.raises(InputError, match="decoder: lab/decoder@v9 is not at"):
        find_parts({"decoder": "lab/decoder@v9"})


# What is missing


def test_one_error_lists_all_that_is_missing_and_the_ways_out(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USDM_MODELS", str(tmp_path / "models"))
    assert main(["respond", "model=usdm_dailytalk", "device=cpu", "text=hi"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("usdm respond: 4 of 4 parts are missing:\n") and "Traceback" not in told
    for part, name in (
        ("units", "xlsr2_1b_v2"),
        ("llm", "naver-ai/USDM-DailyTalk"),
        ("decoder", "naver-ai/xlsr-token-Voicebox"),
        ("vocoder", "nvidia/bigvgan_22khz_80band"),
    ):
        [line] = [line for line in told.splitlines() if line.startswith(f"  {part}: ")]
        assert f"{name} is not at {elsewhere / name}, {tmp_path / 'models' / name}" in line
        assert (f"the hub's cache {tmp_path / 'cache'}, the hub (ConnectError" in line) == (part != "units")
        assert f"model.{part}=FOLDER" in told and f"FOLDER/{name}" in told
    assert f"usdm convert_units checkpoint=xlsr2_1b_v2.pt centroids=kmeans_10k.npy output_dir={elsewhere}" in told
    assert "USDM_MODELS=FOLDER" in told


def test_a_path_that_is_not_there_is_told_once() -> None:
    with pytest.raises(InputError, match="scales: /nowhere is not there\n"):
        find_parts({"scales": "/nowhere"})


def test_a_hub_that_never_answers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usdm.chain.hub.HUB_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(0.5)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        places = locate_parts({"llm": "lab/one", "decoder": "lab/two", "vocoder": "lab/three"})
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):
            silent.accept()
    assert all(place.missing and "Timeout" in place.looked_for[-1] for place in places.values())


def test_offline_mode_asks_nobody(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="vocoder: lab/vocoder is not at .*HF_HUB_OFFLINE"):
        find_parts({"vocoder": "lab/vocoder"})
    assert hub == []


def test_nothing_is_downloaded_while_another_part_is_missing(hub: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 2 parts are missing"):
        find_parts({"units": "xlsr2_1b_v2", "vocoder": "lab/vocoder"})
    assert len(hub) == 1 and not (tmp_path / "cache").exists()


# How


def test_options_reach_the_parts(bundle: Path) -> None:
    options = LoadOptions(dtype=torch.bfloat16, decoder_dtype=torch.bfloat16, attention="eager")
    parts = SpokenDialogPipeline.from_pretrained(bundle, options).parts
    assert parts.llm.dtype == torch.bfloat16 and parts.llm.config._attn_implementation == "eager"
    assert {weight.dtype for weight in parts.flow_matching.decoder.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in parts.units.parameters()} == {torch.float32}
    plain = SpokenDialogPipeline.from_pretrained(bundle).parts
    assert plain.llm.dtype == torch.float32
    assert {weight.dtype for weight in plain.flow_matching.decoder.parameters()} == {torch.float32}


SMALL, LARGE = SMALLEST_ON_GPU - 1, SMALLEST_ON_GPU


def test_a_gpu_has_bfloat16_where_nothing_else_is_asked_for() -> None:
    assert LoadOptions().settled(LARGE) == LoadOptions(device="cpu")  # there is none here, or the test below fails
    settled = LoadOptions(device="cuda:1").settled(SMALL)
    assert settled.dtype == settled.decoder_dtype == torch.bfloat16
    asked = LoadOptions(device="cuda", dtype=torch.float16, decoder_dtype=torch.float32)
    assert asked.settled(LARGE) == asked


def test_a_small_model_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert LoadOptions().settled(SMALL) == LoadOptions(device="cpu")
    large = LoadOptions().settled(LARGE)
    assert (large.device, large.dtype, large.decoder_dtype) == ("cuda", torch.bfloat16, torch.bfloat16)
    assert LoadOptions(device="cuda").settled(SMALL).device == "cuda"
    assert LoadOptions(device="cpu").settled(LARGE) == LoadOptions(device="cpu")
    assert LoadOptions(device_map="auto").settled(SMALL).device == "cuda"


def test_python_and_the_command_line_choose_the_same_device(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine that says that it has a GPU. A model that is moved there is refused, since it has none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    question = [f"model.name={bundle}", "reply=text", "text=hi", "sampling.respond.max_new_tokens=4"]
    assert SpokenDialogPipeline.from_pretrained(bundle).parts.llm.device.type == "cpu"
    assert main(["respond", *question]) == 0
    assert main(["plan", f"model.name={bundle}"]) == 0
    assert "device=cpu" in capsys.readouterr().out
    monkeypatch.setattr("usdm.chain.options.SMALLEST_ON_GPU", 1000)
    with pytest.raises(InputError, match="device=cuda cannot be used"):
        SpokenDialogPipeline.from_pretrained(bundle)
    assert main(["respond", *question]) == 2
    assert "device=cuda cannot be used" in capsys.readouterr().err
    assert main(["plan", f"model.name={bundle}"]) == 0
    assert "device=cuda" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (LoadOptions(device="abacus"), "device=abacus cannot be used .* take device=cpu"),
        (LoadOptions(quantization="int3"), "quantization=int3: there are int8, int4"),  # type: ignore[arg-type]
        (
            LoadOptions(quantization="int4"),
            "quantization=int4 on device=cpu: .* device=cuda, or quantization=int8",
        ),
        (LoadOptions(vocoder_cuda_kernel=True), "vocoder_cuda_kernel=true on device=cpu: .* needs device=cuda"),
    ],
)
def test_options_that_cannot_be_met(bundle: Path, options: LoadOptions, told: str) -> None:
    with pytest.raises(InputError, match=told):
        SpokenDialogPipeline.from_pretrained(bundle, options)


def test_an_answer_with_8_bit_weights(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"model.name={bundle}", "device=cpu", "quantization=int8", "reply=text", "text=hi"]
    assert main(["respond", *given, "sampling.respond.max_new_tokens=4"]) == 0
    assert "reply: " in capsys.readouterr().out


def test_a_part_that_was_trained_on_other_units(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    own = SpokenDialogPipeline.from_pretrained(copy).parts.units.identity
    source = copy / "decoder" / "unit_source.json"
    source.write_text(json.dumps({"num_units": 20, "unit_rate": 25, "centroid_hash": own}))
    SpokenDialogPipeline.from_pretrained(copy)
    source.write_text(json.dumps({"num_units": 20, "unit_rate": 25, "centroid_hash": "another"}))
    with pytest.raises(InputError, match=f"trained on the units of another, but the unit tokenizer is {own}"):
        SpokenDialogPipeline.from_pretrained(copy)
