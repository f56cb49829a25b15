"""Turn-taking: when the person begins to speak, and when it is the model's turn."""

from usdm.turns.detector import Hearing, SpeechStarted, SpeechStopped, TurnDetection, TurnDetector, TurnEvent
from usdm.turns.push_to_talk import PushToTalk
from usdm.turns.silence import Silence
from usdm.turns.voice_activity import VoiceActivity

__all__ = [
    "Hearing",
    "PushToTalk",
    "Silence",
    "SpeechStarted",
    "SpeechStopped",
    "TurnDetection",
    "TurnDetector",
    "TurnEvent",
    "VoiceActivity",
]
