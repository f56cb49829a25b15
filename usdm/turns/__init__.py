"""Turn-taking: when the person begins to speak, and when it is the model's turn."""

from usdm.turns.detector import (
    SAMPLE_RATE,
    SpeechDismissed,
    SpeechStarted,
    SpeechStopped,
    SpeechSuspected,
    TurnDetection,
    TurnDetector,
    TurnEvent,
    samples_of,
)
from usdm.turns.head import HEAD_FOLDER, TurnHead, turn_states
from usdm.turns.push_to_talk import PushToTalk
from usdm.turns.silence import Pause, Silence, Speech, SpeechTracker
from usdm.turns.turn_head import TurnHeadDetector, TurnHeadRule, probability_of_end
from usdm.turns.voice_activity import FRAME, VoiceActivity

__all__ = [
    "FRAME",
    "HEAD_FOLDER",
    "SAMPLE_RATE",
    "Pause",
    "PushToTalk",
    "Silence",
    "Speech",
    "SpeechDismissed",
    "SpeechStarted",
    "SpeechStopped",
    "SpeechSuspected",
    "SpeechTracker",
    "TurnDetection",
    "TurnDetector",
    "TurnEvent",
    "TurnHead",
    "TurnHeadDetector",
    "TurnHeadRule",
    "VoiceActivity",
    "probability_of_end",
    "samples_of",
    "turn_states",
]
