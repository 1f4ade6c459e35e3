"""Final answers: how they are found in a text, compared, and counted as votes."""
