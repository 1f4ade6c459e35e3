"""Old name of `synth.core.logprobs.read_logprobs`, kept for one release for users' own scripts."""

from synth.core.logprobs import read_logprobs as read_labels

__all__ = ["read_labels"]
