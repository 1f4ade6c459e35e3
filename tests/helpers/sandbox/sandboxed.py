"""The mark of tests that need the sandbox; where it cannot be had they skip and say why."""

import pytest

from filters._sandbox import sandbox
from synth.core.errors import UserError


def missing():
    try:
        sandbox.require()
    except UserError as error:
        return str(error)
    return ""


MISSING = missing()
needs_sandbox = pytest.mark.skipif(bool(MISSING), reason=MISSING)
