"""Layouts: which columns hold what, and how rows become records."""
