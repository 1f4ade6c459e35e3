"""The process that runs: its environment, and how it is interrupted."""
