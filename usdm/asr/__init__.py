"""Recognisers that have nothing to do with the model: judges of how intelligible sound is."""
