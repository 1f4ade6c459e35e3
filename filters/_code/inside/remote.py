"""Inside the sandbox: what the tests hold in place of the code under test, which runs elsewhere."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import sys
import types

from filters._code.inside.wire import MUTABLE, Channel, Unreadable, decode, encode

TYPE_CHECKING = False  # `typing` takes longer to load than most code to run
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


class CannotTell(BaseException):
    """The tests ask for something that two processes cannot do; a test's `except` lets it pass."""


class Client:
    """What asks the process that holds the code under test."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._functions: list[Callable[..., Any]] = []
        # Kinds of exceptions that are defined over there, as the tests name them.
        self._exceptions: dict[str, type[BaseException]] = {}
        # The exception that was last raised over there, with the names of its kinds.
        self.raised: tuple[BaseException, list[str]] | None = None

    def ask(self, what: str, *arguments: Any, **named: Any) -> Any:
        """Return what an operation gives there; raise what it raises, as the nearest kind here."""
        sent = [encode(argument, self._refer) for argument in arguments]
        names = [[name, encode(value, self._refer)] for name, value in named.items()]
        self._channel.send({"do": what, "args": sent, "named": names})
        while "back" in (answer := self._channel.receive()):
            self._channel.send(self._called_back(answer))
        if "raised" in answer:
            error = self._nearest(answer["raised"])(str(answer["text"]))
            self.raised = (error, list(answer["raised"]))
            raise error
        mutable = [a for a in [*arguments, *named.values()] if isinstance(a, MUTABLE)]
        for old, new in zip(mutable, answer["changed"], strict=True):
            if new is not None:
                _replace(old, self._decoded(new))
        return self._decoded(answer["value"])

    def _called_back(self, answer: dict[str, Any]) -> dict[str, Any]:
        try:
            function = self._functions[answer["back"]]
            value = function(*self._decoded(answer["args"]))
            return {"value": encode(value, self._refer)}
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"}

    def _refer(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return {"object": object.__getattribute__(value, "_number")}
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
            self._functions.append(value)
            return {"function": len(self._functions) - 1}
        raise CannotTell(f"the tests hand in an object of the kind {type(value).__name__}")

    def _nearest(self, kinds: list[str]) -> type[BaseException]:
        for kind in kinds:
            exception = self._exceptions.get(kind) or getattr(builtins, str(kind), None)
            if isinstance(exception, type) and issubclass(exception, BaseException):
                # Some need more to be made, as UnicodeDecodeError does.
                with contextlib.suppress(TypeError):
                    exception("")
                    return exception
        return RuntimeError

    def _decoded(self, sent: Any) -> Any:
        return decode(sent, self._resolve)

    def _resolve(self, name: str, content: Any) -> Any:
        if name == "object":
            return Remote(self, int(content[0]), str(content[1]))
        if name == "exception":
            kinds = [str(kind) for kind in content]
            exception = type(kinds[0], (self._nearest(kinds),), {})
            return self._exceptions.setdefault(kinds[0], exception)
        if name == "module" and content in sys.stdlib_module_names:
            return importlib.import_module(content)
        if name == "module":
            raise CannotTell(f"the tests need the module {content}")
        if name == "yours":
            return self._functions[content]
        raise Unreadable(name)


def _replace(old: Any, new: Any) -> None:
    """Give a list, dict or set the content of another one."""
    if type(old) is not type(new):
        raise Unreadable("an argument became of another type")
    old.clear()
    if isinstance(old, list | bytearray):
        old.extend(new)
    else:
        old.update(new)


class Remote:
    """An object of the code under test. Whatever is done to it is done there."""

    def __init__(self, client: Client, number: int, kind: str) -> None:
        object.__setattr__(self, "_client", client)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_kind", kind)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__", "__dict__", "__class__"):
            raise AttributeError(name)
        return _ask(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return object.__getattribute__(self, "_client").ask("call", self, *arguments, **named)

    def __eq__(self, other: object) -> bool:
        # Its own `__eq__` has no say in whether it is what the tests expect: only a plain value
        # equals a plain value.
        return isinstance(other, Remote) and bool(_ask(self, "eq", other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    # Nor whether it is near enough: `abs(f(x) - 1.5) < 0.1` is for numbers.

    def __lt__(self, other: object) -> Any:
        return _ask(self, "lt", other) if isinstance(other, Remote) else NotImplemented

    def __le__(self, other: object) -> Any:
        return _ask(self, "le", other) if isinstance(other, Remote) else NotImplemented

    def __hash__(self) -> int:
        return int(_ask(self, "hash"))

    def __bool__(self) -> bool:
        return bool(_ask(self, "bool"))

    def __str__(self) -> str:
        return str(_ask(self, "str"))

    def __repr__(self) -> str:
        return str(_ask(self, "repr"))

    def __iter__(self) -> Iterator[Any]:
        iterator = _ask(self, "iter")
        if not isinstance(iterator, Remote):
            yield from iterator
            return
        while True:
            try:
                item = _ask(iterator, "next")
            except StopIteration:
                return
            yield item

    def __next__(self) -> Any:
        return _ask(self, "next")

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and bool(_ask(instance, "isinstance", self))


def _ask(remote: Remote, what: str, *arguments: Any) -> Any:
    return object.__getattribute__(remote, "_client").ask(what, remote, *arguments)


def _forward(special: str, what: str, swapped: bool = False) -> None:
    def method(self: Remote, *arguments: Any) -> Any:
        if swapped:
            return object.__getattribute__(self, "_client").ask(what, *arguments, self)
        return _ask(self, what, *arguments)

    setattr(Remote, special, method)


for _name in ("contains", "getitem", "setitem", "delitem", "neg", "abs", "len", "int", "float"):
    _forward(f"__{_name}__", _name)
for _name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or"):
    _what = f"{_name}_" if _name in ("and", "or") else _name
    _forward(f"__{_name}__", _what)
    _forward(f"__r{_name}__", _what, swapped=True)
