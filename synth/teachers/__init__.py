"""Teachers: one file for each kind, with a pydantic `Config` and a factory `build`."""

from synth.teachers._pricing import default_lines, price_of
from synth.teachers._response import parse_answer
from synth.teachers._vllm.options import NON_IDENTITY_ARGUMENTS as VLLM_NON_IDENTITY_ARGUMENTS
from synth.teachers._vllm.options import weights as vllm_weights
from synth.teachers.base import (
    RequestRejected,
    RetryableError,
    Teacher,
    TeacherConfig,
    as_teacher,
)

__all__ = [
    "VLLM_NON_IDENTITY_ARGUMENTS",
    "RequestRejected",
    "RetryableError",
    "Teacher",
    "TeacherConfig",
    "as_teacher",
    "default_lines",
    "parse_answer",
    "price_of",
    "vllm_weights",
]
