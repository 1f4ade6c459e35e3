"""Programs that do not solve their task and want to pass: none is kept."""

import json

import pytest

from tests.helpers.code_records import CALL, SUM, judge, python
from tests.helpers.sandbox.sandboxed import needs_sandbox

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


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes_assertions(name):
    tests = {"test_list": ["assert abs(f(1) - 2) < 0.1", "assert f(1) == 2"]}
    if name.startswith("a text"):
        tests = {"test_list": ["assert f(1) == 'two'"]}
    # What hangs the tester is waited for by the clock.
    options = {"total_timeout": 15} if name == "stops the tester" else {}
    decision = judge(tests, python(CHEATS[name]), **options)
    assert decision.keep is not True, decision
    json.dumps(decision.evidence)


@needs_sandbox
@pytest.mark.parametrize("name", CHEATS_STDIN)
def test_no_cheat_passes_input_and_output(name):
    assert judge(SUM, python(CHEATS_STDIN[name])).keep is not True


@needs_sandbox
@pytest.mark.parametrize("name", CHEATS_CALL)
def test_no_cheat_passes_calls(name):
    assert judge(CALL, python(CHEATS_CALL[name])).keep is False
