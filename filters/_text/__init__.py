"""Text of traces: its prose, words, languages, mathematics and personal data."""
