"""Decontamination: evaluation sets and the index that finds their questions in texts."""
