"""The speech-text language model and constrained generation with it."""

from usdm.lm.batch import ContinuousBatch
from usdm.lm.generation import Generated, TokenStream, warm_up
from usdm.lm.likelihood import log_probabilities, next_log_probabilities
from usdm.lm.mistral import LanguageModel, Mistral, in_transformers
from usdm.lm.model import (
    build_model,
    change_vocabulary,
    check_model,
    count_parameters,
    extend_embeddings,
    load_for_generation,
    load_model,
    max_positions,
    num_rows,
)
from usdm.lm.sampling import check_sampling
from usdm.lm.stage_program import GenerateRequest, StageProgram, TokenEvent, finish, play

__all__ = [
    "ContinuousBatch",
    "Generated",
    "LanguageModel",
    "Mistral",
    "StageProgram",
    "TokenStream",
    "GenerateRequest",
    "TokenEvent",
    "build_model",
    "change_vocabulary",
    "check_model",
    "check_sampling",
    "count_parameters",
    "extend_embeddings",
    "finish",
    "in_transformers",
    "load_for_generation",
    "load_model",
    "log_probabilities",
    "max_positions",
    "next_log_probabilities",
    "num_rows",
    "play",
    "warm_up",
]
