"""What runs in a worker of `reasoning_gym`: the package's own scorers, some of which run answers.

They pass an answer to `eval` or to sympy's parser, which evaluates as well. Both are
replaced before a scorer runs, by functions that take literals and arithmetic alone.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from typing import Any

_NODES = (
    ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Load, ast.UnaryOp,
    ast.BinOp, ast.unaryop, ast.operator,
)  # fmt: skip
_NONSENSE = "no such answer"
_WORD = re.compile(r"[^\W\d]\w*")
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]|['\"\\`\[{:;]")
_KNOWN = {
    "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp",
    "log", "ln", "sqrt", "pi", "abs", "Abs", "oo",
}  # fmt: skip


def prepare() -> None:
    """Imports the package with its evaluators replaced."""
    import sympy
    import sympy.parsing.sympy_parser as parser

    parse = parser.parse_expr

    def careful(text: str, *args: Any, **named: Any) -> Any:
        return parse(_formula(text), *args, **named)

    parser.parse_expr = sympy.parse_expr = careful
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of what it imports in its turn
        import reasoning_gym  # noqa: F401
    for name, module in list(sys.modules.items()):
        if name.startswith("reasoning_gym."):
            module.__dict__["eval"] = evaluated
            module.__dict__["exec"] = _refused


def score(
    generator: str, options: dict[str, Any], answer: str, entry: dict[str, Any]
) -> tuple[float | None, str]:
    """The score from 0 to 1 that a generator gives an answer; or None, and why it gives none.

    A scorer is held to what it has to know: it gives the reference 1, and nonsense less. Lists of
    the entry are tried as tuples as well, which they were before they were stored as JSON.
    """
    reference = entry["answer"]
    scorer = _scorer(generator, repr(sorted(options.items())), options)
    if scorer is None:
        return None, f"reasoning-gym has no generator {generator!r}"
    shapes = [entry, {**entry, "metadata": _tuples(entry["metadata"])}]
    if reference is not None:
        shapes = [shape for shape in shapes if _scored(scorer, reference, shape) == 1.0]
        if not shapes:
            return None, "the scorer does not know the reference"
    if _scored(scorer, _NONSENSE, shapes[0]) == 1.0:
        return None, "the scorer takes any answer"
    value = _scored(scorer, answer, shapes[0])
    if value is None and reference is None:
        return None, "the scorer failed"
    return value or 0.0, ""


def _scored(scorer: Any, answer: str, entry: dict[str, Any]) -> float | None:
    """A score; None where the scorer raises, as some do where an answer has not the form."""
    try:
        return float(scorer(answer=answer, entry=entry))
    except MemoryError:
        raise
    except (Exception, RecursionError):
        return None


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def evaluated(text: Any) -> Any:
    """The value of literals and arithmetic.

    Raises:
        ValueError: There is more in it than that.

    >>> evaluated("[1, 0x10 + 2]")
    [1, 18]
    """
    tree = ast.parse(str(text).strip(), mode="eval")
    if not all(isinstance(node, _NODES) for node in ast.walk(tree)):
        raise ValueError("more than literals and arithmetic")
    return eval(compile(tree, "<answer>", "eval"), {"__builtins__": {}})


def _formula(text: str) -> str:
    """A text that sympy's parser may evaluate: numbers, letters and the names of functions.

    Raises:
        ValueError: There is more in it than that.
    """
    strange = any(len(word) > 1 and word not in _KNOWN for word in _WORD.findall(text))
    if strange or _ATTRIBUTE.search(text):
        raise ValueError("more than a formula")
    return text


def _refused(*args: Any) -> Any:
    raise ValueError("nothing is run here")


def _scorer(generator: str, key: str, options: dict[str, Any]) -> Any:
    from reasoning_gym.factory import DATASETS

    if generator not in DATASETS:
        return None
    if (generator, key) not in _scorers:
        dataset, config = DATASETS[generator]
        _scorers[generator, key] = dataset(config=config(**options)).score_answer
    return _scorers[generator, key]


_scorers: dict[tuple[str, str], Any] = {}
