"""Randomness that any part of a corpus can rebuild on its own."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    """The generator of (seed, epoch, name), for example an utterance's id; independent of all others.

    Philox takes its key as it is, so this costs microseconds, and the hash is the same on every machine.
    """
    key = hashlib.blake2b(f"{seed}/{epoch}/{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype="<u8")))
