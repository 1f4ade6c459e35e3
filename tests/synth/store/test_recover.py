"""Recovering: whatever is done to a store, what is saved is right, and what is whole is saved."""

import asyncio
import contextlib
import hashlib
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.core.compression import compress, decompress
from synth.core.errors import UserError
from synth.core.record import Request
from synth.store._sqlite_pages import Pages
from synth.store.keys import request_key
from synth.store.recover import recover, sound_response
from synth.store.responses import Batch, ResponseMetadata, ResponseStore

ROWS, PAGE = 300, 4096


def request(i):
    # Short ones, and some whose row takes several pages.
    noise = random.Random(i).randbytes(9000).hex() if i % 10 == 0 else f"question {i} " * (i % 40)
    return request_key(
        Request([{"role": "user", "content": noise or "q"}], {"n": i}), {"kind": "t"}
    )


def response(i):
    noise = random.Random(-i).randbytes(5000).hex() if i % 15 == 0 else f"answer {i}"
    usage = {"prompt_tokens": i, "completion_tokens": 2 * i}
    return {"choices": [{"message": {"content": noise}}], "usage": usage}


async def fill(path, rows=range(ROWS)):
    with ResponseStore(path) as store:
        for i in rows:
            labels = compress(random.Random(i).randbytes(3000)) if i % 20 == 0 else None
            bought = ResponseMetadata("run", "teacher", i, 2 * i, i / 7, i / 3)
            await store.persist(request(i), json.dumps(response(i)).encode(), bought, labels)
        await store.persist_failure(request(999).key, "status 400: no", "run", "teacher")
        await store.persist_fallback_teacher(request(5).key, "other")
        for id in (None, "batch-1"):
            batch = Batch(f"file-{id}", id, 1.5, [request(7), request(8)])
            await store.persist_batch(batch, '{"kind":"openai_batch"}')


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s.sqlite"
    asyncio.run(fill(path))
    return path


KEYS = {request(i).key: i for i in range(ROWS)}


def contents(path):
    """Every response of a store by its key, each checked against what was put."""
    found = {}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for row in connection.execute("SELECT * FROM responses"):
            key, i = row[1], KEYS[row[1]]
            assert hashlib.sha256(decompress(row[9])).hexdigest() == key
            assert json.loads(decompress(row[10])) == response(i)
            assert (row[4], row[5]) == (i, 2 * i)
            if i % 20 == 0:
                assert decompress(row[11]) == random.Random(i).randbytes(3000)
            found[key] = row
    return found


def pages_of(path):
    """The pages that each response needs, by its key."""
    data = path.read_bytes()
    cells = ((cell, sound_response(cell)) for cell in Pages(data, PAGE, {}).cells())
    return {row[0]: set(cell.pages) for cell, row in cells if row}


def rows_of(path, table):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def quiet(path):
    return recover(path, lambda text: None)


def test_the_reader_of_pages_finds_what_sqlite_finds(whole):
    assert pages_of(whole).keys() == KEYS.keys() == contents(whole).keys()


def test_a_sound_store_is_left_as_it_is(whole, tmp_path):
    path = shutil.copy(whole, tmp_path / "s.sqlite")
    before, said = path.read_bytes(), []
    done = recover(path, said.append)
    assert (done.saved, done.lost, done.damaged) == (ROWS, 0, None)
    assert path.read_bytes() == before
    assert "sound, with 300 responses; it is left as it is" in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["s.sqlite"]


def damage(data, draw):
    """Damages a file at random; gives it, and the pages that were not touched."""
    pages, kind = len(data) // PAGE, draw.choice(["pages", "zeros", "bytes", "cut", "moved"])
    if kind == "cut":
        keep = draw.randrange(PAGE, len(data))
        return data[:keep], set(range(1, keep // PAGE + 1))
    touched = set(draw.sample(range(1, pages + 1), draw.choice([1, 3, 20, pages // 2])))
    damaged = bytearray(data)
    for page in touched:
        at = (page - 1) * PAGE
        if kind == "bytes":
            for _ in range(draw.choice([1, 1, 5])):
                damaged[at + draw.randrange(PAGE)] ^= 1 << draw.randrange(8)
        elif kind == "moved":  # a page of the file in the place of another
            other = draw.randrange(pages) * PAGE
            damaged[at : at + PAGE] = data[other : other + PAGE]
        else:
            damaged[at : at + PAGE] = draw.randbytes(PAGE) if kind == "pages" else bytes(PAGE)
    return bytes(damaged), set(range(1, pages + 1)) - touched


@pytest.mark.slow
@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_nothing_wrong_is_saved_and_all_whose_pages_are_whole_is(whole, tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("d") / "s.sqlite"
    damaged, intact = damage(whole.read_bytes(), random.Random(seed))
    path.write_bytes(damaged)
    needed = {key for key, pages in pages_of(whole).items() if pages <= intact}
    try:
        done = quiet(path)
    except UserError:
        assert not needed  # not one row was left
        return
    found = contents(path)
    assert needed <= found.keys()
    assert done.saved == len(found)
    assert done.lost <= ROWS - len(found)
    if done.damaged:
        assert done.damaged.read_bytes() == damaged


@pytest.mark.parametrize("lost", [range(100), range(PAGE), range(3 * PAGE)])
def test_without_header_and_schema_the_rest_is_saved(whole, tmp_path, lost):
    path = tmp_path / "s.sqlite"
    damaged = bytearray(whole.read_bytes())
    damaged[: len(lost)] = random.Random(1).randbytes(len(lost))
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged.*`distill recover .*s\.sqlite`"):
        ResponseStore(path)
    intact = set(range(len(lost) // PAGE + 1, 10**6))
    needed = {key for key, pages in pages_of(whole).items() if pages <= intact}
    assert quiet(path).saved >= len(needed) > 250
    with ResponseStore(path) as store:  # it is a store again, and takes more
        assert store.count() == len(contents(path))


def test_the_other_tables_are_saved_and_the_order_stays(whole, tmp_path):
    path = tmp_path / "s.sqlite"
    damaged = bytearray(whole.read_bytes())
    damaged[:100] = bytes(100)
    path.write_bytes(damaged)
    said = []
    done = recover(path, said.append)
    assert (done.saved, done.lost, done.notes) == (ROWS, 0, 4)
    assert "300 responses saved, each checked; none is known to be lost" in said[0]
    assert "s.sqlite.damaged" in said[0]
    for table in ("responses", "failures", "stand_ins", "batches"):
        assert rows_of(path, table) == rows_of(whole, table) != []


def test_a_flipped_bit_in_a_response_costs_that_one_and_is_counted(whole, tmp_path):
    path = tmp_path / "s.sqlite"
    damaged = bytearray(whole.read_bytes())
    with contextlib.closing(sqlite3.connect(whole)) as connection:
        blob = connection.execute("SELECT response FROM responses WHERE id = 77").fetchone()[0]
    damaged[damaged.index(blob) + len(blob) // 2] ^= 4
    path.write_bytes(damaged)
    said = []
    assert recover(path, said.append).lost == 1
    assert "299 responses saved, each checked; at least 1 lost" in said[0]
    assert KEYS.keys() - contents(path).keys() == {request(76).key}


def test_nothing_is_overwritten_the_second_time(whole, tmp_path):
    path = tmp_path / "s.sqlite"
    for name in ("s.sqlite.damaged", "s.sqlite.damaged-2"):
        path.write_bytes(bytes(100) + whole.read_bytes()[100:])
        assert quiet(path).damaged == tmp_path / name


def test_what_is_no_store_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no store at all\n" * 5000)
    with pytest.raises(UserError, match="holds nothing of a response store; it is left as it is"):
        quiet(path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    assert path.read_text() == "no store at all\n" * 5000
    with pytest.raises(UserError, match="no such file"):
        quiet(tmp_path / "missing.sqlite")


WRITER = """
import asyncio, sys, time
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("t", {file!r})
t = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t)
from synth.store.responses import ResponseMetadata, ResponseStore
import json, pathlib

async def go():
    with ResponseStore(pathlib.Path({path!r})) as store:
        for i in range({rows}):
            bought = ResponseMetadata("run", "teacher", i, 2 * i, i / 7, i / 3)
            await store.persist(t.request(i), json.dumps(t.response(i)).encode(), bought)
        print("ready", flush=True)
        time.sleep(60)

asyncio.run(go())
"""


@pytest.fixture
def killed(tmp_path):
    """A store whose writer was killed: its last responses lie in the write-ahead log alone."""
    path, rows = tmp_path / "s.sqlite", 40
    code = WRITER.format(tests=str(tmp_path), file=__file__, path=str(path), rows=rows)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match="a run is using it"):
            quiet(path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "s.sqlite-wal").stat().st_size > 10 * PAGE
    return path


def saved(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM responses")}


@pytest.mark.parametrize("harm", ["nothing", "file", "log", "log and file"])
def test_what_only_the_log_holds_is_saved_too(killed, harm):
    log = killed.with_name("s.sqlite-wal")
    if "log" in harm:  # SQLite itself would give up all that stands behind this byte
        damaged = bytearray(log.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        log.write_bytes(damaged)
    if "file" in harm:
        killed.write_bytes(bytes(killed.stat().st_size))
    kept = log.read_bytes()
    done = quiet(killed)
    assert done.saved >= (39 if "log" in harm else 40)
    if done.damaged:
        assert "log" in harm
        assert done.damaged.with_name("s.sqlite.damaged-wal").read_bytes() == kept
    else:  # the first page lies in the log too: such a file heals when it is opened
        assert log.read_bytes() == kept
    assert saved(killed) <= {request(i).key for i in range(40)}
    with ResponseStore(killed) as store:
        assert store.count() == done.saved


@pytest.mark.slow
def test_ten_thousand_rows_take_seconds(tmp_path):
    path = tmp_path / "s.sqlite"
    with ResponseStore(path) as store:

        async def put():
            body = json.dumps(response(1)).encode()
            await asyncio.gather(
                *(
                    store.persist(request_key(Request([], {"n": i}), {}), body)
                    for i in range(10_000)
                )
            )

        asyncio.run(put())
    path.write_bytes(bytes(100) + path.read_bytes()[100:])
    start = time.monotonic()
    assert quiet(path).saved == 10_000
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_the_command(whole, tmp_path, distill):
    path = tmp_path / "s.sqlite"
    path.write_bytes(bytes(100) + whole.read_bytes()[100:])
    done = distill("recover", path)
    assert done.returncode == 0, done.stderr
    assert "300 responses saved" in done.stdout
    gone = distill("recover", tmp_path / "no.sqlite")
    assert gone.returncode == 2
    assert "no such file" in gone.stderr


def test_what_was_set_aside_is_saved_as_such(tmp_path):
    path = tmp_path / "s.sqlite"

    async def put():
        with ResponseStore(path) as store:
            body = json.dumps(response(1)).encode()
            bought = ResponseMetadata("run", "teacher", 1, 2, 0.5, 0.0)
            await store.persist(request(1), body, bought)
            await store.set_aside(request(1).key)
            await store.persist(request(1), body, bought)
            await store.persist_no_answer(request(2), body, bought)

    asyncio.run(put())
    data = bytearray(path.read_bytes())
    data[:100] = bytes(100)  # the header is lost
    path.write_bytes(data)
    assert quiet(path).saved == 3
    with ResponseStore(path) as store:
        assert store.count() == 1
        assert store.get(request(1).key) is not None and store.get(request(2).key) is None
        assert store.spent("run")["teacher"].usd == 1.5
