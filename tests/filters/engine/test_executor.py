"""The engine over real shards, with processes that die, hang and are killed."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from filters.base import Context, Decision
from filters.engine import chunks
from filters.engine.chunks import ROWS, chunks_of
from filters.engine.executor import Executor
from filters.engine.filter import FilterSpec, load_filters
from filters.engine.outcome_store import OutcomeStore, pack, unpack
from synth.core.dataset import writing
from synth.core.errors import UserError
from synth.core.record import Record, Task

# Filters of these tests, in files: the engine's processes import them.
MODULES = {
    "words": """
        MEASURES = {"words": ("short", "long")}
        class Config(FilterConfig):
            words_max: float | None = None
            words_min: float | None = None
        def build(config, context):
            def check(record):
                mark(record)
                return Figures({"words": len(record.answer.split())}, {"n": 1})
            return check
    """,
    "has": """
        class Config(FilterConfig):
            word: str = "bad"
        def build(config, context):
            def check(record):
                mark(record)
                return Decision(config.word not in record.answer, "has it: " + config.word)
            return check
    """,
    "dies": """
        import os
        class Config(FilterConfig):
            pass
        def build(config, context):
            def check(record):
                if "die" in record.answer:
                    os._exit(7)
                return KEEP
            return check
    """,
    "hangs": """
        class Config(FilterConfig):
            pass
        def limit(config):
            return 0.5
        def build(config, context):
            def check(record):
                if "hang" in record.answer:
                    return Decision(pow(3, 10**9) > 0)  # the interpreter never gets to run
                return KEEP
            return check
    """,
    "starts": """
        class Config(FilterConfig):
            pass
        def build(config, context):
            raise UserError("no such thing")
    """,
    "first": """
        LEVEL = "set"
        class Config(FilterConfig):
            pass
        def memory(config, records):
            return records * int(os.environ.get("ENGINE_TEST_BYTES", "1"))
        def build(config, context):
            def check(passes):
                mark(next(passes()))
                last = {record.answer: record.id for record in passes()}
                for record in passes():
                    yield Decision(last[record.answer] == record.id, "again", 1.0, 0.5, {"last": last[record.answer]})
            return check
    """,
    "asks": """
        ASKS_TEACHER = True
        class Config(FilterConfig):
            pass
        def build(config, context):
            check = lambda record: Decision(context.ask("t", [], {"r": record.id}, 0) == "yes", "no")
            return check
    """,
    "notes": """
        class Check:
            notes = ["2 of 5 could not be checked"]
            def __call__(self, record):
                return KEEP
        class Config(FilterConfig):
            pass
        def build(config, context):
            return Check()
    """,
}  # fmt: skip
HEAD = """
import os
from filters.base import *
from filters.base import KEEP
from synth.core.errors import UserError
def mark(record):
    with open(os.environ["ENGINE_TEST_LOG"], "a") as log:
        log.write(f"{__name__} {record.id}\\n")
"""


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    place = tmp_path / "code" / "enginetest"
    place.mkdir(parents=True)
    (place / "__init__.py").touch()
    for name, text in MODULES.items():
        lines = text.splitlines()
        (place / f"{name}.py").write_text(HEAD + "\n".join(line[8:] for line in lines) + "\n")
    monkeypatch.syspath_prepend(str(place.parent))
    monkeypatch.setenv("ENGINE_TEST_LOG", str(tmp_path / "log"))
    yield place
    for name in [name for name in sys.modules if name.startswith("enginetest")]:
        del sys.modules[name]


@pytest.fixture
def asked(tmp_path):
    """What was judged since the last call, by filter."""

    def since():
        log = tmp_path / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return sorted(line.removeprefix("enginetest.") for line in lines)

    return since


def put(folder, *answers):
    with writing(folder, ("train",)) as (splits, manifest):
        for number, answer in enumerate(answers):
            splits["train"].write(Record(f"r{number}", Task(f"t{number}", "q"), [], None, answer))
    return manifest["content"]


def spec(name, **options):
    return FilterSpec(f"enginetest.{name}", options)


@pytest.fixture
def run(tmp_path):
    def judged(answers, *specs, workers=2, context=None, say=lambda line: None):
        content = put(tmp_path / "data", *answers)
        with OutcomeStore(tmp_path / "ledger.sqlite") as ledger:
            engine = Executor(
                tmp_path / "data", "train", content, load_filters(specs), ledger,
                functools.partial(Context), context or Context(), {}, workers, 4, say,
            )  # fmt: skip
            engine.judge()
            return list(engine.records()), engine

    return judged


def verdicts(records):
    return [[(v.filter.split(".")[1], v.keep, v.reason) for v in r.verdicts] for r in records]


def test_every_filter_judges_every_record_once(run, asked):
    specs = [spec("words", words_max=2), spec("has")]
    done, _ = run(["a b", "a bad one", "bad"], *specs)
    assert verdicts(done) == [
        [("words", True, ""), ("has", True, "has it: bad")],
        [("words", False, "long: words 3, over 2"), ("has", False, "has it: bad")],
        [("words", True, ""), ("has", False, "has it: bad")],
    ]
    assert asked() == [f"{name} r{n}" for name in ("has", "words") for n in range(3)]
    again, _ = run(["a b", "a bad one", "bad"], *specs)
    assert [r.verdicts for r in again] == [r.verdicts for r in done] and asked() == []


def test_bounds_and_actions_move_without_judging_again(run, asked):
    answers = ["a b", "a bad one"]
    run(answers, spec("words"), spec("has"))
    asked()
    done, _ = run(answers, spec("words", words_max=2, action="tag"), spec("has", action="tag"))
    assert [r.rejected_by for r in done] == [None, None] and asked() == []
    assert [v.keep for v in done[1].verdicts] == [False, False]
    done, _ = run(answers, spec("words", words_min=3))
    assert [r.rejected_by and r.rejected_by.reason for r in done] == [
        "short: words 2, under 3",
        None,
    ]
    assert asked() == []
    run(answers, spec("words"), spec("has", word="one"))
    assert asked() == ["has r0", "has r1"]


def test_other_records_and_other_code_are_judged_anew(run, asked, modules):
    run(["a"], spec("has"))
    asked()
    run(["b"], spec("has"))
    assert asked() == ["has r0"]
    with (modules / "has.py").open("a") as code:
        code.write("\n# another version\n")
    run(["b"], spec("has"))
    assert asked() == ["has r0"]


def test_pieces_lose_nothing_and_keep_the_order(run):
    answers = [f"a{n}" if n % 7 else "bad" for n in range(2 * ROWS + 3)]
    done, engine = run(answers, spec("has"), workers=3)
    assert [r.answer for r in done] == answers
    assert [v.keep for r in done for v in r.verdicts] == ["bad" not in a for a in answers]
    assert (
        len(engine._chunks) == 3 and chunks_of(engine_folder(engine), "train")[2].start == 2 * ROWS
    )


def engine_folder(engine):
    from pathlib import Path

    return Path(engine._chunks[0].shard).parents[1]


def test_chunks_that_lack_more_filters_than_the_first(run, asked):
    answers = ["a"] * (ROWS + 1)
    _, engine = run(answers, spec("has"))
    with OutcomeStore(engine.outcomes.path) as outcomes:  # a run that ended after a chunk
        outcomes._db.execute("DELETE FROM outcomes WHERE piece = 1")
    asked()
    done, _ = run(answers, spec("has"), spec("words"), workers=1)
    assert all(len(r.verdicts) == 2 for r in done)
    assert sum(line.startswith("has") for line in asked()) == 1


def test_a_process_that_dies_costs_the_record_it_died_of(run):
    answers = ["ok", "die", "ok", "please die", "ok"]
    done, _ = run(answers, spec("dies"), spec("has"))
    said = [[(v.keep, v.reason) for v in r.verdicts] for r in done]
    dead = (None, "filter failed: its process died (status 7)")
    fine = (True, "has it: bad")
    assert said == [[dead if "die" in a else (True, ""), fine] for a in answers]


def test_a_record_that_takes_too_long_is_given_up(run):
    start = time.monotonic()
    done, _ = run(["ok", "hang", "ok"], spec("hangs"))
    assert [r.verdicts[0].keep for r in done] == [True, None, True]
    assert "took too long" in done[1].verdicts[0].reason
    assert time.monotonic() - start < 30


def test_a_users_mistake_in_a_process_is_the_users_message(run):
    with pytest.raises(UserError, match="no such thing"):
        run(["a"], spec("starts"))


def test_set_filters_see_what_the_others_keep(run, asked):
    answers = ["x", "bad x", "x", "y", "bad x"]
    done, _ = run(answers, spec("first"), spec("has"))
    kept = [r.id for r in done if r.rejected_by is None]
    assert kept == ["r2", "r3"]
    assert [len(r.verdicts) for r in done] == [2, 1, 2, 2, 1]
    assert json.loads(done[0].verdicts[0].evidence) == {"last": "r2"}
    asked()
    again, _ = run(answers, spec("first"), spec("has"))
    assert verdicts(again) == verdicts(done) and asked() == []
    run(answers, spec("first"), spec("has", action="tag"))
    assert asked() == ["first r0"]  # other records reach it


def test_a_set_filter_is_read_no_record_that_it_does_not_judge(run, monkeypatch):
    read = []

    def read_chunk(piece, rows=None):
        if rows is not None:
            read.append((piece.number, list(rows)))
        return chunks.read_chunk(piece, rows)

    monkeypatch.setattr("filters.engine.executor.read_chunk", read_chunk)
    begun = []
    monkeypatch.setattr(
        "filters.engine.executor.Progress.begin",
        lambda self, doing, total: begun.append((doing, total)),
    )
    answers = ["bad"] * ROWS + ["x", "bad", "x"] + ["bad"] * ROWS
    done, _ = run(answers, spec("has"), spec("first"))
    # Three passes, of which one is left after its first record.
    assert read == [(1, [0, 2])] * 3
    passes = [(f"enginetest.first, pass {n},", 2) for n in (1, 2, 3)]
    assert begun == [("judging", len(answers)), ("enginetest.first", 2), *passes]
    assert [r.id for r in done if r.rejected_by is None] == [f"r{ROWS + 2}"]


def test_some_rows_of_a_piece_are_those_of_all(tmp_path):
    put(tmp_path / "data", *(f"a{n}" for n in range(ROWS + 9)))
    whole = chunks.read_chunk(chunks_of(tmp_path / "data", "train")[1])
    assert [r.id for r in whole] == [f"r{ROWS + n}" for n in range(9)]
    for rows in ([], [0], [3, 8], list(range(9))):
        some = chunks.read_chunk(chunks_of(tmp_path / "data", "train")[1], rows)
        assert some == [whole[row] for row in rows]


def test_what_a_set_filter_will_hold_is_said_and_bounded(run, monkeypatch):
    lines = []
    monkeypatch.setenv("ENGINE_TEST_BYTES", str(100_000_000))
    run(["x", "y"], spec("first"), say=lines.append)
    assert lines == ["  enginetest.first will hold up to 200 MB for 2 records"]
    monkeypatch.setenv("ENGINE_TEST_BYTES", str(10**15))
    with pytest.raises(UserError, match=r"enginetest.first needs 1000000.0 GB for 1 records"):
        run(["z"], spec("first"))


def test_a_teacher_is_asked_about_what_is_left_alone(run):
    questions = []

    def ask(teacher, messages, sampling, sample):
        questions.append(sampling["r"])
        return "yes" if sampling["r"] == "r0" else "nay"

    specs = [spec("has"), spec("asks"), spec("words", words_max=1)]
    answers = ["a", "bad", "a", "a b"]
    done, _ = run(answers, *specs, context=Context(ask=ask))
    assert sorted(questions) == ["r0", "r2", "r3"]  # a filter behind it has no say
    assert [len(r.verdicts) for r in done] == [3, 2, 3, 3]
    assert [r.id for r in done if r.rejected_by is None] == ["r0"]
    run(answers, *specs, context=Context(ask=ask))
    assert len(questions) == 3
    run(answers, spec("has", action="tag"), *specs[1:], context=Context(ask=ask))
    assert questions[3:] == ["r1"]


def test_notes_are_said_once_and_kept(run):
    lines = []
    run(["a", "b"], spec("notes"), say=lines.append)
    assert lines == ["  enginetest.notes: 2 of 5 could not be checked"]
    run(["a", "b"], spec("notes"), say=lines.append)
    assert len(lines) == 1


def test_a_damaged_ledger_is_the_users_to_remove(tmp_path):
    (tmp_path / "l.sqlite").write_bytes(b"not a data base" * 1000)
    with pytest.raises(UserError, match="remove it"):
        OutcomeStore(tmp_path / "l.sqlite")


def test_a_shard_cut_short_is_one_message(run, tmp_path):
    content = put(tmp_path / "data", "a")
    (shard,) = (tmp_path / "data" / "data").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a sound Parquet file"):
        chunks_of(tmp_path / "data", "train")
    assert content


def test_a_shard_of_other_columns_is_one_message(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    put(tmp_path / "data", "a")
    (shard,) = (tmp_path / "data" / "data").glob("*.parquet")
    pq.write_table(pa.table({"text": ["a", "b"]}), shard)
    with pytest.raises(UserError, match="not a sound shard of records"):
        chunks.read_chunk(chunks_of(tmp_path / "data", "train")[0])


def test_outcomes_come_back_from_the_ledger():
    outcomes = [None, Decision(None, "cannot tell: \ud800", float("inf"), 1.0, {"a": ["ä"]})]
    assert unpack(pack(outcomes)) == outcomes


WORK = """
import functools, sys
sys.path.insert(0, {code!r})
from pathlib import Path
from filters.engine import chunks
from filters.engine.filter import FilterSpec, load_filters
from filters.base import Context
from filters.engine.executor import Executor
from filters.engine.outcome_store import OutcomeStore
folder = Path({folder!r})
specs = [FilterSpec("enginetest.slow"), FilterSpec("enginetest.first")]
with OutcomeStore(folder / "ledger.sqlite") as ledger:
    engine = Executor(folder / "data", "train", {content!r}, load_filters(specs), ledger,
        functools.partial(Context), Context(), {{}}, 2)
    engine.judge()
"""
SLOW = """
import time
class Config(FilterConfig):
    pass
def build(config, context):
    def check(record):
        time.sleep(0.002)
        mark(record)
        return Decision(len(record.answer) % 3 > 0, "thirds", 0.25)
    return check
"""


@pytest.mark.slow
def test_two_kills_leave_the_same_result(run, asked, tmp_path, modules):
    (modules / "slow.py").write_text(HEAD + SLOW)
    answers = ["x" * (n % 50) for n in range(1500)]
    specs = [spec("slow"), spec("first")]
    whole, _ = run(answers, *specs)
    count = len(asked())
    for file in tmp_path.glob("ledger*"):
        file.unlink()
    content = put(tmp_path / "data", *answers)
    text = WORK.format(code=str(modules.parent), folder=str(tmp_path), content=content)
    for kill in range(2):
        process = subprocess.Popen([sys.executable, "-c", text], start_new_session=True)
        judged = 0
        while judged < 300 + 300 * kill and process.poll() is None:
            time.sleep(0.05)
            with contextlib.suppress(FileNotFoundError):
                judged = len((tmp_path / "log").read_text().splitlines())
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    time.sleep(1)  # the chunks that were under way end
    rerun, _ = run(answers, *specs)
    # Whatever was under way at a kill is judged again; the rest is not.
    assert len(asked()) <= count + 2 * 2 * ROWS
    for record in rerun + whole:
        for verdict in record.verdicts:
            verdict.seconds = 0.0
    assert [r.verdicts for r in rerun] == [r.verdicts for r in whole]
