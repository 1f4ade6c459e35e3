"""Generation: teachers answer the questions; each answer is stored before it counts."""

from synth.generate.runner import generate
from synth.generate.spec import GenerationSpec
from synth.generate.sync_client import SyncClient

__all__ = ["GenerationSpec", "SyncClient", "generate"]
