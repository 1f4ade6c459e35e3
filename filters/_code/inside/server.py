"""Inside the sandbox: the process that holds the code under test and answers calls of it.

It knows nothing of the tests but the arguments of their calls.
"""

from __future__ import annotations

import ast
import operator
import sys
import types

from filters._code.inside.wire import MUTABLE, Channel, Gone, Unreadable, decode, encode

TYPE_CHECKING = False  # `typing` takes longer to load than most code to run
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def load(programs: list[str], wanted: str | None) -> dict[str, Any]:
    """Return the names that an answer defines: the first of its readings that compiles.

    Raises:
        SyntaxError: None of them compiles, or defines the name that is wanted.
        BaseException: Whatever the program raises.
    """
    code = _first(programs, wanted)
    module = types.ModuleType("solution")
    # Classes and pickles look their module up; `exit` comes with `site`, which is left out.
    sys.modules["solution"] = module
    module.__dict__.update(exit=sys.exit, quit=sys.exit)
    exec(code, module.__dict__)
    return module.__dict__


def _first(programs: list[str], wanted: str | None) -> types.CodeType:
    problem: Exception = SyntaxError("there is no code")
    for number, program in enumerate(programs):
        try:
            tree = ast.parse(program, "solution.py")
            if wanted is None or wanted in defined(tree):
                return compile(tree, "solution.py", "exec")
            raise SyntaxError(f"{wanted} is not defined")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if number == 0:
                problem = error
    raise problem if isinstance(problem, SyntaxError) else SyntaxError(str(problem))


def defined(tree: ast.Module) -> set[str]:
    """Return the names that a program gives something to, in branches too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return names


def find_function(names: dict[str, Any], name: str) -> Callable[..., Any]:
    """Return the function of that name, or the method of a class `Solution`, or raise NameError."""
    if callable(function := names.get(name)):
        return function  # type: ignore[no-any-return]
    if callable(solution := names.get("Solution")) and hasattr(solution, name):
        return getattr(solution(), name)  # type: ignore[no-any-return]
    raise NameError(f"name {name!r} is not defined")


class Server:
    """What answers requests until the other side hangs up."""

    def __init__(self, channel: Channel, programs: list[str], wanted: str | None) -> None:
        self._channel = channel
        self._programs = programs
        self._wanted = wanted
        self._names: dict[str, Any] | None = None
        # Objects that the other side holds by number.
        self._objects: list[Any] = []

    def serve(self) -> None:
        """Answer one request after the other."""
        while True:
            try:
                request = self._channel.receive()
            except Gone:
                return
            self._channel.send(self._answer(request))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._names is None:
                self._names = load(self._programs, self._wanted)
            arguments = self._decoded(request["args"])
            named = self._decoded({"dict": request["named"]})
            mutable = [a for a in [*arguments, *named.values()] if isinstance(a, MUTABLE)]
            before = [self._encoded(a) for a in mutable]
            value = self._encoded(self._do(request["do"], arguments, named))
            after = [self._encoded(a) for a in mutable]
            # An argument that was changed in place is changed over there too.
            changed = [a if a != b else None for a, b in zip(after, before, strict=True)]
            return {"value": value, "changed": changed}
        except Gone:
            raise
        except BaseException as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            # The text of an exception is code of the program, too.
            try:
                text = str(error)[:300]
            except BaseException:
                text = ""
            return {"raised": kinds, "text": text}

    def _do(self, what: str, arguments: list[Any], named: dict[str, Any]) -> Any:
        if what == "name":
            assert self._names is not None
            if arguments[0] not in self._names:
                raise NameError(f"name {arguments[0]!r} is not defined")
            return self._names[arguments[0]]
        if what == "call":
            return arguments[0](*arguments[1:], **named)
        if what in _BUILTIN:
            return _BUILTIN[what](*arguments)
        return getattr(operator, what)(*arguments)

    def _encoded(self, value: Any) -> Any:
        return encode(value, self._refer)

    def _refer(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if isinstance(value, _Theirs):
            return {"yours": value.number}
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"exception": [kind.__name__ for kind in value.__mro__]}
        self._objects.append(value)
        return {"object": [len(self._objects) - 1, type(value).__name__]}

    def _decoded(self, sent: Any) -> Any:
        return decode(sent, self._resolve)

    def _resolve(self, name: str, content: Any) -> Any:
        if name == "object":
            return self._objects[content]
        if name == "function":
            return _Theirs(content, self._back)
        raise Unreadable(name)

    def _back(self, number: int, arguments: tuple[Any, ...]) -> Any:
        """Call a function that the tests handed in, and answer requests that come meanwhile."""
        self._channel.send({"back": number, "args": self._encoded(list(arguments))})
        while "do" in (message := self._channel.receive()):
            self._channel.send(self._answer(message))
        if "failed" in message:
            raise RuntimeError(message["failed"])
        return self._decoded(message["value"])


_BUILTIN: dict[str, Callable[..., Any]] = {
    "iter": iter, "next": next, "len": len, "str": str, "repr": repr, "bool": bool, "hash": hash,
    "getattr": getattr, "setattr": setattr, "isinstance": isinstance, "int": int, "float": float,
}  # fmt: skip


class _Theirs:
    """A function of the tests."""

    def __init__(self, number: int, back: Callable[[int, tuple[Any, ...]], Any]) -> None:
        self.number = number
        self._back = back

    def __call__(self, *arguments: Any) -> Any:
        return self._back(self.number, arguments)
