"""Ranks, measures and tests. Knows no data set and no model."""
