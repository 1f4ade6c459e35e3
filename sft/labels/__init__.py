"""Soft labels: the stored top-k logits of a teacher, how they are computed and read."""
