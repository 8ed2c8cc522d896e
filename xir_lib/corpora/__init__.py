"""Corpora: one file per source, two record types, and the downloads. Knows no model and no
measure.
"""
