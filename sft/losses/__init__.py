"""Losses of distillation: divergences, cross-entropy, hidden states, and their mix."""
