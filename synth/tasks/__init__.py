"""Task sources: a public module is a source, and `load_tasks` reads those of a config."""

from synth.tasks._load import TaskSets, first_mistake, load_tasks, source_tasks

__all__ = ["TaskSets", "first_mistake", "load_tasks", "source_tasks"]
