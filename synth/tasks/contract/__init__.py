"""Old name of `synth.tasks.base`, kept for one release for users' own modules."""

from synth.tasks.base import *  # noqa: F403
