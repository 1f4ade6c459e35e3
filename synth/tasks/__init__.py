"""Task sources: a public module is a source, and `load_tasks` reads those of a config."""

from synth.tasks._load import TaskSets, load_tasks, source_tasks

__all__ = ["TaskSets", "load_tasks", "source_tasks"]
