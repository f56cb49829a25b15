"""Benchmarks of assistants: questions in their published files, replies scored by their rules, or by a judge."""
