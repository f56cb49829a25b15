"""One dataclass a verb, first in the defaults list of `conf/<verb>.yaml`: a misspelt or mistyped key fails with its
full name. Fields typed `Any` hold parts that can be swapped: a `_target_` and its arguments, from a group of `conf/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.config.classifier_schemas import (
    EvaluateAdaptation,
    EvaluateClassifier,
    EvaluateRejection,
    FitRejection,
    PrepareIntents,
    PrepareShift,
    TrainClassifier,
)
from usdm.config.model_schemas import (
    AttributeErrors,
    Benchmark,
    CheckEcho,
    CompareDecoders,
    CompareDeliveries,
    CompareModels,
    CompareResults,
    CompareSampling,
    CompareStreaming,
    CompareTurnDetection,
    CompareVoices,
    ConvertCodec,
    ConvertUnits,
    ConvertVocos,
    Demo,
    Doctor,
    Evaluate,
    EvaluateAssistant,
    EvaluateKnowledge,
    EvaluatePairs,
    Gate,
    MeasureConversation,
    Plan,
    Predict,
    Report,
    Respond,
    Score,
    Serve,
    Synthesize,
)
from usdm.config.recipe_schemas import (
    Align,
    AverageModels,
    BenchmarkTraining,
    ComposeUnits,
    EvaluateFinetuning,
    EvaluatePretraining,
    ExtractUnits,
    Finetune,
    FitKmeans,
    ImportCorpus,
    ImportRecordings,
    Inspect,
    MakeFullDuplexBench,
    MakeHeldOut,
    MakeModel,
    MakePairs,
    MakeReplyChoices,
    PackageModel,
    PlanTraining,
    PrepareDialogs,
    PreparePreferences,
    PrepareQuestions,
    PrepareSentences,
    Pretrain,
    Reinforce,
    SelfTrain,
    Status,
    SynthesizeCorpus,
    TrainCodec,
    TrainDecoder,
    TrainEncoder,
    TrainReward,
    TrainTokenizer,
    TrainTurnHead,
    TrainUnitHifigan,
    TrainVocoder,
    Transcribe,
)
from usdm.config.verb_schema import Verb

OUTSIDE = ("debug", "figure", "shared")  # keys that the work itself never sees

SCHEMAS: dict[str, type[Verb]] = {
    "respond": Respond,
    "synthesize": Synthesize,
    "demo": Demo,
    "serve": Serve,
    "check_echo": CheckEcho,
    "plan": Plan,
    "doctor": Doctor,
    "predict": Predict,
    "score": Score,
    "evaluate": Evaluate,
    "evaluate_assistant": EvaluateAssistant,
    "evaluate_pairs": EvaluatePairs,
    "evaluate_knowledge": EvaluateKnowledge,
    "compare_results": CompareResults,
    "gate": Gate,
    "report": Report,
    "attribute_errors": AttributeErrors,
    "benchmark": Benchmark,
    "compare_models": CompareModels,
    "compare_sampling": CompareSampling,
    "compare_voices": CompareVoices,
    "compare_deliveries": CompareDeliveries,
    "compare_streaming": CompareStreaming,
    "compare_turn_detection": CompareTurnDetection,
    "measure_conversation": MeasureConversation,
    "compare_decoders": CompareDecoders,
    "convert_units": ConvertUnits,
    "convert_codec": ConvertCodec,
    "convert_vocos": ConvertVocos,
    "make_model": MakeModel,
    "prepare_dialogs": PrepareDialogs,
    "prepare_sentences": PrepareSentences,
    "prepare_questions": PrepareQuestions,
    "synthesize_corpus": SynthesizeCorpus,
    "import_recordings": ImportRecordings,
    "import_corpus": ImportCorpus,
    "transcribe": Transcribe,
    "align": Align,
    "inspect": Inspect,
    "make_held_out": MakeHeldOut,
    "make_pairs": MakePairs,
    "make_reply_choices": MakeReplyChoices,
    "make_full_duplex_bench": MakeFullDuplexBench,
    "train_encoder": TrainEncoder,
    "fit_kmeans": FitKmeans,
    "extract_units": ExtractUnits,
    "compose_units": ComposeUnits,
    "train_tokenizer": TrainTokenizer,
    "pretrain": Pretrain,
    "evaluate_pretraining": EvaluatePretraining,
    "finetune": Finetune,
    "prepare_preferences": PreparePreferences,
    "self_train": SelfTrain,
    "train_reward": TrainReward,
    "reinforce": Reinforce,
    "evaluate_finetuning": EvaluateFinetuning,
    "average_models": AverageModels,
    "plan_training": PlanTraining,
    "benchmark_training": BenchmarkTraining,
    "train_decoder": TrainDecoder,
    "train_vocoder": TrainVocoder,
    "train_turn_head": TrainTurnHead,
    "train_unit_hifigan": TrainUnitHifigan,
    "train_codec": TrainCodec,
    "prepare_intents": PrepareIntents,
    "prepare_shift": PrepareShift,
    "train_classifier": TrainClassifier,
    "evaluate_classifier": EvaluateClassifier,
    "fit_rejection": FitRejection,
    "evaluate_rejection": EvaluateRejection,
    "evaluate_adaptation": EvaluateAdaptation,
    "package_model": PackageModel,
    "status": Status,
}


def register_schemas(verbs: Iterable[str] = SCHEMAS) -> None:
    """Make `<verb>_schema` known to Hydra for the defaults lists of these verbs' primary yamls."""
    for verb in verbs:
        ConfigStore.instance().store(name=f"{verb}_schema", node=SCHEMAS[verb])


def arguments(config: DictConfig) -> dict[str, Any]:
    """A verb's own settings as the keyword arguments of the function that does its work, parts built."""
    return {key: value for key, value in instantiate(config, _convert_="all").items() if key not in OUTSIDE}
