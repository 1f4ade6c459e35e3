"""The stages of a run. Here alone filters and student are brought in."""

from synth.stages.pipeline import STAGES, do_stage

__all__ = ["STAGES", "do_stage"]
