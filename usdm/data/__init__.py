"""Corpora on disk, and the training sequences and packed rows that are made from them."""
