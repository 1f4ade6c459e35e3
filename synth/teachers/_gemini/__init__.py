"""Gemini's responses and streams in the form of chat completions."""
