"""What filters that choose among records share: groups, and draws."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
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


def with_groups(
    records: Iterable[Record], keys: Sequence[str], filter_name: str
) -> Iterator[tuple[str, Record]]:
    """Yields records behind the names of their groups: the values of some keys, as `gsm8k / 3`.

    A key is `source`, `teacher`, `question` (its id) or `metadata.NAME`; a value that is not there
    is `none`. A metadata key that no record has is no group but a UserError, at the end.
    """
    missing = {key for key in keys if key.startswith("metadata.")}
    names: set[str] = set()
    record = None
    for record in records:
        if missing:
            present = {f"metadata.{name}" for name in record.task.metadata}
            missing -= present
            names |= present
        yield " / ".join(_value(record, key) for key in keys), record
    if record is not None and missing:
        key = min(missing)
        raise UserError(f"filter {filter_name}: no record has {key}{nearest(key, names)}")


def _value(record: Record, key: str) -> str:
    if key == "source":
        return record.task.source or "none"
    if key == "question":
        return record.task.id
    if key == "teacher":
        return record.generation.teacher if record.generation else "none"
    value = record.task.metadata.get(key.removeprefix("metadata."))
    return "none" if value is None else str(value)


def draw(seed: int, record_id: str) -> bytes:
    """A record's lot: sorted by it, records stand in a random order that only the seed decides.

    It hangs on the record's id alone, so neither the data's order nor other records change it.
    """
    raw = f"{seed}:{record_id}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=8).digest()


def length(record: Record) -> int:
    """Characters of a trace, reasoning and answer together."""
    return len(record.reasoning or "") + len(record.answer)


def sort_key(record: Record, by: str) -> float:
    """What puts the best record first: `verified`, `shortest`, `longest`, or a filter's score.

    The highest score is the best, of `-NAME` the lowest; a record without one comes last.
    """
    if by == "verified":
        keeps = {verdict.keep for verdict in record.verdicts if verifies(verdict.filter)}
        return 2.0 if False in keeps else 0.0 if True in keeps else 1.0
    if by in ("shortest", "longest"):
        return float(length(record) if by == "shortest" else -length(record))
    name = by.removeprefix("-")
    score = next((v.score for v in record.verdicts if v.filter == name), None)
    # Not a number would make an order that depends on chance.
    if score is None or score != score:
        return float("inf")
    return score if by.startswith("-") else -score


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
