"""From a question to a spoken reply: the stages in a row, and the pipeline around them."""

from usdm.chain.parts import Parts, bundle_folder, embedded_models
from usdm.chain.pipeline import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.chain.stages import Answer, Chain, LanguageModelChain, Question

__all__ = [
    "Answer",
    "Chain",
    "DecoderSampling",
    "GenerationSettings",
    "LanguageModelChain",
    "Parts",
    "Question",
    "SpokenDialogPipeline",
    "bundle_folder",
    "embedded_models",
]
