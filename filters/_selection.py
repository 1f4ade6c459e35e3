"""What filters that choose among records share: groups, and draws."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator

from synth.core import plugins
from synth.core.errors import UserError, nearest
from synth.core.record import Record


def _known(key: str) -> str:
    if key in ("source", "teacher", "question") or key.startswith("metadata."):
        return key
    raise ValueError("a key is source, teacher, question or metadata.NAME")


Key = Annotated[str, AfterValidator(_known)]


def group_of(record: Record, keys: Sequence[str]) -> str:
    """The group that a record is in, by its values of some keys: `gsm8k / 3`.

    A key is `source`, `teacher`, `question` (its id) or `metadata.NAME`; a value that is not there
    is `none`.
    """
    return " / ".join(_value(record, key) for key in keys)


def _value(record: Record, key: str) -> str:
    if key == "source":
        return record.task.source or "none"
    if key == "question":
        return record.task.id
    if key == "teacher":
        return record.generation.teacher if record.generation else "none"
    value = record.task.metadata.get(key.removeprefix("metadata."))
    return "none" if value is None else str(value)


class Seen:
    """Which metadata keys there are, so that one that no record has is an error and not a group."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._missing = {key for key in keys if key.startswith("metadata.")}
        self._names: set[str] = set()
        self._any = False

    def add(self, record: Record) -> None:
        """Looks at one record."""
        self._any = True
        if self._missing:
            names = {f"metadata.{name}" for name in record.task.metadata}
            self._missing -= names
            self._names |= names

    def refuse_missing(self, name: str) -> None:
        """Raises UserError where a key is on none of the records."""
        if self._any and self._missing:
            key = min(self._missing)
            raise UserError(f"filter {name}: no record has {key}{nearest(key, self._names)}")


def draw(seed: int, name: str) -> bytes:
    """A record's lot: sorted by it, records stand in a random order that only the seed decides.

    It hangs on the record's id alone, so neither the data's order nor other records change it.
    """
    raw = f"{seed}:{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=8).digest()


def length(record: Record) -> int:
    """Characters of a trace, reasoning and answer together."""
    return len(record.reasoning or "") + len(record.answer)


@functools.lru_cache(maxsize=64)
def verifies(name: str) -> bool:
    """Whether a verdict's filter is a verifier; one that a config names again is `NAME.2`."""
    head, _, tail = name.rpartition(".")
    plugin = head if head and tail.isdigit() else name
    try:
        module = plugins.load("filter", plugin)
    except UserError:
        return False
    # The capital name is that of 0.1.0, which users' own modules may have for one release more.
    return bool(getattr(module, "VERIFIES", module.Config.verifies))
