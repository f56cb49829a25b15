"""What a corpus holds and what is odd in it: sounds, rows, units; as JSON and as one page."""
