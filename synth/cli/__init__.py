"""The command line `distill`: a command each for stages, checks, previews and explanations."""
