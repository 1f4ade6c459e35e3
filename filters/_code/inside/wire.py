"""Values between a process that is trusted and one that is not: JSON, and nothing that runs.

The same module serves here and inside the sandbox, where nothing but the standard library is.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import select
import struct
import sys
import time

TYPE_CHECKING = False  # `typing` takes longer to load than most code to run
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Refer = Callable[[Any], Any]

# Values with a form of their own, built from what `__reduce__` gives. Loaded when they are met.
_BUILT = {
    ("decimal", "Decimal"), ("fractions", "Fraction"), ("datetime", "date"), ("datetime", "time"),
    ("datetime", "datetime"), ("datetime", "timedelta"),
}  # fmt: skip
_FUNCTION = type(len)
# What a call can change in place.
MUTABLE = (list, dict, set, bytearray)
_MANY = {"tuple": tuple, "set": set, "frozenset": frozenset}
# No message is longer, in bytes: a result is held several times over while it is read.
_LONGEST = 16 << 20


class Unreadable(Exception):
    """What came over the wire is no message."""


class Gone(Exception):
    """The other side ended."""


def encode(value: Any, refer: Refer) -> Any:
    """Return a value as JSON. What derives from a plain type is sent as that type.

    `refer` gives the JSON of whatever has no plain form, or raises.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [encode(item, refer) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(k, refer), encode(v, refer)] for k, v in value.items()]}
    for name, kind in _MANY.items():
        if isinstance(value, kind):
            return {name: [encode(item, refer) for item in value]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: value.hex()}
    if isinstance(value, range):
        return {"range": [encode(n, refer) for n in (value.start, value.stop, value.step)]}
    own = getattr(value, "__name__", "") if type(value) in (type, _FUNCTION) else ""
    if own and getattr(builtins, own, None) is value:
        return {"builtin": own}
    module, name = type(value).__module__, type(value).__qualname__
    if (module, name) in _BUILT and getattr(sys.modules.get(module), name, None) is type(value):
        arguments = [encode(argument, refer) for argument in value.__reduce__()[1]]
        return {"built": [module, name, arguments]}
    return refer(value)


def decode(sent: Any, resolve: Callable[[str, Any], Any]) -> Any:
    """Return the value of what `encode` made; raise `Unreadable` for anything else.

    `resolve` gives the value of a form that `refer` made, from its name and content.
    """
    try:
        return _decode(sent, resolve)
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise Unreadable(f"{type(error).__name__} in a result") from error


def _decode(sent: Any, resolve: Callable[[str, Any], Any]) -> Any:
    if isinstance(sent, list):
        return [_decode(item, resolve) for item in sent]
    if not isinstance(sent, dict):
        return sent
    ((name, content),) = sent.items()
    if name == "dict":
        return {_decode(key, resolve): _decode(value, resolve) for key, value in content}
    if name in _MANY:
        return _MANY[name](_decode(item, resolve) for item in content)
    if name == "int":
        return int(content, 16)
    if name == "complex":
        return complex(*content)
    if name in ("bytes", "bytearray"):
        octets = bytes.fromhex(content)
        return octets if name == "bytes" else bytearray(octets)
    if name == "range":
        return range(*(_decode(number, resolve) for number in content))
    if name == "builtin":
        return getattr(builtins, content)
    if name == "built":
        module, kind, arguments = content
        if (module, kind) not in _BUILT:
            raise Unreadable(kind)
        built = getattr(importlib.import_module(module), kind)
        return built(*(_decode(argument, resolve) for argument in arguments))
    return resolve(name, content)


class Channel:
    """Messages over two pipes, each with its length before it."""

    def __init__(self, reading: int, writing: int, deadline: float = float("inf")) -> None:
        self._reading = reading
        self._writing = writing
        self._deadline = deadline

    def send(self, message: Any) -> None:
        """Send JSON values; raise `Gone` where the other side ended."""
        content = json.dumps(message).encode()
        view = memoryview(struct.pack("<I", len(content)) + content)
        try:
            while view:
                view = view[os.write(self._writing, view) :]
        except OSError as error:
            raise Gone from error

    def receive(self) -> Any:
        """Return the next message.

        Raise `Gone` where the other side ended, `TimeoutError` after the deadline, and `Unreadable`
        where it is no JSON or too long.
        """
        (length,) = struct.unpack("<I", self._exactly(4))
        if length > _LONGEST:
            raise Unreadable("a result is too large")
        try:
            return json.loads(self._exactly(length))
        except (ValueError, RecursionError) as error:
            raise Unreadable("a result is not readable") from error

    def _exactly(self, length: int) -> bytes:
        content = bytearray()
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        while len(content) < length:
            left = self._deadline - time.monotonic()
            if left <= 0 or not poll.poll(None if left == float("inf") else left * 1000):
                raise TimeoutError
            piece = os.read(self._reading, min(1 << 16, length - len(content)))
            if not piece:
                raise Gone
            content += piece
        return bytes(content)
