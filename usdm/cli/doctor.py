"""What this machine can run, what each model takes, and the commands that prove it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub import constants
from omegaconf import DictConfig, OmegaConf

from usdm.audio import check_output_path
from usdm.chain import LoadOptions
from usdm.chain.hub import Hub
from usdm.chain.memory import device_memory, main_memory
from usdm.chain.plan import free_on_disk, plan_model
from usdm.cli.plan import model_places, size, verdict
from usdm.config import config_folder
from usdm.decoder.alibi import flex_serves
from usdm.lm.attention_kernels import PLAIN, SKIPPING, why_not
from usdm.lm.cuda_graph import CapturedStep
from usdm.types import InputError

PACKAGES = ("usdm", "torch", "torchaudio", "transformers", "accelerate")
EXTRAS = {"bitsandbytes": "quantized", "vllm": "vllm"}  # package -> the extra that it comes with
HEAD_SIZE, DECODER_HEAD_SIZE = 128, 64  # of the published language model and decoder


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    room: str  # what it belongs to: machine, packages, ...
    name: str
    good: bool | None  # None: a fact, neither good nor bad
    told: str


def run(config: DictConfig) -> None:
    if config.json is not None:
        check_output_path(config.json, ".json")
    found: list[Finding] = []
    for finding in examination():
        if not found or found[-1].room != finding.room:
            print(f"{'' if not found else chr(10)}{finding.room}")
        print(f"  {MARKS[finding.good]:<4}{finding.name:<22}{finding.told}", flush=True)
        found.append(finding)
    if config.json is not None:
        Path(config.json).write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n", encoding="utf-8")


MARKS = {None: "", True: "yes", False: "no"}


def examination() -> Iterator[Finding]:
    """Nothing is loaded or downloaded, and nobody is asked over the network."""
    yield from machine()
    yield from packages()
    yield from kernels()
    yield from models()
    yield from proofs()


def machine() -> Iterator[Finding]:
    """Processor, memory, disk, cards."""
    threads = f"{torch.get_num_threads()} threads of PyTorch"
    yield Finding("machine", "system", None, f"{platform.platform()}, Python {sys.version.split()[0]}")
    yield Finding("machine", "processor", None, f"{platform.machine()}, {os.cpu_count()} cores, {threads}")
    memory = main_memory()
    room = "not told by this system" if memory is None else f"{size(memory.free)} free of {size(memory.total)}"
    yield Finding("machine", "main memory", None, room)
    cache = Path(constants.HF_HUB_CACHE)
    yield Finding("machine", "disk", None, f"{size(free_on_disk(cache))} free for downloads in {cache}")
    for index in range(torch.cuda.device_count()):
        about, card = torch.cuda.get_device_properties(index), device_memory(f"cuda:{index}")
        free = "" if card is None else f", {size(card.free)} free of {size(card.total)}"
        yield Finding("machine", f"cuda:{index}", None, f"{about.name}, capability {about.major}.{about.minor}{free}")
    if not torch.cuda.is_available():
        yield Finding("machine", "GPU", False, why_no_gpu())


def why_no_gpu() -> str:
    """As far as PyTorch tells."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of PyTorch is for CPUs alone"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "PyTorch finds none"


def packages() -> Iterator[Finding]:
    """Versions, and what is there of optional ones."""
    for name in PACKAGES:
        yield Finding("packages", name, None, installed(name) or "not installed")
    yield Finding("packages", "CUDA of PyTorch", None, torch.version.cuda or "none")
    for name, extra in EXTRAS.items():
        yield Finding("packages", name, installed(name) is not None, installed(name) or f"pip install 'usdm[{extra}]'")
    for program, what in (("nvcc", "BigVGAN's kernel"), ("g++", "BigVGAN's kernel, loop.compile=true")):
        yield Finding("packages", program, shutil.which(program) is not None, f"for {what}")


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def kernels() -> Iterator[Finding]:
    """Of attention, by comparison with plain arithmetic on a small input; CUDA graphs, by making one."""
    if not torch.cuda.is_available():
        reason = why_not(PLAIN, torch.device("cpu"), torch.float32, HEAD_SIZE)
        yield Finding("kernels", PLAIN, reason is None, reason or "packed rows equal single ones, float32 on the CPU")
        return
    card = torch.device("cuda", torch.cuda.current_device())
    for kernel in (PLAIN, *SKIPPING):
        reason = why_not(kernel, card, torch.bfloat16, HEAD_SIZE)
        yield Finding("kernels", kernel, reason is None, reason or "packed rows equal single ones, bfloat16")
    serves = flex_serves(card, torch.bfloat16, DECODER_HEAD_SIZE)
    yield Finding("kernels", "flex of the decoder", serves, "replies of more than 12 s" if serves else "in blocks")
    try:
        captured = CapturedStep(torch.ones(8, device=card).sum)()
        yield Finding("kernels", "CUDA graphs", bool(captured == 8), "single tokens of the language model")
    except RuntimeError as error:
        yield Finding("kernels", "CUDA graphs", False, str(error).splitlines()[0])


def models() -> Iterator[Finding]:
    """What each model of `conf/model` takes, as `usdm plan` has it, and whether it fits."""
    for name, config in configured().items():
        try:
            plan = plan_model(model_places(config), LoadOptions(), hub=Hub(silence="not asked"))
        except InputError as error:
            yield Finding("models", name, False, str(error).splitlines()[0])
            continue
        missing = [part.name for part in plan.parts if part.folder is None]
        here = f"; to be fetched: {', '.join(missing)}" if missing else ""
        yield Finding("models", name, plan.fits, f"{verdict(plan)}{here}")


def configured() -> dict[str, DictConfig]:
    """The models of `conf/model` that have parts to look for."""
    found: dict[str, DictConfig] = {}
    for path in sorted((config_folder() / "model").glob("*.yaml")):
        config = OmegaConf.load(path)
        assert isinstance(config, DictConfig)
        for base in (each for each in config.pop("defaults", []) if each != "_self_"):
            config = OmegaConf.merge(OmegaConf.load(path.with_name(f"{base}.yaml")), config)
            assert isinstance(config, DictConfig)
        if "name" in config or isinstance(config.get("llm"), str):  # and not made of random numbers
            found[path.stem] = config
    return found


def proofs() -> Iterator[Finding]:
    """Commands that show by doing it that a thing works here."""
    gpu = torch.cuda.is_available()
    yield Finding("to prove it", "the embedded model", None, "usdm respond text='hello' output=reply.wav")
    yield Finding("to prove it", "the code", None, "make test-gpu" if gpu else "make test")
    size_of_it = "random_7b device=cuda" if gpu else "random_small"
    yield Finding("to prove it", "speed and memory", None, f"usdm benchmark model={size_of_it}")
    yield Finding("to prove it", "the published model", None, "usdm plan model=usdm_dailytalk, then usdm respond")
