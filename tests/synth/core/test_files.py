"""Folders are replaced whole: a kill at any moment leaves the old one or the new one to be found."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synth.core.files import (
    finish_replacing,
    is_half_replaced,
    replace_folder,
)
from synth.core.run_folder import RunFolder

# Kills itself at the n-th step of the replacing: before each rename and each deletion, and at the
# end. What is deleted goes file by file, so a kill in the midst of it is among the moments.
SCRIPT = """
import os, shutil, signal, sys
from pathlib import Path
from synth.core.files import replace_folder
left = int(sys.argv[3])
def counted(function):
    def call(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **options)
    return call
Path.rename = counted(Path.rename)
os.unlink, os.rmdir = counted(os.unlink), counted(os.rmdir)
folder = Path(sys.argv[1])
replace_folder(folder.with_name("made"), folder, Path(sys.argv[2]) if sys.argv[2] else None)
"""


def made(folder, text):
    (folder / "data").mkdir(parents=True)
    for name in ("a", "data/b"):
        (folder / name).write_text(text)


def content(folder):
    return {(folder / name).read_text() for name in ("a", "data/b")}


@pytest.mark.parametrize("keeps", [False, True])
def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path, keeps):
    moments = 0
    for moment in range(20):
        run = tmp_path / str(moment)
        folder, kept = run / "train", run / "kept"
        made(folder, "old")
        made(run / "made", "new")
        if keeps:
            made(kept, "older")  # of the same name
        script = [
            sys.executable,
            "-c",
            SCRIPT,
            str(folder),
            str(kept) if keeps else "",
            str(moment),
        ]
        done = subprocess.run(script, cwd=Path(__file__).parents[3], check=False)
        if done.returncode == 0:
            break
        moments += 1
        assert done.returncode == -signal.SIGKILL
        found = RunFolder(run).stage("train")
        assert content(found) in ({"old"}, {"new"}), moment
        if content(found) == {"old"}:  # the new one waits, where it was made or beside
            waiting = [run / "made", run / "train.new"]
            assert [content(path) for path in waiting if path.exists()] == [{"new"}]
        finish_replacing(folder, kept if keeps else None)
        if (run / "made").exists():
            replace_folder(run / "made", folder, kept if keeps else None)
        assert content(folder) == {"new"}
        assert not is_half_replaced(folder)
        left = {path.name for path in run.iterdir()}
        assert left == ({"train", "kept"} if keeps else {"train"})
        if keeps:
            assert content(kept) == {"old"}
    assert moments >= 3


def test_a_folder_takes_a_place_that_is_empty(tmp_path):
    made(tmp_path / "made", "new")
    replace_folder(tmp_path / "made", tmp_path / "train")
    assert content(tmp_path / "train") == {"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
