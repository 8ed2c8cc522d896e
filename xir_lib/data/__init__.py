"""Pairs and tasks: two types, readers, one file a source. Knows no model and no measure."""
