"""Old name of `synth.traces.base`, kept for one release for users' own modules."""

from synth.traces.base import *  # noqa: F403
