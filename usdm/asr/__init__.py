"""Recognisers: judges of how intelligible sound is, ears of a cascade, and writers of transcripts.

One file a kind, one yaml in `conf/asr` for each; what all of them do says `usdm.asr.recogniser.Recogniser`.
"""
