"""Word times for a speech corpus: CTC forced alignment over several kinds of models, PocketSphinx, Praat TextGrids."""

from data_prep.alignment.aligned import Aligned, Aligner, Unaligned
from data_prep.alignment.boundaries import BoundaryError, boundary_error
from data_prep.alignment.corpus import AlignmentReport, align_corpus
from data_prep.alignment.makers import hub_ctc, mms, phones
from data_prep.alignment.pocketsphinx_aligner import PocketSphinxAligner
from data_prep.alignment.textgrid import TextGridAligner, read_textgrid

__all__ = [
    "Aligned",
    "Aligner",
    "AlignmentReport",
    "BoundaryError",
    "PocketSphinxAligner",
    "TextGridAligner",
    "Unaligned",
    "align_corpus",
    "boundary_error",
    "hub_ctc",
    "mms",
    "phones",
    "read_textgrid",
]
