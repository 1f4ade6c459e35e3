"""Verdicts on code: what passes, what fails and why, what cannot be told, and who cheats."""

import contextlib
import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import DATA, make_check, make_record

from filters import _code_jobs, sandbox
from filters._code_blocks import blocks, choose
from filters._code_compare import same_text, same_value
from filters._code_layouts import Either, find
from filters._code_wire import Unreadable, decode, encode
from synth.errors import UserError

try:
    sandbox.require()
    MISSING = ""
except UserError as error:
    MISSING = str(error)

needs_sandbox = pytest.mark.skipif(bool(MISSING), reason=MISSING)

ONE = {"test_list": ["assert f(1) == 2"]}
SUM = {"input_output": json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})}
CALL = {"input_output": {"inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]], "fn_name": "add"}}
HUMANEVAL = {
    "prompt": 'import math\n\ndef twice(x):\n    return 2 * x\n\n\ndef f(x: int) -> int:\n    """Twice, and one."""\n',
    "test": "def check(candidate):\n    assert candidate(1) == 3\n    assert candidate(4) == twice(4) + 1\n",
    "entry_point": "f",
}


def python(code):
    return f"Think.\n```python\n{code}\n```\nDone."


@pytest.fixture(scope="module")
def judge():
    """The decision on an answer, given what the data set says of its question."""

    def decide(metadata, answer, **options):
        record = make_record(answer)
        record.task.metadata = metadata
        return make_check("code_tests", **{"timeout": 1, "total_timeout": 8, **options})(record)

    return decide


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

# A program that does not solve the task and wants to pass.
CHEATS = {
    "leaves": "import os; os._exit(0)",
    "leaves politely": "import sys; sys.exit(0)",
    "leaves in the call": "def f(x):\n    import os; os._exit(0)",
    "leaves at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "equals everything": "class Any:\n    def __eq__(self, other): return True\n    __ne__ = lambda self, other: False\n    __hash__ = lambda self: 0\ndef f(x): return Any()",
    "a number that equals everything": "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return Any()",
    "a text that equals everything": "class Any(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\ndef f(x): return Any()",
    "is near to everything": "class Near:\n    def __sub__(self, other): return self\n    __rsub__ = __sub__\n    def __abs__(self): return self\n    def __lt__(self, other): return True\n    __le__ = __gt__ = __ge__ = __eq__ = __lt__\n    def __round__(self, n=0): return self\ndef f(x): return Near()",
    "patches the built-in names": "import builtins\nfor name in ('AssertionError', 'isinstance', 'bool', 'abs', 'len'):\n    setattr(builtins, name, lambda *a, **k: True)\nabs = len = sorted = lambda *a: True\ndef f(x): return 0",
    "patches the operators": "import operator\noperator.eq = lambda a, b: True\ndef f(x): return 0",
    "patches unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef f(x): return 0",
    "defines the checker": "def check(candidate): pass\ndef __compared__(*a): return True\ndef __noted__(*a): return True\ndef f(x): return 0",
    "reads its callers": "import gc, sys\ndef f(x):\n    for frame in [sys._getframe(n) for n in range(4)]:\n        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:\n            if isinstance(value, str) and 'assert' in value: return 2\n    for thing in gc.get_objects():\n        if isinstance(thing, dict) and ('pieces' in thing or 'token' in thing): return 2\n    return 0",
    "reads its input": "import os\ndef f(x):\n    for n in range(64):\n        try:\n            os.lseek(n, 0, 0)\n            if b'assert' in os.read(n, 1 << 20): return 2\n        except OSError: pass\n    return 0",
    "reads files": "import os\ndef f(x):\n    for name in os.listdir('/tmp'):\n        if b'assert' in open('/tmp/' + name, 'rb').read() and b'f(1) == 2' in open('/tmp/' + name, 'rb').read(): return 2\n    return 0",
    "writes the report": "import os, json\ndef f(x):\n    for n in range(64):\n        for token in ('', None, 'x' * 32):\n            try: os.write(n, b'\\n' + json.dumps({'ended': 'passed', 'asserted': 1, 'token': token}).encode() + b'\\n')\n            except OSError: pass\n    return 0",
    "prints success": "print('ok passed 1 {\"ended\": \"passed\"}')\ndef f(x): return 0",
    "answers for the server": "import os, json, struct\ndef f(x):\n    for answer in ({'value': {'builtin': 'NotImplemented'}, 'changed': []}, {'value': {'object': [0, 'x']}, 'changed': [1, 2]}, {'ended': 'passed'}, {'value': {'module': 'this'}, 'changed': []}):\n        text = json.dumps(answer).encode()\n        os.write(4, struct.pack('<I', len(text)) + text)\n    return 0",
    "answers with rubbish": "import os\ndef f(x):\n    os.write(4, b'\\xff' * 4096)\n    return 0",
    "answers too much": "import os\ndef f(x): return 'x' * (100 << 20)",
    "answers too deeply": "def f(x):\n    y = []\n    for n in range(100000): y = [y]\n    return y",
    "raises all kinds": "def f(x): raise SystemExit(0)",
    "stops the iteration": "def f(x): raise StopIteration",
    "kills the tester": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef f(x): return 0",
    "kills everything": "import os, signal\nos.kill(-1, signal.SIGKILL)\ndef f(x): return 0",
    "stops the tester": "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\ndef f(x): return 0",
    "plants modules": "for name in ('ast', 'random', 'operator', 'json', 'fractions', 'decimal', 'math'):\n    open('/tmp/' + name + '.py', 'w').write('import os; os._exit(0)')\ndef f(x): return 0",
    "traces": "import sys, threading\ndef trace(*a): return trace\nsys.settrace(trace); threading.settrace(trace)\nsys.excepthook = lambda *a: None\ndef f(x): return 0",
    "forks": "import os\nif os.fork(): os._exit(0)\ndef f(x): return 0",
}  # fmt: skip

CHEATS_STDIN = {
    "prints what a runner may look for": "print('3'); print('ok'); print('{\"case\": 0, \"ended\": \"exit\", \"code\": 0, \"out\": \"3\"}')",
    "prints the first line only": "print(3)",
    "looks for the answers": "import os\nfound = []\nfor folder, _, names in os.walk('/tmp'):\n    for name in names:\n        text = open(os.path.join(folder, name), 'rb').read()\n        if b'outputs' in text or b'expected' in text: found.append(name)\nprint(found)",
    "writes to other files": "import os\nfor n in range(3, 64):\n    try: os.write(n, b'{\"case\": 0, \"ended\": \"exit\", \"code\": 0, \"out\": \"3\", \"err\": \"\"}\\n')\n    except OSError: pass",
    "changes the program": "import os\nos.remove('/tmp/main.py')\nopen('/tmp/main.py', 'w').write('print(1)')",
    "replaces the input": "import os\nos.remove('/tmp/stdin')\nos.mkdir('/tmp/stdin')\nprint(3)",
    "makes its input a pipe": "import os\nos.remove('/tmp/stdin')\nos.mkfifo('/tmp/stdin')\nprint(3)",
    "leaves a daemon that prints": "import os, time\nif not os.fork():\n    os.setsid()\n    time.sleep(0.2)\n    print(7)\nelse: print(3)",
}  # fmt: skip

CHEATS_CALL = {
    "answers for the runner": "import os, json, struct\ndef add(a, b):\n    text = json.dumps({'value': 0, 'ended': 'passed', 'case': 1}).encode()\n    os.write(3, struct.pack('<I', len(text)) + text)\n    return 0",
    "answers with forms": "import os, json, struct\ndef add(a, b):\n    text = json.dumps({'value': {'dict': 5}}).encode()\n    os.write(3, struct.pack('<I', len(text)) + text)\n    return 0",
    "answers with rubbish": "import os\ndef add(a, b): os.write(3, b'\\x05\\0\\0\\0[[[[[')",
    "equals everything": "class Any(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Any()",
}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize(("metadata", "code"), [r[1:] for r in RIGHT], ids=[r[0] for r in RIGHT])
def test_right_code_is_kept(judge, metadata, code):
    decision = judge(metadata, python(code))
    assert decision.keep is True, decision
    assert decision.score == 1
    assert decision.evidence["sandbox"] == "+".join(sandbox.require())


@needs_sandbox
@pytest.mark.parametrize(("kind", "metadata", "code"), WRONG)
def test_wrong_code_is_not_kept(judge, kind, metadata, code):
    decision = judge(metadata, code if code.startswith("```") else python(code))
    assert decision.keep is False, decision
    assert decision.reason.split(":")[0] == kind


@needs_sandbox
@pytest.mark.parametrize(("kind", "metadata", "code"), UNDECIDED)
def test_what_cannot_be_told(judge, kind, metadata, code):
    decision = judge(metadata, code if code.startswith("```") else python(code))
    assert decision.keep is None, decision
    assert decision.reason.startswith(f"cannot tell: {kind}")


@needs_sandbox
@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes_assertions(judge, name):
    tests = {"test_list": ["assert abs(f(1) - 2) < 0.1", "assert f(1) == 2"]}
    if name.startswith("a text"):
        tests = {"test_list": ["assert f(1) == 'two'"]}
    decision = judge(tests, python(CHEATS[name]))
    assert decision.keep is not True, decision
    json.dumps(decision.evidence)


@needs_sandbox
@pytest.mark.parametrize("name", CHEATS_STDIN)
def test_no_cheat_passes_input_and_output(judge, name):
    assert judge(SUM, python(CHEATS_STDIN[name])).keep is not True


@needs_sandbox
@pytest.mark.parametrize("name", CHEATS_CALL)
def test_no_cheat_passes_calls(judge, name):
    assert judge(CALL, python(CHEATS_CALL[name])).keep is False


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
def test_languages(judge, tag, program, code):
    if _code_jobs.lacks(tag):
        pytest.skip(f"no {program} here")
    assert judge(SUM, f"```{tag}\n{code}\n```", timeout=5).keep is True
    wrong = judge(SUM, f"```{tag}\n{code.replace('a + b', 'a - b')}\n```", timeout=5)
    assert wrong.reason == "wrong output: case 0"


@needs_sandbox
def test_code_that_does_not_compile_names_the_error(judge):
    if _code_jobs.lacks("cpp"):
        pytest.skip("no g++ here")
    decision = judge(SUM, "```cpp\nint main() { return x; }\n```")
    assert decision.keep is False
    assert "‘x’ was not declared" in decision.reason or "'x' was not declared" in decision.reason


@needs_sandbox
def test_deep_recursion_in_a_compiled_program_is_as_on_a_judge(judge):
    if _code_jobs.lacks("cpp"):
        pytest.skip("no g++ here")
    code = '#include <cstdio>\nint f(int n) { volatile int a[64]; a[0] = n; return n ? f(n - 1) + a[0] - n : 0; }\nint main() { printf("%d", f(100000)); }'
    tests = {"tests": [{"input": "", "output": "0"}]}
    assert judge(tests, f"```cpp\n{code}\n```", timeout=5).keep is True


def test_a_language_without_its_compiler_is_not_judged(judge, monkeypatch):
    monkeypatch.setattr(_code_jobs.shutil, "which", lambda name, path=None: None)
    assert judge(SUM, "```cpp\nint main() {}\n```").reason == "cannot tell: no g++ here"


@needs_sandbox
def test_the_failing_case_is_the_evidence(judge):
    failed = judge(SUM, python("print(3)")).evidence["failed"]
    assert failed == {"case": 1, "input": "3 4\n", "expected": "7\n", "got": "3\n"}
    failed = judge(
        {"tests": ["assert f(1) == 1", "assert f(2) == 4"]}, python("def f(x): return x")
    )
    assert failed.evidence["failed"] == {"place": "assert f(2) == 4", "got": "2", "expected": "4"}


@needs_sandbox
def test_a_result_that_differs_from_run_to_run_is_flaky(judge):
    code = python("import os\nprint(os.urandom(1)[0] % 2)")
    tests = {"tests": [{"input": "", "output": "1"}]}
    # One in four is: it fails by chance, then passes.
    reasons = (judge(tests, code).reason for _ in range(80))
    assert any(reason == "cannot tell: flaky: wrong output, then passed" for reason in reasons)


@needs_sandbox
def test_a_time_out_says_that_it_was_the_code(judge):
    decision = judge(ONE, python("def f(x):\n    while True: pass"))
    assert decision.keep is False
    assert decision.reason.startswith("timed out: ")


@needs_sandbox
def test_all_cases_together_have_a_limit(judge):
    tests = {"tests": [{"input": "", "output": ""}] * 50}
    start = time.monotonic()
    decision = judge(tests, python("import time; time.sleep(0.3)"), total_timeout=1)
    assert decision.reason == "cannot tell: not done in time: 1 s for all cases"
    assert time.monotonic() - start < 10


@needs_sandbox
def test_the_same_record_gives_the_same_decision_from_many_threads(judge):
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
def test_hostile_answers_are_not_kept_and_raise_nothing(judge, answer, tests):
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
def test_hostile_metadata_is_not_kept_and_raises_nothing(judge, metadata):
    assert judge(metadata, python("def f(x): return 0\nprint(0)")).keep is not True


@pytest.mark.parametrize(
    ("metadata", "kind", "cases", "function"),
    [
        (SUM, "stdin", [("1 2\n", "3\n"), ("3 4\n", "7\n")], None),
        ({"test_cases": {"input": ["1"], "output": ["2"]}}, "stdin", [("1", "2")], None),
        ({"tests": '[{"input": "1", "output": "2"}]'}, "stdin", [("1", "2")], None),
        ({"official_tests": [{"input": "1", "output": "2"}]}, "stdin", [("1", "2")], None),
        (
            {
                "public_tests": {"input": ["1"], "output": ["2"]},
                "private_tests": {"input": ["3"], "output": ["4"]},
            },
            "stdin",
            [("1", "2"), ("3", "4")],
            None,
        ),
        ({"input_output": {"inputs": [["1", "2"]], "outputs": [["3"]]}}, "stdin", [("1\n2", "3")], None),
        (CALL, "calls", [([1, 2], ([3], 3)), ([3, 4], ([7], 7))], "add"),
        (
            {"test_cases": [{"input": "[1]\n2", "output": "3", "testtype": "functional"}], "func_name": "g"},
            "calls",
            [([[1], 2], 3)],
            "g",
        ),
        (
            {"verification_info": {"language": "python", "test_cases": [{"fn_name": "h", "input": [1], "output": 2}]}},
            "calls",
            [([1], 2)],
            "h",
        ),
    ],
)  # fmt: skip
def test_layouts_of_pairs(metadata, kind, cases, function):
    tests = find(metadata, "q")
    assert (tests.kind, tests.cases, tests.function) == (kind, cases, function)


@pytest.mark.parametrize(
    ("metadata", "pieces", "function"),
    [
        ({"test_list": ["assert a", "assert b"]}, ["assert a", "assert b"], None),
        ({"test_list": ["assert a"], "test_setup_code": "import x"}, ["import x", "assert a"], None),
        ({"test_list": ["assert a"], "test_imports": ["import x", "import y"]}, ["import x\nimport y", "assert a"], None),
        (HUMANEVAL, [HUMANEVAL["test"]], "f"),
        ({"tests": "assert a\nassert b"}, ["assert a\nassert b"], None),
    ],
)  # fmt: skip
def test_layouts_of_assertions(metadata, pieces, function):
    tests = find(metadata, "q")
    assert (tests.kind, tests.pieces, tests.function) == ("asserts", pieces, function)


def test_a_field_can_be_named():
    assert find({"mine": ["assert a"], "tests": ["assert b"]}, "q", "mine").pieces == ["assert a"]
    assert find({"tests": ["assert b"]}, "q", "mine") is None


def test_code_to_complete_may_stand_in_the_question():
    metadata = {name: HUMANEVAL[name] for name in ("test", "entry_point")}
    assert find(metadata, HUMANEVAL["prompt"]).prompt == HUMANEVAL["prompt"]
    assert find(metadata, "Write f.").prompt is None


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True), ("1  \n2\n\n", "1\n2\n", True), ("1\n", "1\n2\n3\n", False),
        ("1\n2\n3\n", "1\n", False), ("", "1", False), ("1 2", "1 2 3", False), ("", "", True),
        ("0.33333333", "0.33333334", True), ("0.333", "0.33333334", False), ("1000001", "1000000", False),
        ("3.1", "3.10", True), ("3", "3.0", True), ("inf", "1e999", False), ("nan", "1.0", False),
        ("YES", "yes", False), ("a.b", "a.c", False), ("\n1", "1", False),
    ],
)  # fmt: skip
def test_outputs_are_compared_whole(got, expected, same):
    assert same_text(got, expected, 1e-6) is same


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ((1, 2), [1, 2], True), ([1, 2], [1, 2, 3], False), ([1], 1, False), ({1: "a"}, {"1": "a"}, True),
        ({"a": (1,)}, {"a": [1]}, True), (0.1 + 0.2, 0.3, True), (1, 1.0, True), (2**70, 2**70, True),
        (2**70, 2**70 + 1, False), (1.0, 10**400, False), ({1, 2}, [1, 2], False), (None, None, True),
        ("1", 1, False), (3, Either(([3], 3)), True), ([3], Either(([3], 3)), True), (4, Either(([3], 3)), False),
        (float("nan"), 1.0, False), ({}, [], False), (True, 1, True),
    ],
)  # fmt: skip
def test_results_are_compared_as_json(got, expected, same):
    assert same_value(encode(got, None), expected, 1e-6) is same


def test_which_block_counts():
    answer = "```python\na\n```\n```cpp\nlonger than all\n```\n```py\nbbb\n```\n```\nc\n```\n```python\nd\n```"
    found = blocks(answer)
    tags = _code_jobs.LANGUAGES["python"].tags
    assert [choose(found, tags, which) for which in ("first", "last", "longest")] == [
        "a\n",
        "d\n",
        "bbb\n",
    ]
    assert choose(blocks("```\nx\n```"), tags, "last") == "x\n"
    assert choose(blocks("```js\nx\n```"), tags, "last") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("````md\n```py\nx\n```\n````", [("md", "```py\nx\n```\n")]),
        ("~~~ py\nx\n~~~", [("py", "x\n")]),
        ("```python\ncut off", [("python", "cut off")]),
        ("  ```c++ title\nx\n  ```", [("c++", "x\n")]),
        ("no `code` here", []),
    ],
)
def test_fences(text, expected):
    assert blocks(text) == expected


@pytest.mark.parametrize(
    "text", ["```" * 300_000, "`" * 10**6, "\n```\n" * 200_000, " " * 10**6, "~~~ \t" * 200_000]
)
def test_fences_are_found_in_linear_time(text):  # fmt: skip
    start = time.monotonic()
    blocks(text)
    assert time.monotonic() - start < 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.fractions() | st.decimals(allow_nan=False) | st.dates() | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner)
    | st.frozensets(st.integers()) | st.sets(st.text()),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_values_survive_the_wire(value):
    def refuse(*what):
        raise AssertionError(what)

    sent = json.loads(json.dumps(encode(value, refuse)))
    got = decode(sent, refuse)
    assert got == value
    assert type(got) is type(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner)
    | st.dictionaries(
        st.sampled_from(["dict", "tuple", "set", "int", "complex", "bytes", "range", "builtin", "built"]) | st.text(),
        inner,
    ),
)  # fmt: skip


@settings(max_examples=100)
@given(JSON)
def test_rubbish_on_the_wire_is_unreadable_and_nothing_else(sent):
    def refuse(name, content):
        raise Unreadable(name)

    with contextlib.suppress(Unreadable):
        decode(sent, refuse)


@needs_sandbox
def test_canonical_solutions_of_humaneval_pass(judge):
    path = DATA / "humaneval.jsonl.gz"
    if not path.exists():
        pytest.skip("humaneval.jsonl.gz is not here")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    # The ones whose tests draw, use helpers of the prompt or compare with a tolerance; and others.
    for number in (2, 4, 32, 38, 45, 50, 53, 99, *range(100, 164, 16)):
        row = rows[number]
        decision = judge(row, python(row["canonical_solution"]), timeout=5)
        assert decision.keep is True, (row["task_id"], decision)


def test_a_machine_without_the_sandbox_is_told(monkeypatch):
    from filters import code_tests

    def missing(allow_without=()):
        raise UserError("no sandbox to run untrusted code in (bwrap: not here)")

    monkeypatch.setattr(sandbox, "require", missing)
    assert "no sandbox" in code_tests.check(code_tests.Config())[0]


def test_bubblewrap_cannot_be_done_without():
    from pydantic import ValidationError

    from filters.code_tests import Config

    Config(allow_without=["seccomp", "memory"])
    with pytest.raises(ValidationError):
        Config(allow_without=["bwrap"])
