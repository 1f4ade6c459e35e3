import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters._workers import reasoning_gym as _gym_worker
from filters._workers.reasoning_gym import evaluated
from filters.base import Context, Decision, decide
from synth.core.record import Record, Task
from synth.tasks import reasoning_gym as source

pytest.importorskip("reasoning_gym")

from filters import reasoning_gym as gym


def tasks(generator, size=3, **options):
    """As the task source and the loader make them: metadata goes through JSON."""
    config = source.Config(generator=generator, size=size, options=options)
    for row in source.build(config):
        values = json.loads(json.dumps(row.values, default=str))
        question, answer = values.pop("question"), values.pop("answer")
        yield Task("t", question, answer, "s", values)


@pytest.fixture(scope="module")
def judge():
    checks = {}

    def verdict(task, answer, **options):
        config = gym.Config(**options)
        check = checks.setdefault(config.model_dump_json(), gym.build(config, Context()))
        found = check(Record("r", task, [], None, answer))
        return found if isinstance(found, Decision) else decide(found, config)

    yield verdict
    for check in checks.values():
        check.close()


@pytest.mark.parametrize(
    "generator",
    ["chain_sum", "basic_arithmetic", "countdown", "spiral_matrix", "n_queens", "simple_integration",
     "number_sorting", "puzzle24", "arc_agi", "bitwise_arithmetic", "knights_knaves", "sudoku"],
)  # fmt: skip
def test_the_reference_is_right_in_every_form_and_nonsense_is_wrong(judge, generator):
    for task in tasks(generator):
        for form in ("{}", "So it is:\n<answer>{}</answer>"):
            decision = judge(task, form.format(task.answer))
            assert decision.keep is True and decision.score == 1.0, decision
        assert judge(task, "nothing of the kind").keep is False


def test_another_right_answer_counts(judge):
    task = Task(
        "t",
        "q",
        "(3 + 5) * 2",
        "s",
        {"source_dataset": "countdown", "numbers": [2, 3, 5], "target": 16},
    )
    assert judge(task, r"\boxed{2 * (5 + 3)}").keep is True
    decision = judge(task, r"\boxed{2 + 5 + 3}")
    assert decision.keep is False and decision.reason.startswith("wrong answer: score")


def test_a_part_of_the_score_may_do(judge):
    task = next(tasks("chain_sum"))
    close = f"about {task.answer}"
    assert 0 < judge(task, close).score < 1
    assert judge(task, close, score_min=0.01).keep is True


def test_the_generators_own_options_are_the_scorers(judge):
    task = next(tasks("puzzle24"))
    assert judge(task, task.answer).keep is True
    other = judge(task, task.answer, options={"min_value": 10})
    assert other.reason == "cannot tell: the scorer does not know the reference"


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({}, "the metadata names no generator"),
        ({"source_dataset": 3}, "the metadata names no generator"),
        ({"source_dataset": "nosuch"}, "reasoning-gym has no generator 'nosuch'"),
        ({"source_dataset": "countdown"}, "the scorer does not know the reference"),
    ],
)
def test_undecidable_is_not_wrong(judge, metadata, why):
    assert judge(Task("t", "q", "5", "s", metadata), "5").reason == f"cannot tell: {why}"


def test_a_scorer_that_takes_anything_is_not_trusted(judge):
    task = next(tasks("game_of_life_halting"))
    assert judge(task, "whatever").reason == "cannot tell: the scorer takes any answer"


ATTACKS = [
    "__import__('os').system('touch {}')",
    "[c for c in __import__('os').popen('touch {}').read()]",
    "().__class__.__base__.__subclasses__()",
    "open('{}', 'w')",
    "exec(chr(112)*9)",
    "Symbol('x').func",
    "lambdify((), '1')",
]


@pytest.mark.parametrize(
    "generator",
    [
        "countdown",
        "spiral_matrix",
        "n_queens",
        "simple_integration",
        "string_insertion",
        "binary_matrix",
    ],
)
def test_no_answer_is_run(judge, tmp_path, generator):
    mark = tmp_path / "mark"
    task = next(tasks(generator))
    for attack in ATTACKS:
        assert judge(task, attack.format(mark)).keep is not True
    assert not mark.exists()


@pytest.mark.parametrize("text", ["[1, 2]", "0x1f ^ 3", "-(2 + 3) * 4", "[['_', 'Q']]"])
def test_literals_and_arithmetic_are_evaluated(text):
    assert evaluated(text) == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "f()",
        "a.b",
        "[x for x in [1]]",
        "lambda: 1",
        "f'{1}'",
        "(y := 1)",
        "1 if 1 else 2",
        "[1][0]",
        "",
    ],
)
def test_nothing_else_is_evaluated(text):
    with pytest.raises((ValueError, SyntaxError)):
        evaluated(text)


@given(st.text(alphabet="abcexp()._'\"[]0123 +-*/^lambda:", max_size=60))
def test_a_formula_calls_no_name_but_known_functions(text):
    try:
        formula = _gym_worker._formula(text)
    except ValueError:
        return
    assert not any(sign in formula for sign in ("__", "'", '"', "[", "eval", "exec"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    ["9**9**9**9", "(" * 50_000, "[" * 50_000, "\x00\ud800", "9" * 90_000, "<answer>" * 20_000],
)
def test_hostile_answers_have_a_verdict(judge, answer):
    for generator in ("countdown", "spiral_matrix"):
        assert judge(next(tasks(generator)), answer, timeout=1.0).keep is not True


def test_an_empty_answer_is_none(judge):
    task = next(tasks("chain_sum"))
    assert judge(task, "").reason == judge(task, "5", read="box").reason == "no answer found"


@pytest.mark.slow
def test_every_generator_is_right_wrong_or_cannot_tell(judge):
    from reasoning_gym.factory import DATASETS

    trusted = 0
    for generator in sorted(set(DATASETS) - {"composite"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task = next(tasks(generator, size=1))
        right, wrong = judge(task, task.answer or "x"), judge(task, "nothing of the kind")
        assert wrong.keep is not True, generator
        trusted += right.keep is True and wrong.keep is False
    assert trusted >= 98
