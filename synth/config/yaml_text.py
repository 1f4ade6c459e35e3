"""Parses YAML 1.2 within bounds: a hostile file gives one message, and soon."""

from __future__ import annotations

import codecs
import functools
import re
from typing import TYPE_CHECKING, Any

from synth.config.secret_values import masked
from synth.core.errors import UserError

if TYPE_CHECKING:
    from ruamel.yaml import YAML

Path_ = tuple[str | int, ...]

MAX_DEPTH = 100
# So many values more than it has characters a file may come to by its aliases.
_MORE_VALUES = 20_000
_LONG_NUMBER = re.compile(r"\d{4300}")  # Python turns no longer ones into numbers


def decode(name: str, content: bytes) -> str:
    """Returns the text of a file: UTF-8, or UTF-16 with its mark. Raises UserError else."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UserError(
            f"{name}:{line}: not UTF-8: it has the byte 0x{byte:02x}; save the file as UTF-8"
        ) from error


def parse_mapping(name: str, text: str) -> tuple[dict[str, Any], dict[Path_, int]]:
    """Returns the plain values of a file, and the line of each key and list item.

    Raises UserError where it is not YAML, a key is met twice, a tag asks for another type, it is
    nested too deeply or its aliases stand for too much, or the top is no mapping.
    """
    try:
        loaded = _load(name, text)
        if not isinstance(loaded, dict):
            what = "empty" if loaded is None else "something else"
            raise UserError(f"{name}: a config is a mapping of keys to values; this file is {what}")
        plain = _Plain(name, len(text) + _MORE_VALUES)
        return plain.value(loaded, ()), plain.lines
    except RecursionError:
        raise UserError(f"{name}: {_TOO_DEEP}") from None


def parse_value(text: str) -> Any:
    """Returns a plain value, as an override has it. Raises ValueError where it is not YAML."""
    from ruamel.yaml.error import YAMLError

    try:
        return _yaml("safe").load(text)
    except (YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError("not YAML") from error


_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"


def _yaml(kind: str) -> YAML:
    from ruamel.yaml import YAML
    from ruamel.yaml.scanner import Scanner

    yaml = YAML(typ=kind, pure=True)
    yaml.max_depth = MAX_DEPTH
    yaml.Scanner = _bounded(yaml.Scanner or Scanner)
    return yaml


@functools.cache
def _bounded(scanner: Any) -> Any:
    """Returns a scanner with the same bound: it looks ahead, and is slow where that is deep."""
    from ruamel.yaml.scanner import ScannerError

    class Bounded(scanner):  # type: ignore[misc]
        def fetch_flow_collection_start(self, token_class: Any, to_push: str) -> None:
            if len(self.flow_context) >= MAX_DEPTH:
                raise ScannerError(None, None, "maximum depth", self.reader.get_mark())
            super().fetch_flow_collection_start(token_class, to_push)

    return Bounded


def _load(name: str, text: str) -> Any:
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        return _yaml("rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        what = str(error.problem).split("\n")[0]
        if twice := re.match('found duplicate key "(.*?)" with value', what):
            raise UserError(
                f"{name}:{line}: not YAML: the key {twice[1]!r} stands twice there"
            ) from error
        if "maximum depth" in what:
            raise UserError(f"{name}:{line}: {_TOO_DEEP}") from error
        raise UserError(f"{name}:{line}: not YAML: {masked(what)}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = text[error.position : error.position + 1]
        code = f"U+{ord(character):04X}" if character else "a character"
        raise UserError(f"{name}:{line}: not YAML: {code} may not stand in it") from error
    except YAMLError as error:
        raise UserError(f"{name}: not YAML: {masked(str(error).splitlines()[0])}") from error
    except (ValueError, OverflowError) as error:  # of a number or a date
        found = _LONG_NUMBER.search(text)
        place = f"{name}:{text.count(chr(10), 0, found.start()) + 1}" if found else name
        why = "a number is too long" if found else masked(str(error))
        raise UserError(f"{place}: a value cannot be read: {why}") from error


class _Plain:
    """Turns ruamel's round-trip types into plain ones and notes their lines."""

    def __init__(self, name: str, most_values: int) -> None:
        self.name, self.lines = name, dict[Path_, int]()
        self._left = most_values

    def value(self, value: Any, path: Path_) -> Any:
        """Returns a plain value. Raises UserError as `parse_mapping`."""
        self._left -= 1
        if self._left < 0:
            raise self._error(path, "its aliases stand for more values than a config can have")
        if len(path) > MAX_DEPTH:
            raise self._error(path, _TOO_DEEP)
        tag = getattr(getattr(value, "tag", None), "value", None)
        if tag is not None:
            tag = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise self._error(path, f"the tag {tag} means nothing in a config; write a plain value")
        if isinstance(value, dict):
            for key in value:
                self.lines[(*path, key)] = _line(value, key)
            return {key: self.value(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            for index in range(len(value)):
                self.lines[(*path, index)] = _line(value, index)
            return [self.value(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, str) and not value.isascii() and _has_lone_surrogate(value):
            raise self._error(path, "half of a surrogate pair is no character")
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                return kind(value)
        return value

    def _error(self, path: Path_, why: str) -> UserError:
        line = next((self.lines[path[:n]] for n in range(len(path), 0, -1)), 1) if path else 1
        return UserError(f"{self.name}:{line}: {why}")


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _line(container: Any, key: Any) -> int:
    position = container.lc.data.get(key) if container.lc.data else None
    return int((position[0] if position else container.lc.line) + 1)
