"""Trace sources: a public module is a source, and `read_traces` reads those of a config."""

from synth.traces._layouts.known import LAYOUTS
from synth.traces._load import Tally, read_traces

__all__ = ["LAYOUTS", "Tally", "read_traces"]
