"""Corpora in: dialog text, synthesised speech, recordings. Each module writes one thing that training reads."""
