"""A run's folder belongs to one command at a time."""

import subprocess
import sys

import pytest

from synth.core.errors import UserError
from synth.core.run_folder import lock_run_folder

HOLD = """
import sys
from pathlib import Path
from synth.core.run_folder import lock_run_folder
with lock_run_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_command_is_refused_until_the_first_is_gone_even_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(
            UserError, match=rf"another command works on this run \(process {holder.pid}\)"
        ),
        lock_run_folder(tmp_path),
    ):
        pass
    holder.kill()
    holder.wait()
    with lock_run_folder(tmp_path):
        pass
    with lock_run_folder(tmp_path):
        pass
