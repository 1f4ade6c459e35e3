"""Conversations as training data: chat templates, tokens with loss masks, order of batches."""
