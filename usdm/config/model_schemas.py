"""Settings of the verbs that use, judge or convert a finished model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from usdm.config.verb_schema import Verb


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
    num_beams: int | None = None


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


class Told(Enum):
    """What a model is told instead of finding it out."""

    transcript = "transcript"
    reply = "reply"
    units = "units"


class ReplyKind(Enum):
    speech = "speech"
    text = "text"


@dataclass
class Respond(UseModel):
    reject: Any = MISSING  # usdm.chain.rejection.Refusing
    input: str | None = None
    text: str | None = None
    output: str = MISSING
    reply: ReplyKind = MISSING
    trace: str | None = None
    history: Any = None
    reference: str | None = None
    voice: str | None = None
    chain: str | None = None
    candidates: int = MISSING
    choose: Any = None
    stream: bool = MISSING
    seed: int = MISSING
    sampling: ChainSampling = field(default_factory=ChainSampling)
    decoding: Decoding = field(default_factory=Decoding)


@dataclass
class Synthesize(UseModel):
    reject: Any = MISSING  # usdm.chain.rejection.Refusing
    requests: str = MISSING
    output_dir: str = MISSING
    shard: int = MISSING
    num_shards: int = MISSING
    capacity: int = MISSING
    encode_batch: int | None = None
    decode_batch: int | None = None
    retry_errors: bool = MISSING
    overwrite: bool = MISSING
    chain: str | None = None
    candidates: int = MISSING
    choose: Any = None
    seed: int = MISSING
    sampling: ChainSampling = field(default_factory=ChainSampling)
    decoding: Decoding = field(default_factory=Decoding)


@dataclass
class Demo(UseModel):
    reject: Any = MISSING  # usdm.chain.rejection.Refusing
    host: str = MISSING
    port: int = MISSING
    share: bool = MISSING
    turn_detection: Any = MISSING


@dataclass
class ServeLimits:
    """See `usdm.serve.limits.Limits`."""

    sessions: int = MISSING
    message_bytes: int = MISSING
    upload_bytes: int = MISSING
    turn_seconds: float = MISSING
    idle_seconds: float = MISSING
    items: int = MISSING
    unread_bytes: int = MISSING
    waiting_seconds: float = MISSING


@dataclass
class Serve(UseModel):
    reject: Any = MISSING  # usdm.chain.rejection.Refusing
    host: str = MISSING
    port: int = MISSING
    chain: str | None = None
    capacity: int = MISSING
    turn_detection: Any = MISSING
    limits: ServeLimits = field(default_factory=ServeLimits)


@dataclass
class CheckEcho(UseModel):
    turn_detection: Any = MISSING
    replies: list[str] = MISSING
    levels: list[float] = MISSING
    delays: list[float] = MISSING
    rooms: list[float] = MISSING
    speech: str | None = None
    speech_levels: list[float] = MISSING
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class Plan(UseModel):
    context: int = MISSING
    json: str | None = None
    must_fit: bool = MISSING


@dataclass
class Doctor(Verb):
    json: str | None = None


@dataclass
class JudgeModel(UseModel):
    """What the verbs share in which a recogniser judges what a model says."""

    asr: Any = MISSING


@dataclass
class Predict(UseModel):
    reject: Any = MISSING  # usdm.chain.rejection.Refusing
    system: Any = MISSING
    held_out: str | None = None
    split: str | None = None
    limit: int | None = None
    given: Told | None = None
    output_dir: str = MISSING
    capacity: int = MISSING
    seed: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class Score(Verb):
    predictions: str = MISSING
    asr: Any = MISSING
    metric: Any = MISSING
    by: str | None = None
    training_corpus: str | None = None
    dialogs_file: str | None = None
    seed: int = MISSING


@dataclass
class Evaluate(JudgeModel):
    reject: Any = MISSING  # usdm.chain.rejection.Refusing
    system: Any = MISSING
    metric: Any = MISSING
    dialogs: bool = MISSING
    held_out: str | None = None
    split: str | None = None
    recordings: list[str] = MISSING
    where: dict[str, str] = MISSING
    by: str | None = None
    training_corpus: str | None = None
    dialogs_file: str | None = None
    output_dir: str = MISSING
    limit: int | None = None
    so_far: bool = MISSING
    examples: int = MISSING
    capacity: int = MISSING
    seed: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class CompareResults(Verb):
    folders: list[str] = MISSING
    output_dir: str | None = None
    seed: int = MISSING


@dataclass
class Report(Verb):
    folders: list[str] = MISSING
    output_dir: str = MISSING
    examples: int = MISSING
    seed: int = MISSING


@dataclass
class AttributeErrors(JudgeModel):
    chain: str | None = None
    held_out: str | None = None
    split: str | None = None
    limit: int | None = None
    output_dir: str = MISSING
    capacity: int = MISSING
    seed: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class Gate(Verb):
    before: str = MISSING
    after: str = MISSING
    figures: list[str] = MISSING
    seed: int = MISSING


@dataclass
class EvaluateAssistant(UseModel):
    benchmark: Any = MISSING  # usdm.assistants.items.AssistantBenchmark
    system: Any = MISSING  # usdm.evaluation.predictions.System
    asr: Any = MISSING  # usdm.asr.recogniser.Recogniser
    judge: Any = MISSING  # usdm.assistants.judge.Judge
    speaker: str | None = None
    capacity: int = MISSING
    output_dir: str = MISSING
    seed: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class CompareDeliveries(UseModel):
    held_out: str | None = None
    items: int | None = None
    ways: list[str] = MISSING
    speaker: str | None = None
    samples: int = MISSING
    temperature: float = MISSING
    capacity: int = MISSING
    output_dir: str = MISSING
    seed: int = MISSING
    overwrite: bool = MISSING


@dataclass
class EvaluatePairs(UseModel):
    pairs: Any = MISSING  # usdm.pairs.layouts.Pairs
    scoring: str = MISSING
    batch: int = MISSING
    output_dir: str = MISSING
    seed: int = MISSING


class Hears(Enum):
    """How a question reaches the model as a turn."""

    units = "units"
    text = "text"


class Chooses(Enum):
    letters = "letters"
    options = "options"


class Average(Enum):
    macro = "macro"
    micro = "micro"


@dataclass
class EvaluateKnowledge(UseModel):
    knowledge: Any = MISSING  # usdm.knowledge.harness.HarnessTasks
    hears: Hears | None = None
    chooses: Chooses = MISSING
    speaker: str | None = None
    average: Average = MISSING
    shots: int | None = None
    limit: int | None = None
    batch: int = MISSING
    output_dir: str = MISSING
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
    batch_reference: int = MISSING
    capacity: int | None = None
    decoding_tokens: int = MISSING
    decoding_context: int = MISSING
    seed: int = MISSING


@dataclass
class ComparedModel:
    """What takes the place of parts of the selected model."""

    llm: str | None = None
    chain: str | None = None
    cascade: bool = False


@dataclass
class CompareModels(JudgeModel):
    models: dict[str, Any] = MISSING  # ComparedModel, by name
    cascade: Any = MISSING
    metric: Any = MISSING
    held_out: str | None = None
    split: str | None = None
    training_corpus: str | None = None
    dialogs_file: str | None = None
    output_dir: str = MISSING
    limit: int | None = None
    capacity: int = MISSING
    seed: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class CompareStreaming(JudgeModel):
    settings: list[Any] = MISSING  # lengths of usdm.decoder.StreamingSettings
    quality: bool = MISSING
    held_out: str | None = None
    items: int | None = None
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class CompareVoices(JudgeModel):
    references: list[str] = MISSING
    held_out: str | None = None
    items: int | None = None
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class CompareSampling(JudgeModel):
    held_out: str | None = None
    items: int | None = None
    settings: list[Decoding] = MISSING
    reference: str | None = None
    similarity: bool = MISSING
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class CompareTurnDetection(UseModel):
    corpora: list[str] = MISSING
    split: str | None = None
    calls: list[str] = MISSING
    turns: int | None = None  # of each corpus
    pauses: int = MISSING  # in a turn, at most
    lengths: Any = MISSING  # usdm.turns.moments.PauseLengths
    turn_detection: Any = MISSING  # usdm.turns.TurnHeadRule
    thresholds: list[float] = MISSING
    long_ms: list[int] = MISSING
    silence_ms: list[int] = MISSING
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class MeasureConversation(Verb):
    url: str | None = None
    server: list[str] = MISSING  # arguments of `usdm serve`
    corpus: str | None = None
    split: str | None = None
    conversations: int = MISSING
    concurrency: list[int] = MISSING
    habits: Any = MISSING  # usdm.conversation.script.Habits
    lengths: Any = MISSING  # usdm.turns.moments.PauseLengths
    session: Any = MISSING  # of the protocol's session.update
    full_duplex_bench: str | None = None
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class ConvertCodec(Verb):
    checkpoint: str = MISSING
    output_dir: str = MISSING
    settings: Any = MISSING


@dataclass
class ConvertVocos(Verb):
    checkpoint: str = MISSING
    tokenizer: str = MISSING
    output_dir: str = MISSING


@dataclass
class ComparedDecoder:
    """See `conf/compare_decoders.yaml`; units, vocoder and decoding that are not given are the model's own, or none."""

    name: str = MISSING
    decoder: str = MISSING
    units: str | None = None
    vocoder: str | None = None
    decoding: Decoding = field(default_factory=Decoding)


@dataclass
class CompareDecoders(JudgeModel):
    contenders: list[ComparedDecoder] = MISSING
    speaker: bool = MISSING
    quality: bool = MISSING
    held_out: str | None = MISSING
    items: int | None = MISSING
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class ConvertUnits(Verb):
    checkpoint: str = MISSING
    centroids: str = MISSING
    pickled: bool = MISSING
    output_dir: str = MISSING
    config: Any = MISSING  # None where the checkpoint has it
    settings: Any = MISSING
