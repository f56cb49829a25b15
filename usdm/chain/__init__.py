"""From a question to a spoken reply: the stages in a row, and the pipeline around them."""

from usdm.chain.components import Components
from usdm.chain.listening import Listener
from usdm.chain.locations import bundle_folder, bundle_locations, embedded_models
from usdm.chain.options import LoadOptions
from usdm.chain.pipeline import SpokenDialogPipeline
from usdm.chain.replies import ReplyOptions
from usdm.chain.settings import GenerationSettings
from usdm.chain.stages import Answer, Chain, LanguageModelChain, Question, SpokenText
from usdm.chain.streaming import SpokenChunk
from usdm.unit_to_speech import DecoderSampling

__all__ = [
    "Answer",
    "Chain",
    "DecoderSampling",
    "GenerationSettings",
    "LanguageModelChain",
    "Listener",
    "LoadOptions",
    "Components",
    "Question",
    "ReplyOptions",
    "SpokenChunk",
    "SpokenDialogPipeline",
    "SpokenText",
    "bundle_folder",
    "bundle_locations",
    "embedded_models",
]
