"""Settings of the verbs that make a model, from dialog text to a packaged folder, and that plan and measure it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from usdm.config.verb_schema import Verb


@dataclass
class Shared:
    """What several parts of one experiment must agree on, written once in `conf/experiment/<name>.yaml`."""

    name: str = MISSING  # of the experiment
    folder: str = MISSING  # the stages' outputs lie in it
    num_units: int = MISSING  # K
    unit_rate: Any = MISSING  # Hz: a number, Mimi's is 12.5; whole ones stay so
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
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class PrepareSentences(Stage):
    text_files: list[str] = MISSING
    dialogs_folder: str = MISSING
    sentences: int = MISSING
    min_words: int = MISSING
    max_words: int = MISSING
    not_understood_share: float = MISSING
    dev_share: float = MISSING
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class PrepareQuestions(Stage):
    file: str = MISSING
    language: Any = MISSING  # usdm.tokens.language
    columns: list[str] = MISSING
    vocabulary_size: int = MISSING
    max_words: int = MISSING
    copies: int = MISSING
    dev_share: float = MISSING
    test_share: float = MISSING
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class SynthesizeCorpus(Stage):
    dialogs_file: str = MISSING
    language: Any = MISSING  # usdm.tokens.language
    voices: Any = MISSING
    share: float = MISSING
    after: float = MISSING
    processes: int = MISSING
    seed: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class ImportRecordings(Stage):
    sources: list[str] = MISSING
    language: Any = MISSING  # usdm.tokens.language
    max_seconds: float = MISSING
    dev_every: int = MISSING
    overwrite: bool = MISSING


@dataclass
class ImportCorpus(Stage):
    source: Any = MISSING
    dev_share: float = MISSING
    max_failed_share: float = MISSING
    decode: bool = MISSING
    threads: int = MISSING
    overwrite: bool = MISSING


@dataclass
class Transcribe(Stage):
    corpus: str = MISSING
    asr: Any = MISSING
    language: Any = MISSING  # usdm.tokens.language
    lowest_confidence: float | None = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class Align(Stage):
    corpus: str = MISSING
    aligner: Any = MISSING
    shard_utterances: int = MISSING
    max_failed_share: float = MISSING
    processes: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class RecipeStage:
    verb: str = MISSING
    hours: float = MISSING  # on two cores
    settings: list[str] = field(default_factory=list)  # as on the command line


@dataclass
class MakeModel(Verb):
    shared: Shared = MISSING
    stages: list[RecipeStage] = MISSING
    settings: dict[str, list[str]] = MISSING  # by verb
    texts: str | None = None
    recordings: str | None = None
    heard: str | None = None
    data: str | None = None
    whisper: str = MISSING
    kokoro: str = MISSING
    embedded: str | None = None
    show: bool = MISSING


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
    overwrite: bool = MISSING


@dataclass
class MakePairs(Verb):
    corpora: list[str] = MISSING
    split: str | None = None
    count: int = MISSING
    output_dir: str = MISSING
    seed: int = MISSING
    overwrite: bool = MISSING


@dataclass
class MakeFullDuplexBench(MakePairs):
    pass


@dataclass
class MakeReplyChoices(MakePairs):
    dialogs_file: str | None = None


@dataclass
class TrainPart(Stage):
    """What `usdm.training.loop.train` works with."""

    corpora: list[str] = MISSING
    task: Any = MISSING
    loop: Any = MISSING
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class TrainEncoder(TrainPart):
    encoder: Any = MISSING


@dataclass
class FitKmeans(Stage):
    encoder_folder: str = MISSING
    corpora: list[str] = MISSING
    settings: Any = MISSING
    frames: int = MISSING
    init_from: str | None = None
    overwrite: bool = MISSING
    seed: int = MISSING
    device: str = MISSING


@dataclass
class ExtractUnits(Stage):
    corpora: list[str] = MISSING
    extractor: str = MISSING
    augmentation: Any = None  # usdm.audio.augmentation.SoundAugmentation
    seed: int = MISSING
    shard_utterances: int = MISSING
    batch_seconds: float = MISSING
    processes: int = MISSING
    device: str = MISSING
    job: int = MISSING
    num_jobs: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class ComposeUnits(Stage):
    dialogs_file: str = MISSING
    corpora: list[str] = MISSING
    unit_corpora: list[str] = MISSING
    agents: list[str] = MISSING
    least_phones: int = MISSING
    shard_dialogs: int = MISSING
    max_failed_share: float = MISSING
    processes: int = MISSING
    seed: int = MISSING
    retry_errors: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class TrainTokenizer(Stage):
    corpora: list[str] = MISSING
    size: int = MISSING
    min_frequency: int = MISSING
    extra_characters: str = MISSING
    max_length: int = MISSING
    morphemes: Any = None  # usdm.training.morphemes
    overwrite: bool = MISSING


@dataclass
class TrainLanguageModel(Stage):
    """What pretraining and fine-tuning share."""

    corpora: list[str] = MISSING
    adapter: Any = None  # a configuration of the package peft; null: all weights are trained
    objective: Any = MISSING  # usdm.training.objectives
    labels: str | None = None
    loop: Any = MISSING
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class Pretrain(TrainLanguageModel):
    llm: Any = MISSING
    interleave: Any = MISSING  # usdm.interleave.Interleaving
    order: Any = MISSING  # usdm.data.order, usdm.data.curriculum
    mixture: list[Any] = MISSING  # usdm.data.mixture.MixtureMember
    segment_units: Any = MISSING  # a number, or a curriculum of pairs: from this step on, so many units


@dataclass
class EvaluatePretraining(Pretrain):
    asked: str = MISSING
    split: str = MISSING
    limit: int | None = None
    device: str = MISSING


@dataclass
class PlanTraining(Verb):
    shared: Shared = MISSING
    architecture: Any = MISSING  # a configuration of transformers
    adapter: Any = None
    loop: Any = MISSING
    corpus_hours: float = MISSING
    unit_rate: Any = MISSING
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
    memory_utterances: list[int] = MISSING
    seed: int = MISSING


@dataclass
class Finetune(TrainLanguageModel):
    pretrained: str = MISSING
    llm: Any = None
    template: Any = MISSING
    agent_roles: list[str] = MISSING
    history_turns: int = MISSING
    layouts: dict[str, float] | None = None
    noise: Any = None  # usdm.data.unit_noise.UnitNoise
    splice_augmentation: Any = None  # usdm.data.splice_augmentation.SpliceAugmentation
    order: Any = MISSING  # usdm.data.curriculum, or usdm.data.order.Shuffled
    preferences: list[str] = MISSING


@dataclass
class PreparePreferences(Stage):
    preference_source: Any = MISSING  # usdm.data.preference_folder.PreferenceSource
    corpora: list[str] = MISSING
    splits: list[str] = MISSING
    limit: int | None = None
    skip: int = MISSING
    agent_roles: list[str] = MISSING
    history_turns: int = MISSING
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class SelfTrain(Stage):
    pretrained: str = MISSING
    corpora: list[str] = MISSING
    loop: Any = MISSING
    rounds: int = MISSING
    questions: int = MISSING
    stage: str = MISSING
    beta: float = MISSING
    temperature: float = MISSING
    top_p: float = MISSING
    max_new_tokens: int = MISSING
    capacity: int = MISSING
    dev_every: int = MISSING
    agent_roles: list[str] = MISSING
    history_turns: int = MISSING
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class TrainReward(Stage):
    pretrained: str = MISSING
    preferences: str = MISSING
    test_preferences: dict[str, str] = MISSING
    stage: str = MISSING
    layout: str | None = None
    loop: Any = MISSING  # usdm.training.reward.RewardLoop
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class Reinforce(Stage):
    pretrained: str = MISSING
    corpora: list[str] = MISSING
    reward: Any = MISSING  # usdm.training.rewards.Reward
    watch: dict[str, Any] = MISSING
    stage: str = MISSING
    typed: bool = MISSING
    history_turns: int = MISSING
    questions: int | None = None
    loop: Any = MISSING  # usdm.training.reinforcement.ReinforcementLoop
    overwrite: bool = MISSING
    seed: int = MISSING


@dataclass
class EvaluateFinetuning(Finetune):
    labels: str = MISSING  # also without a curriculum
    split: str = MISSING
    limit: int | None = None
    device: str = MISSING


@dataclass
class TrainDecoder(TrainPart):
    unit_corpus: str = MISSING
    decoder: Any = MISSING


@dataclass
class TrainVocoder(TrainPart):
    vocoder: Any = MISSING


@dataclass
class TrainTurnHead(Stage):
    unit_extractor: str = MISSING
    corpora: list[str] = MISSING
    utterances: int = MISSING
    dev_utterances: int = MISSING
    cuts: int = MISSING
    lengths: Any = MISSING  # usdm.turns.moments.PauseLengths
    hidden: int = MISSING
    steps: int = MISSING
    learning_rate: float = MISSING
    seed: int = MISSING
    overwrite: bool = MISSING


@dataclass
class TrainUnitHifigan(TrainPart):
    unit_corpus: str = MISSING
    unit_hifigan: Any = MISSING


@dataclass
class TrainCodec(TrainPart):
    codec: Any = MISSING


@dataclass
class AverageModels(Stage):
    models: list[str] = MISSING
    shares: list[float] = MISSING
    overwrite: bool = MISSING


@dataclass
class PackageModel(Stage):
    parts: dict[str, str] = MISSING
    runs: dict[str, str] = MISSING
    facts: dict[str, str] = MISSING
    languages: list[str] = MISSING
    license_id: str = MISSING
    generation: Any = MISSING  # usdm.chain.GenerationSettings
    voices: dict[str, str | None] | None = None  # names, and the speakers that they are; null takes one away
    voices_corpus: str | None = None
    turn_head: str | None = None
    rejection: str | None = None
    scorecard: str | None = None
    tables: list[str] = MISSING


@dataclass
class Status(Verb):
    shared: Shared = MISSING
    json: str | None = None
