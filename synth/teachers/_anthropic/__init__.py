"""Anthropic's messages and streams in the form of chat completions."""
