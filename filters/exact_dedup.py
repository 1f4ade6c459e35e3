"""Drops records that say the same as one that stays, case, width and white space aside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from pydantic import Field

from filters._dedup.base import (
    DedupConfig,
    On,
    RecordTable,
    decisions,
    folded,
    parts,
    select_survivors,
)
from filters._dedup.index import Entry, read_entries, write_entries
from filters.base import Context, Decision, SetCheck
from synth.core.record import Record


class Config(DedupConfig):
    """Options of `exact_dedup`."""

    filter_level = "set"
    version = 2

    on: On = Field(
        "question_and_trace",
        description="What has to be the same; `question` leaves `keep` traces of each question",
    )


def memory(config: Config, records: int) -> int:
    """Return the bytes held for so many records: a hash, an id and a row of two tables each."""
    return 60_000_000 + records * (340 + 8 * len(config.best))


def build(config: Config, context: Context) -> SetCheck:
    """Build the check. Of records with one hash of 128 bits the best `keep` stay.

    Texts are compared after NFKC, case folding and with every run of white space as one blank.
    The same words split elsewhere are not the same trace, and no reasoning is not empty reasoning.
    """
    kind = {"filter": "exact_dedup", "version": Config.version, "on": config.on}
    run = context.run

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        table, digests = RecordTable(config.best), bytearray()  # 16 bytes a record
        for other_run, entry in read_entries(config.index, run, kind):
            table.add_indexed(other_run, entry.id)
            digests += entry.data
        for record in records():
            table.add(record)
            digests += _digest(parts(record, config.on))

        def digest(row: int) -> bytes:
            return bytes(digests[row * 16 : row * 16 + 16])

        kept: dict[bytes, list[int]] = {}

        def same(row: int) -> list[tuple[int, float]]:
            return [(kept_row, 1.0) for kept_row in kept.get(digest(row), ())]

        def admit(row: int) -> None:
            kept.setdefault(digest(row), []).append(row)

        result = select_survivors(table.ranked(), table, same, admit, 1.0, config.keep)
        entries = (Entry(table.id(row), "", digest(row)) for row in result.kept_rows(table))
        write_entries(config.index, run, kind, entries)
        yield from decisions(table, result, "duplicate", "similarity", 1.0)

    return check


def _digest(texts: list[str | None]) -> bytes:
    """Return a hash of the texts, each behind its length: no two lists of texts run together."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        if text is None:
            digest.update(b"none;")
            continue
        raw = " ".join(folded(text).split()).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw) + raw)
    return digest.digest()
