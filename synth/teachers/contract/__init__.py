"""Old name of `synth.teachers.base`, kept for one release for users' own modules."""

from synth.teachers.base import *  # noqa: F403
