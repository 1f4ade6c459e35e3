"""Verdicts on code: what passes, what fails and why, what cannot be told, and who cheats."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from filters._code import jobs as _code_jobs
from filters._sandbox import sandbox
from synth.core.errors import UserError
from tests.helpers.code_records import CALL, HUMANEVAL, ONE, SUM, judge, python
from tests.helpers.filter_records import make_check, make_record
from tests.helpers.sandbox.sandboxed import needs_sandbox

RIGHT = [
    ("an assertion", ONE, "def f(x): return x + 1"),
    ("exit at the end", SUM, "print(sum(map(int, input().split())))\nexit()"),
    ("a result of a call", CALL, "def add(a, b): return a + b"),
    ("a method of Solution", CALL, "class Solution:\n    def add(self, a, b): return a + b"),
    ("a whole function", HUMANEVAL, "def f(x):\n    return twice(x) + 1"),
    ("the body of a function", HUMANEVAL, "    y = twice(x)\n    return y + 1"),
    ("a body that lost its indent", HUMANEVAL, "y = twice(x)\nreturn y + 1"),
    ("a body whose first line lost it", HUMANEVAL, "y = twice(x)\n    return y + 1"),
    ("a future import", HUMANEVAL, "from __future__ import annotations\ndef f(x): return 2 * x + 1"),
    ("an iterator", {"tests": ["assert list(f(3)) == [0, 1, 2]"]}, "def f(n): yield from range(n)"),
    (
        "an argument that is changed",
        {"tests": ["a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]"]},
        "def f(a): a.sort()",
    ),
    (
        "a function that is handed in",
        {"tests": ["assert f([1, 2], lambda x: -x) == [-1, -2]", "assert f(['1'], int) == [1]"]},
        "def f(a, g): return [g(x) for x in a]",
    ),
    (
        "objects",
        {
            "tests": [
                "s = Stack()\ns.push(3)\nassert s.top() == 3 and len(s) == 1\nassert [*s] == [3]",
                "assert isinstance(s, Stack) and 3 in s and s[0] == 3 and not Stack()",
                "assert Stack() == Stack() and Stack() != s",
            ]
        },
        "class Stack:\n"
        "    def __init__(self): self.x = []\n"
        "    def push(self, v): self.x.append(v)\n"
        "    def top(self): return self.x[-1]\n"
        "    def __len__(self): return len(self.x)\n"
        "    def __getitem__(self, n): return self.x[n]\n"
        "    def __eq__(self, other): return self.x == other.x\n",
    ),
    (
        "exceptions",
        {"tests": ["for bad in (-1, -2):\n    try:\n        f(bad)\n        assert False\n    except Bad: assert True"]},
        "class Bad(ValueError): pass\nclass Worse(Bad): pass\ndef f(x): raise Worse(x)",
    ),
    (
        "fractions, sets, tuples",
        {
            "tests": [
                "from fractions import Fraction\nassert f() == Fraction(1, 2)",
                "assert g() == {1: (2, {3}), 'x': frozenset([None])} and h() == b'1' and k() == 2**99",
            ]
        },
        "from fractions import Fraction\ndef f(): return Fraction(1, 2)\n"
        "def g(): return {1: (2, {3}), 'x': frozenset([None])}\ndef h(): return b'1'\ndef k(): return 2**99",
    ),
    (
        "test functions",
        {"test": "from solution import add\ndef test_add():\n    assert add(1, 2) == 3"},
        "def add(a, b): return a + b",
    ),
    ("a module that the solution imports", {"tests": ["assert math.isclose(f(), 0.3)"]}, "import math\ndef f(): return 0.1 + 0.2"),
    ("printing", ONE, "print('x' * 10000)\ndef f(x):\n    print(x)\n    return x + 1"),
    ("a main part", ONE, "def f(x): return x + 1\nif __name__ == '__main__': f(input())"),
]  # fmt: skip

WRONG = [
    ("failed assertion", ONE, "def f(x): return x"),
    ("failed assertion", HUMANEVAL, "def f(x):\n    return 3"),
    ("raised an error", ONE, "def f(x): return undefined"),
    ("raised an error", ONE, "def g(x): return x + 1"),
    ("raised an error", ONE, "raise ValueError('no')"),
    ("does not compile", ONE, "def f(x) return x"),
    ("does not compile", ONE, "def f(x): return '\0'"),
    ("timed out", ONE, "def f(x):\n    while True: pass"),
    ("timed out", SUM, "while True: pass"),
    ("out of memory", ONE, "def f(x): return 'x' * (1 << 40)"),
    ("out of memory", SUM, "x = []\nwhile True: x.append('x' * 9999999)"),
    ("crashed", ONE, "def f(x):\n    import ctypes\n    ctypes.string_at(0)"),
    ("wrong output", SUM, "print(3)"),
    ("wrong output", SUM, "print(sum(map(int, input().split())), 1)"),
    ("too much output", SUM, "while True: print(1)"),
    ("raised an error", SUM, "print(int('x'))"),
    ("exited", SUM, "import os; os._exit(4)"),
    ("wrong result", CALL, "def add(a, b): return 3"),
    ("raised an error", CALL, "def add(a, b): return object()"),
    ("raised an error", CALL, "def plus(a, b): return a + b"),
    ("no code found", ONE, "```js\n1\n```"),
]

UNDECIDED = [
    ("a module is not in the sandbox", ONE, "import numpy\ndef f(x): return x + 1"),
    ("a module is not in the sandbox", SUM, "import numpy"),
    ("a module is not in the sandbox", {"tests": ["import numpy\nassert f(1) == 2"]}, "def f(x): return x + 1"),
    ("no end in time", ONE, "import time\ndef f(x): time.sleep(60)"),
    ("no tests", {}, "x"),
    ("no tests", {"tests": []}, "x"),
    ("tests not understood", {"tests": {"inputs": ["1"], "outputs": []}}, "x"),
    ("tests not understood", {"tests": 5}, "x"),
    ("the tests do not compile", {"tests": ["assert f(1) ="]}, "def f(x): return x"),
    ("the tests assert nothing", {"tests": ["f(1)"]}, "def f(x): return x"),
    ("the tests assert nothing", {"test": HUMANEVAL["test"]}, "def f(x): return x"),
    ("language not known", {**SUM, "language": "brainfuck"}, "x"),
    ("tests in Python for code in cpp", {**ONE, "language": "cpp"}, "```cpp\nx\n```"),
]  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize(("metadata", "code"), [r[1:] for r in RIGHT], ids=[r[0] for r in RIGHT])
def test_right_code_is_kept(metadata, code):
    decision = judge(metadata, python(code))
    assert decision.keep is True, decision
    assert decision.score == 1
    assert decision.evidence["sandbox"] == "+".join(sandbox.require())


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize(("kind", "metadata", "code"), WRONG)
def test_wrong_code_is_not_kept(kind, metadata, code):
    decision = judge(metadata, code if code.startswith("```") else python(code))
    assert decision.keep is False, decision
    assert decision.reason.split(":")[0] == kind


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize(("kind", "metadata", "code"), UNDECIDED)
def test_what_cannot_be_told(kind, metadata, code):
    decision = judge(metadata, code if code.startswith("```") else python(code))
    assert decision.keep is None, decision
    assert decision.reason.startswith(f"cannot tell: {kind}")


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize(
    ("tag", "program", "code"),
    [
        ("cpp", "g++", "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"),
        ("c", "gcc", '#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); }'),
        ("javascript", "node", "const [a, b] = require('fs').readFileSync('/dev/stdin', 'utf8').split(' ').map(Number)\nconsole.log(a + b)"),
        ("bash", "bash", "read a b; echo $((a + b))"),
    ],
)  # fmt: skip
def test_languages(tag, program, code):
    if _code_jobs.lacks(tag):
        pytest.skip(f"no {program} here")
    assert judge(SUM, f"```{tag}\n{code}\n```", timeout=5).keep is True
    wrong = judge(SUM, f"```{tag}\n{code.replace('a + b', 'a - b')}\n```", timeout=5)
    assert wrong.reason == "wrong output: case 0"


@needs_sandbox
def test_code_that_does_not_compile_names_the_error():
    if _code_jobs.lacks("cpp"):
        pytest.skip("no g++ here")
    decision = judge(SUM, "```cpp\nint main() { return x; }\n```")
    assert decision.keep is False
    assert "‘x’ was not declared" in decision.reason or "'x' was not declared" in decision.reason


@needs_sandbox
def test_deep_recursion_in_a_compiled_program_is_as_on_a_judge():
    if _code_jobs.lacks("cpp"):
        pytest.skip("no g++ here")
    code = '#include <cstdio>\nint f(int n) { volatile int a[64]; a[0] = n; return n ? f(n - 1) + a[0] - n : 0; }\nint main() { printf("%d", f(100000)); }'
    tests = {"tests": [{"input": "", "output": "0"}]}
    assert judge(tests, f"```cpp\n{code}\n```", timeout=5).keep is True


def test_a_language_without_its_compiler_is_not_judged(monkeypatch):
    monkeypatch.setattr(_code_jobs.shutil, "which", lambda name, path=None: None)
    assert judge(SUM, "```cpp\nint main() {}\n```").reason == "cannot tell: no g++ here"


@needs_sandbox
def test_the_failing_case_is_the_evidence():
    failed = judge(SUM, python("print(3)")).evidence["failed"]
    assert failed == {"case": 1, "input": "3 4\n", "expected": "7\n", "got": "3\n"}
    failed = judge(
        {"tests": ["assert f(1) == 1", "assert f(2) == 4"]}, python("def f(x): return x")
    )
    assert failed.evidence["failed"] == {"place": "assert f(2) == 4", "got": "2", "expected": "4"}


@needs_sandbox
def test_a_result_that_differs_from_run_to_run_is_flaky():
    code = python("import os\nprint(os.urandom(1)[0] % 2)")
    tests = {"tests": [{"input": "", "output": "1"}]}
    # One in four is: it fails by chance, then passes.
    reasons = (judge(tests, code).reason for _ in range(80))
    assert any(reason == "cannot tell: flaky: wrong output, then passed" for reason in reasons)


@pytest.mark.slow
@needs_sandbox
def test_a_time_out_says_that_it_was_the_code():
    decision = judge(ONE, python("def f(x):\n    while True: pass"))
    assert decision.keep is False
    assert decision.reason.startswith("timed out: ")


@needs_sandbox
def test_all_cases_together_have_a_limit():
    tests = {"tests": [{"input": "", "output": ""}] * 50}
    start = time.monotonic()
    decision = judge(tests, python("import time; time.sleep(0.3)"), total_timeout=1)
    assert decision.reason == "cannot tell: not done in time: 1 s for all cases"
    assert time.monotonic() - start < 10


@needs_sandbox
def test_the_same_record_gives_the_same_decision_from_many_threads():
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: judge(ONE, python("def f(x): return {x, 'a'}")), range(16)))
    assert len({str(decision) for decision in found}) == 1


@needs_sandbox
@pytest.mark.parametrize(
    "answer",
    ["", "\0", "\ud800", "```python\n\ud800\0\n```", "```" * 30_000, "~" * 300_000, "\n```python" * 50_000,
     "```python\n" + "(" * 100_000, "```python\nf = lambda x: " + "-" * 100_000 + "1\n```", "\u202e```py\nx\n```"],
)  # fmt: skip
@pytest.mark.parametrize("tests", [ONE, SUM, CALL, HUMANEVAL], ids=["one", "sum", "call", "he"])
def test_hostile_answers_are_not_kept_and_raise_nothing(answer, tests):
    start = time.monotonic()
    decision = judge(tests, answer)
    assert decision.keep is not True
    decision.reason.encode()
    json.dumps(decision.evidence, ensure_ascii=False, default=dict).encode()
    assert time.monotonic() - start < 20


@needs_sandbox
@pytest.mark.parametrize(
    "metadata",
    [
        {"tests": "[" * 100_000}, {"tests": [[[[]]]]}, {"tests": {"inputs": "x", "outputs": "y"}},
        {"tests": [{"input": {}, "output": "x"}]}, {"tests": [{"input": None, "output": None}]},
        {"test": "\0", "entry_point": "f"}, {"test": "x", "entry_point": "f); import os; ("},
        {"tests": ["\ud800"]}, {"tests": [{"input": "\ud800\0", "output": "\ud800"}]},
        {"input_output": {"inputs": [1], "outputs": [1], "fn_name": 5}},
        {"input_output": {"inputs": ["{"], "outputs": ["1"], "fn_name": "f"}},
        {"test_setup_code": 5, "tests": ["assert 0"]}, {"language": 5, **ONE},
    ],
)  # fmt: skip
def test_hostile_metadata_is_not_kept_and_raises_nothing(metadata):
    assert judge(metadata, python("def f(x): return 0\nprint(0)")).keep is not True


@needs_sandbox
def test_canonical_solutions_of_humaneval_pass(rows):
    problems = rows("humaneval.jsonl.gz")
    # The ones whose tests draw, use helpers of the prompt or compare with a tolerance; and others.
    for number in (2, 4, 32, 38, 45, 50, 53, 99, *range(100, 164, 16)):
        row = problems[number]
        decision = judge(row, python(row["canonical_solution"]), timeout=5)
        assert decision.keep is True, (row["task_id"], decision)


def test_a_machine_without_the_sandbox_is_told_and_judges_no_code(monkeypatch):
    from filters import code_tests

    def missing(allow_without=()):
        raise UserError("no sandbox to run untrusted code in (bwrap: not here)")

    monkeypatch.setattr(sandbox, "require", missing)
    (line,) = code_tests.warn(code_tests.Config())
    assert "cannot tell of any code here: no sandbox" in line and "apt-get install" in line
    for code in ("def f(x): return x + 1", "def f(x): return x"):  # right and wrong alike
        decision = judge(ONE, python(code))
        assert (decision.keep, decision.reason) == (None, "cannot tell: no sandbox")
        assert "not here" in decision.evidence["sandbox"]
    # What needs no sandbox is judged as ever.
    assert judge({}, "5").reason == "cannot tell: no tests"
    assert judge(ONE, "```js\n1\n```").reason == "no code found"


def test_without_the_sandbox_verify_asks_nobody_else_about_code(monkeypatch):
    def missing(allow_without=()):
        raise UserError("no sandbox to run untrusted code in (bwrap: not here)")

    monkeypatch.setattr(sandbox, "require", missing)
    verify = make_check("verify", by=["code_tests", "math_answer"])
    code, sum_ = make_record(python("def f(x): return x + 1")), make_record("It is \\boxed{5}.")
    code.task.metadata, code.task.answer = ONE, "7"
    sum_.task.answer = "5"
    decision = verify(code)
    assert (decision.keep, decision.reason) == (None, "cannot tell: no sandbox")
    assert decision.evidence["by"] == "code_tests"
    assert verify(sum_).keep is True


def test_bubblewrap_cannot_be_done_without():
    from pydantic import ValidationError

    from filters.code_tests import Config

    Config(allow_without=["seccomp", "memory"])
    with pytest.raises(ValidationError):
        Config(allow_without=["bwrap"])
