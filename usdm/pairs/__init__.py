"""Pairs of sounds of which a speech language model should find one likelier: textless language modelling."""
