"""Figures of what a model says and how it sounds: words, voice, pitch, quality; their intervals, and their tables."""
