"""Encoders: opened, trimmed, turned into vectors. Knows no task and no measure."""
