"""Questions with tests, and what decides on an answer to them."""

import json

from tests.helpers.filter_records import make_check, make_record

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


def judge(metadata, answer, **options):
    """The decision on an answer, given what the data set says of its question."""
    record = make_record(answer)
    record.task.metadata = metadata
    return make_check("code_tests", **{"timeout": 1, "total_timeout": 100, **options})(record)
