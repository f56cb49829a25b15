"""Corpora in: sources that describe utterances, and the import that checks them and writes a speech corpus."""

from data_prep.corpora.importing import FAILED_FILE, Failure, ImportReport, import_corpus
from data_prep.corpora.item import Item

__all__ = ["FAILED_FILE", "Failure", "ImportReport", "Item", "import_corpus"]
