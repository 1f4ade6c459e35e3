"""Decoding of the embedded teacher: continuous batching and sampling."""
