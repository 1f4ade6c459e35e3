"""Duplicates across runs: what earlier runs kept."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from filters._dedup.index import Entry, read_entries, write_entries
from filters.base import Context
from synth.core import plugins
from synth.core.errors import UserError

KIND = {"filter": "x"}


def decide(name, run, records, **options):
    module = plugins.load("filter", name)
    check = module.build(module.Config(**options), Context(run=run))
    return list(check(lambda: iter(records)))


def texts(record, seed, count=20):
    rng = random.Random(seed)
    lists = [[f"w{rng.randrange(3000)}" for _ in range(100)] for _ in range(count)]
    return [record(" ".join(words), id=f"{n}") for n, words in enumerate(lists)]


@pytest.mark.parametrize("name", ["exact_dedup", "near_dedup"])
@pytest.mark.parametrize("per_question", [True, False])
def test_what_another_run_kept_counts(record, tmp_path, name, per_question):
    options = {"index": tmp_path / "index"}
    if name == "near_dedup":
        options["per_question"] = per_question
    first, second = texts(record, 0), texts(record, 1)
    assert all(d.keep for d in decide(name, "first", first, **options))
    mixed = first[:5] + second
    decisions = decide(name, "second", mixed, **options)
    assert [d.keep for d in decisions] == [False] * 5 + [True] * 20
    assert decisions[0].evidence["run"] == "first"
    assert decisions[0].evidence["partner"] == "0"
    # A rerun is no duplicate of itself, whichever run it is.
    assert decide(name, "second", mixed, **options) == decisions
    assert all(d.keep for d in decide(name, "first", first, **options))
    # A run of fewer records gives up what it no longer keeps.
    decide(name, "first", first[5:], **options)
    assert all(d.keep for d in decide(name, "third", first[:5], **options))


def test_an_index_of_other_words_is_refused(record, tmp_path):
    decide("near_dedup", "first", texts(record, 0), index=tmp_path)
    with pytest.raises(UserError, match=r"'first'.*another folder"):
        decide("near_dedup", "second", texts(record, 0), index=tmp_path, words=3)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"a\.parquet"):
        list(read_entries(tmp_path, "run", KIND))


def test_any_text_is_an_id(tmp_path):
    write_entries(tmp_path, "../\ud800", KIND, [Entry("a\ud800/..\0", "", b"\0\1")])
    ((_, entry),) = read_entries(tmp_path, "other", KIND)
    assert (entry.id, entry.data) == ("a?/..\0", b"\0\1")
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]
    assert list(read_entries(tmp_path, "../\ud800", KIND)) == []


def test_a_folder_that_cannot_be_written_is_the_users(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_entries(tmp_path / "file", "run", KIND, [])


WRITER = """
import sys
from pathlib import Path
from filters._dedup.index import Entry, write_entries
number = 0
while True:
    number += 1
    rows = (Entry(str(n), "", b"%d" % number) for n in range(3000))
    write_entries(Path(sys.argv[1]), "run", {"filter": "x"}, rows)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_kill_leaves_a_whole_index(tmp_path):
    rng = random.Random(0)
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout.readline() == "1\n"
        time.sleep(rng.random() / 5)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        entries = [entry for _, entry in read_entries(tmp_path, "other", KIND)]
        assert [entry.id for entry in entries] == [str(n) for n in range(3000)]
        assert len({entry.data for entry in entries}) == 1
