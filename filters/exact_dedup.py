"""Drops records that say the same as one that stays, case, width and white space aside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from pydantic import Field
from synth.core.record import Record

from filters._dedup.base import DedupConfig, On, RecordTable, choose, decisions, parts
from filters._dedup.index import Entry, save, saved
from filters._dedup.minhash import folded
from filters.base import Context, Decision, SetCheck


class Config(DedupConfig):
    """Options of `exact_dedup`."""

    filter_level = "set"
    version = 2

    on: On = Field(
        "question_and_trace",
        description="What has to be the same; `question` leaves `keep` traces of each question",
    )


def memory(config: Config, records: int) -> int:
    """Bytes held for so many records: a hash, an id and a place in two tables each."""
    return 60_000_000 + records * (340 + 8 * len(config.best))


def build(config: Config, context: Context) -> SetCheck:
    """The check. Of the records with one hash the best `keep` stay, others name the best of them.

    Texts are compared after NFKC, case folding and with every run of white space as one blank.
    Reasoning and answer count as a pair: the same words split elsewhere are not the same trace,
    and no reasoning is not empty reasoning. The hash has 128 bits.
    """
    kind = {"filter": "exact_dedup", "version": Config.version, "on": config.on}
    run = context.run

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        roll, hashes = RecordTable(config.best), bytearray()
        if config.index:
            for other, entry in saved(config.index, run, kind):
                roll.add_saved(other, entry.id)
                hashes += entry.data
        for record in records():
            roll.add(record)
            hashes += _digest(parts(record, config.on))

        def digest(number: int) -> bytes:
            return bytes(hashes[number * 16 : number * 16 + 16])

        kept: dict[bytes, list[int]] = {}

        def same(number: int) -> list[tuple[int, float]]:
            return [(other, 1.0) for other in kept.get(digest(number), ())]

        def admit(number: int) -> None:
            kept.setdefault(digest(number), []).append(number)

        choice = choose(roll.in_order(), roll, same, admit, 1.0, config.keep)
        if config.index:
            numbers = [n for n in range(roll.saved, len(roll)) if not choice.dropped[n]]
            save(config.index, run, kind, (Entry(roll.id(n), "", digest(n)) for n in numbers))
        yield from decisions(roll, choice, "duplicate", "similarity", 1.0)

    return check


def _digest(texts: list[str | None]) -> bytes:
    """Hash of the texts, each behind its length, so that no two lists of texts run together."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        if text is None:
            digest.update(b"none;")
            continue
        raw = " ".join(folded(text).split()).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw) + raw)
    return digest.digest()
