"""The Festival synthesiser (Debian packages `festival`, `festvox-kdlpc16k`) through its command, with word times."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from data_prep.embedded_model.flite import Synthesised
from data_prep.sound_file import read_spoken
from usdm.system_packages import install
from usdm.types import AlignedWord, InputError

VOICES = ("ked",)  # its dictionary is free; the British voices' is for non-commercial use only

_SCRIPT = """
(voice_{voice}_diphone)
(Parameter.set 'Duration_Stretch {stretch})
(set! spoken (utt.synth (Utterance Text "{text}")))
(utt.save.wave spoken "{path}" 'riff)
(mapcar
 (lambda (word) (format t "%s %f %f\\n" (item.name word) (item.feat word "word_start") (item.feat word "word_end")))
 (utt.relation.items spoken 'Word))
"""


def speak(text: str, voice: str, *, stretch: float = 1.0) -> Synthesised:
    """Say `text` (letters and `',.?` alone); `stretch` > 1 is slower speech.

    Raises:
        InputError: the voice is unknown, the program or voice is not installed, or it says nothing.
    """
    if voice not in VOICES:
        raise InputError(f"Unknown Festival voice '{voice}': choose one of {', '.join(VOICES)}.")
    with tempfile.TemporaryDirectory() as folder:
        path, script = Path(folder) / "spoken.wav", Path(folder) / "say.scm"
        script.write_text(_SCRIPT.format(voice=voice, stretch=stretch, text=text, path=path))
        try:
            done = subprocess.run(["festival", "--batch", str(script)], capture_output=True, text=True)
        except FileNotFoundError as error:
            raise InputError(f"festival is not there: {install('festival', 'festvox-kdlpc16k')}.") from error
        if done.returncode:
            raise InputError(
                f"Festival cannot say {text!r} with {voice} ({done.stderr.strip()}): {install('festvox-kdlpc16k')}."
            )
        return Synthesised(*read_spoken(path, text), (), tuple(_words(done.stdout)))


def _words(printed: str) -> list[AlignedWord]:
    """Of lines `name start end` (s). Festival takes `'s` for a word, at 0 s if it is one sound with the last."""
    words: list[AlignedWord] = []
    for name, start, end in map(str.split, printed.splitlines()):
        if name.startswith("'") and words:
            before = words.pop()
            words.append(AlignedWord(before.text + name, before.start, max(before.end, float(end))))
        else:
            words.append(AlignedWord(name, float(start), float(end)))
    return words
