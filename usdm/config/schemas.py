"""One dataclass a verb, first in the defaults list of `conf/<verb>.yaml`: a misspelt or mistyped key fails with its
full name. Fields typed `Any` hold parts that can be swapped: a `_target_` and its arguments, from a group of `conf/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig


@dataclass
class Verb:
    """What every verb has."""

    debug: bool = False  # show the stack trace of an error


class Precision(Enum):
    """Of weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantized(Enum):
    """Of the language model's linear layers."""

    int8 = "int8"
    int4 = "int4"


@dataclass
class UseModel(Verb):
    """What the verbs share that use a finished model; see `conf/loading` and `usdm.chain.LoadOptions`."""

    model: Any = MISSING
    device: str | None = None
    dtype: Precision | None = None
    device_map: str | None = None
    quantization: Quantized | None = None
    attention: str | None = None
    decoder_dtype: Precision | None = None
    vocoder_cuda_kernel: bool = False
    threads: int | None = None


@dataclass
class StageSampling:
    """See `usdm.types.Sampling`; what is not given is as the model's bundle has it."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None


@dataclass
class ChainSampling:
    transcribe: StageSampling = field(default_factory=StageSampling)
    respond: StageSampling = field(default_factory=StageSampling)
    speak: StageSampling = field(default_factory=StageSampling)


@dataclass
class Decoding:
    """See `usdm.chain.DecoderSampling`; what is not given is as the model's bundle has it."""

    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    temperature: float | None = None


class ReplyKind(Enum):
    speech = "speech"
    text = "text"


@dataclass
class Respond(UseModel):
    input: str | None = None
    text: str | None = None
    output: str = MISSING
    reply: ReplyKind = MISSING
    trace: str | None = None
    history: Any = None
    reference: str | None = None
    voice: str | None = None
    chain: str | None = None
    stream: bool = MISSING
    seed: int = MISSING
    sampling: ChainSampling = field(default_factory=ChainSampling)
    decoding: Decoding = field(default_factory=Decoding)


@dataclass
class Synthesize(UseModel):
    requests: str = MISSING
    output_dir: str = MISSING
    shard: int = MISSING
    num_shards: int = MISSING
    capacity: int = MISSING
    encode_batch: int | None = None
    decode_batch: int | None = None
    retry_errors: bool = MISSING
    chain: str | None = None
    seed: int = MISSING
    sampling: ChainSampling = field(default_factory=ChainSampling)
    decoding: Decoding = field(default_factory=Decoding)


@dataclass
class Demo(UseModel):
    host: str = MISSING
    port: int = MISSING
    share: bool = MISSING


@dataclass
class Plan(UseModel):
    context: int = MISSING
    json: str | None = None
    must_fit: bool = MISSING


@dataclass
class Evaluate(UseModel):
    dialogs: bool = MISSING
    held_out: str | None = None
    recordings: list[str] = MISSING
    where: dict[str, str] = MISSING
    by: str | None = None
    training_corpus: str | None = None
    dialogs_file: str | None = None
    refusal_phrase: str | None = None
    synthesiser: str | None = None
    output_dir: str = MISSING
    limit: int | None = None
    examples: int = MISSING
    seed: int = MISSING


@dataclass
class Benchmark(UseModel):
    questions: str | None = None
    output_dir: str = MISSING
    limit: int | None = None
    repeats: int = MISSING
    warmup: int = MISSING
    concurrency: list[int] = MISSING
    rounds: int = MISSING
    batch: int = MISSING
    batch_published: int = MISSING
    capacity: int | None = None
    decoding_tokens: int = MISSING
    decoding_context: int = MISSING
    seed: int = MISSING


@dataclass
class ComparedModel:
    """What takes the place of parts of the selected model."""

    llm: str | None = None
    chain: str | None = None


@dataclass
class CompareModels(UseModel):
    models: dict[str, Any] = MISSING  # ComparedModel, by name
    held_out: str | None = None
    training_corpus: str | None = None
    dialogs_file: str | None = None
    output_dir: str = MISSING
    limit: int | None = None
    seed: int = MISSING


@dataclass
class CompareStreaming(UseModel):
    settings: list[Any] = MISSING  # lengths of usdm.decoder.StreamingSettings
    quality: bool = MISSING
    held_out: str | None = None
    items: int | None = None
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class CompareVoices(UseModel):
    references: list[str] = MISSING
    held_out: str | None = None
    items: int | None = None
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class CompareSampling(UseModel):
    held_out: str | None = None
    items: int | None = None
    settings: list[Decoding] = MISSING
    reference: str | None = None
    similarity: bool = MISSING
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class ConvertUnits(Verb):
    checkpoint: str = MISSING
    centroids: str = MISSING
    output_dir: str = MISSING
    config: Any = MISSING  # None where the checkpoint has it
    settings: Any = MISSING


@dataclass
class Shared:
    """What several parts of one experiment must agree on, written once in `conf/experiment/<name>.yaml`."""

    folder: str = MISSING  # the stages' outputs lie in it
    num_units: int = MISSING  # K
    unit_rate: int = MISSING  # Hz
    unit_layer: int = MISSING  # of the encoder, 0-based
    encoder_sample_rate: int = MISSING  # Hz
    encoder_padding: int = MISSING  # samples on each side
    mel: Any = MISSING


@dataclass
class Stage(Verb):
    """A stage of the recipe, with a folder of its own."""

    shared: Shared = MISSING
    output_dir: str = MISSING


@dataclass
class PrepareDialogs(Stage):
    train_file: str = MISSING
    held_out_file: str = MISSING
    vocabulary_size: int = MISSING
    max_user_words: int = MISSING
    max_agent_words: int = MISSING
    max_train_exchanges: int = MISSING
    max_copies: int = MISSING
    max_train_occurrences: int = MISSING
    small_talk_copies: int = MISSING
    noise_turns: int = MISSING
    unknown_words_turns: int = MISSING
    unknown_words_recordings: list[str] = MISSING
    dev_share: float = MISSING
    seed: int = MISSING


@dataclass
class SynthesizeCorpus(Stage):
    dialogs_file: str = MISSING
    voices: Any = MISSING
    processes: int = MISSING
    seed: int = MISSING


@dataclass
class ImportRecordings(Stage):
    sources: list[str] = MISSING
    max_seconds: float = MISSING
    dev_every: int = MISSING


@dataclass
class ImportCorpus(Stage):
    source: Any = MISSING
    dev_share: float = MISSING
    max_failed_share: float = MISSING
    decode: bool = MISSING
    threads: int = MISSING


@dataclass
class Align(Stage):
    corpus: str = MISSING
    aligner: Any = MISSING
    shard_utterances: int = MISSING
    max_failed_share: float = MISSING
    processes: int = MISSING


@dataclass
class Inspect(Verb):
    corpora: list[str] = MISSING
    unit_corpus: str | None = None
    output_dir: str = MISSING
    limit: int | None = None
    outliers: int = MISSING
    processes: int = MISSING
    seed: int = MISSING


@dataclass
class MakeHeldOut(Stage):
    corpus: str = MISSING
    exchanges: int = MISSING
    seed: int = MISSING


@dataclass
class TrainPart(Stage):
    """What `usdm.training.loop.train` works with."""

    corpora: list[str] = MISSING
    task: Any = MISSING
    loop: Any = MISSING
    seed: int = MISSING


@dataclass
class TrainEncoder(TrainPart):
    encoder: Any = MISSING


@dataclass
class FitKmeans(Stage):
    encoder: str = MISSING
    corpora: list[str] = MISSING
    settings: Any = MISSING
    frames: int = MISSING
    predecessor: str | None = None
    seed: int = MISSING


@dataclass
class ExtractUnits(Stage):
    corpora: list[str] = MISSING
    extractor: str = MISSING
    shard_utterances: int = MISSING
    batch_seconds: float = MISSING
    processes: int = MISSING
    job: int = MISSING
    num_jobs: int = MISSING


@dataclass
class TrainTokenizer(Stage):
    corpora: list[str] = MISSING
    size: int = MISSING
    min_frequency: int = MISSING
    extra_characters: str = MISSING
    max_length: int = MISSING


@dataclass
class TrainLanguageModel(Stage):
    """What pretraining and fine-tuning share."""

    corpora: list[str] = MISSING
    adapter: Any = None  # a configuration of the package peft; null: all weights are trained
    loop: Any = MISSING
    seed: int = MISSING


@dataclass
class Interleave:
    pattern: str = MISSING


@dataclass
class Pretrain(TrainLanguageModel):
    llm: Any = MISSING
    interleave: Interleave = MISSING
    order: Any = MISSING  # usdm.data.order
    mixture: list[Any] = MISSING  # usdm.data.mixture.MixtureMember
    segment_units: Any = MISSING  # a number, or a curriculum of pairs: from this step on, so many units


@dataclass
class PlanTraining(Verb):
    shared: Shared = MISSING
    architecture: Any = MISSING  # a configuration of transformers
    adapter: Any = None
    loop: Any = MISSING
    corpus_hours: float = MISSING
    unit_rate: int = MISSING
    gpu: str = MISSING
    processes: int = MISSING
    efficiency: float = MISSING
    json: str | None = None
    seed: int = MISSING


@dataclass
class BenchmarkTraining(Stage):
    llm: Any = MISSING
    adapter: Any = None
    loop: Any = MISSING
    corpus_units: list[int] = MISSING
    data_row_length: int = MISSING
    data_rows: int = MISSING
    seed: int = MISSING


@dataclass
class Finetune(TrainLanguageModel):
    pretrained: str = MISSING
    template: Any = MISSING
    agent_roles: list[str] = MISSING
    history_turns: int = MISSING
    layouts: dict[str, float] | None = None
    noise: Any = None  # usdm.data.unit_noise.UnitNoise
    splices: Any = None  # usdm.data.splices.Splices


@dataclass
class TrainDecoder(TrainPart):
    unit_corpus: str = MISSING
    decoder: Any = MISSING


@dataclass
class TrainVocoder(TrainPart):
    vocoder: Any = MISSING


@dataclass
class PackageModel(Stage):
    parts: dict[str, str] = MISSING
    runs: dict[str, str] = MISSING
    facts: dict[str, str] = MISSING
    generation: Any = MISSING  # usdm.chain.GenerationSettings
    voices: dict[str, str] | None = None  # names, and the speakers that they are
    voices_corpus: str | None = None
    scorecard: str | None = None
    tables: list[str] = MISSING


OUTSIDE = ("debug", "shared")  # keys that the work itself never sees

SCHEMAS: dict[str, type[Verb]] = {
    "respond": Respond,
    "synthesize": Synthesize,
    "demo": Demo,
    "plan": Plan,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
    "compare_models": CompareModels,
    "compare_sampling": CompareSampling,
    "compare_voices": CompareVoices,
    "compare_streaming": CompareStreaming,
    "convert_units": ConvertUnits,
    "prepare_dialogs": PrepareDialogs,
    "synthesize_corpus": SynthesizeCorpus,
    "import_recordings": ImportRecordings,
    "import_corpus": ImportCorpus,
    "align": Align,
    "inspect": Inspect,
    "make_held_out": MakeHeldOut,
    "train_encoder": TrainEncoder,
    "fit_kmeans": FitKmeans,
    "extract_units": ExtractUnits,
    "train_tokenizer": TrainTokenizer,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "plan_training": PlanTraining,
    "benchmark_training": BenchmarkTraining,
    "train_decoder": TrainDecoder,
    "train_vocoder": TrainVocoder,
    "package_model": PackageModel,
}


def register_schemas() -> None:
    """Make `<verb>_schema` known to Hydra for the defaults list of every primary yaml."""
    for verb, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{verb}_schema", node=schema)


def arguments(config: DictConfig) -> dict[str, Any]:
    """A verb's own settings as the keyword arguments of the function that does its work, parts built."""
    return {key: value for key, value in instantiate(config, _convert_="all").items() if key not in OUTSIDE}
