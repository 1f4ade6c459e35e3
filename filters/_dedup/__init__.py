"""Deduplication: comparison of texts, index of kept records, selection of survivors."""
