"""Inside the sandbox: runs assertions against code that lives in another process.

What is written here is read by the host as the verdict, so nothing of the code under test is ever
run in this process: it sees plain values, and stand-ins for what is not one.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import operator
import random
import sys
import types

from filters._code.inside.remote import CannotTell, Client, Remote
from filters._code.inside.server import defined
from filters._code.inside.wire import Gone, Unreadable

TYPE_CHECKING = False  # `typing` takes longer to load than most code to run
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SHOWN = 200
# By the name of the class of `ast`.
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq, "NotEq": operator.ne, "Lt": operator.lt, "LtE": operator.le,
    "Gt": operator.gt, "GtE": operator.ge, "Is": operator.is_, "IsNot": operator.is_not,
    "In": lambda a, b: a in b, "NotIn": lambda a, b: a not in b,
}  # fmt: skip


class Tester:
    """What runs pieces of test code.

    It counts the assertions made (`asserted`) and keeps the text of the last one (`place`) and,
    where it was a comparison, its two sides (`compared`).
    """

    def __init__(self, client: Client, helpers: str | None, entry: str | None) -> None:
        self._client = client
        self._entry = entry
        self._names: dict[str, Any] = {
            "__name__": "tests", "__compared__": self._compare, "__noted__": self._note,
        }  # fmt: skip
        self.asserted = 0
        self.place = ""
        self.compared: tuple[Any, Any] | None = None
        random.seed(0)  # the same tests each time
        if helpers is not None:
            # What the question itself defines does not come from the answer.
            exec(compile(helpers, "prompt.py", "exec"), self._names)
            self._names.pop(entry or "", None)

    def run(self, pieces: list[str]) -> None:
        """Run test code; then `check(candidate)` or every `test_...` that it defines."""
        try:
            trees = [_Marked(piece).tree for piece in pieces]
            codes = [compile(tree, "tests.py", "exec") for tree in trees]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise CannotTell(f"the tests do not compile: {error}") from error
        self._fetch(trees)
        for code, piece in zip(codes, pieces, strict=True):
            if len(pieces) > 1:
                self.place = piece.strip()[:_SHOWN]
            exec(code, self._names)
        check = self._names.get("check")
        if self._entry is not None and isinstance(check, types.FunctionType):
            check(self._client.ask("name", self._entry))
        for name, function in list(self._names.items()):
            if name.startswith("test_") and isinstance(function, types.FunctionType):
                self.place = name
                function()
        if not self.asserted:
            raise CannotTell("the tests assert nothing")

    def _fetch(self, trees: list[ast.Module]) -> None:
        """Get the names that the tests use and nobody here defines from the code under test."""
        self._client.ask("bool", True)  # loads it; what it raises is raised here
        nodes = [node for tree in trees for node in ast.walk(tree)]
        module = types.ModuleType("solution")
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module == "solution":
                for alias in node.names:
                    self._put(alias.name, module.__dict__)
        sys.modules["solution"] = module
        stored = {n.arg for n in nodes if isinstance(n, ast.arg)}.union(*map(defined, trees))
        for node in nodes:
            if isinstance(node, ast.Name) and not (
                node.id in stored or node.id in self._names or hasattr(builtins, node.id)
            ):
                self._put(node.id, self._names)

    def _put(self, name: str, into: dict[str, Any]) -> None:
        with contextlib.suppress(NameError):  # whoever uses it finds out
            into[name] = self._client.ask("name", name)

    def _note(self, value: Any, place: str) -> Any:
        self.asserted += 1
        self.place = place
        self.compared = None
        return value

    def _compare(self, which: str, left: Any, right: Any, place: str) -> Any:
        self._note(None, place)
        self.compared = (left, right)
        return _COMPARISONS[which](left, right)


class _Marked(ast.NodeTransformer):
    """Test code whose comparisons in assertions are noted before they are made."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines()
        self.tree = ast.fix_missing_locations(self.visit(ast.parse(source, "tests.py")))

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        test = node.test
        place = ast.Constant(self._lines[node.lineno - 1].strip()[:_SHOWN])
        name, given = "__noted__", [test, place]
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            which = ast.Constant(type(test.ops[0]).__name__)
            name, given = "__compared__", [which, test.left, test.comparators[0], place]
        node.test = ast.copy_location(ast.Call(ast.Name(name, ast.Load()), given, []), test)
        return node


def report(tester: Tester, client: Client, pieces: list[str]) -> dict[str, Any]:
    """Run the tests and report how it went: `passed`, or why not."""
    try:
        tester.run(pieces)
        return {"ended": "passed", "asserted": tester.asserted}
    except (Gone, TimeoutError):
        raise
    except CannotTell as why:
        return {"ended": "cannot tell", "error": str(why)}
    except Unreadable as why:
        return {"ended": "raised", "error": str(why), "place": tester.place}
    except BaseException as error:
        own = client.raised is not None and client.raised[0] is error
        kinds = client.raised[1] if own and client.raised else [type(error).__name__]
        said: dict[str, Any] = {"place": tester.place, "asserted": tester.asserted, "kinds": kinds}
        if type(error) is AssertionError and not own:
            said["ended"] = "wrong"
            if tester.compared is not None:
                said["got"], said["expected"] = map(_shown, tester.compared)
            return said
        return {**said, "ended": "raised", "error": _clip(f"{kinds[0]}: {error}")}


def _shown(value: Any) -> str:
    return "an object" if isinstance(value, Remote) else _clip(repr(value))


def _clip(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
