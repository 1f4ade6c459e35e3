"""Streams records from the config's trace sources.

Nothing is passed over in silence: a row that gives no record comes as `Skipped`, with its place and
its reason, and a `Tally` says at the end how many there were of each kind.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from synth.core import plugins
from synth.core.errors import UserError, nearest
from synth.core.readers import cell_at, find_column, without
from synth.core.record import Record
from synth.traces._layouts.convert import TURNS_AFTER, Convert, converter
from synth.traces._layouts.known import LAYOUTS, choose_layout
from synth.traces.base import Row, Rows, Skipped, TraceConfig, printable, skip

Say = Callable[[str], None]

FIRST_ROWS = 10  # rows by which a layout is found
_LOOKED_AT = 1_000  # rows among which those have to be
_EXAMPLES = 5  # skipped rows of each kind that a tally shows


@dataclass(slots=True)
class Tally:
    """What became of the rows, in a memory that does not grow with them."""

    records: int = 0
    turns_after: int = 0  # records whose conversation goes on after the trace
    skipped: Counter[str] = field(default_factory=Counter)  # rows or samples by kind of reason
    examples: dict[str, list[Skipped]] = field(default_factory=dict)  # the first few of each kind

    def add(self, item: Record | Skipped) -> None:
        """Counts a record or a row that gave none."""
        if isinstance(item, Record):
            self.records += 1
            self.turns_after += TURNS_AFTER in item.task.metadata
            return
        kind = item.reason.split(":", 1)[0]
        self.skipped[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(item)

    def __str__(self) -> str:
        """Says `90 traces; skipped 3: not JSON 2 (first a.jsonl:7), no response 1 (...)`."""
        text = f"{self.records:,} traces"
        if self.skipped:
            kinds = (
                f"{kind} {n:,} (first {self.examples[kind][0].place})"
                for kind, n in self.skipped.most_common()
            )
            text += f"; skipped {self.skipped.total():,}: {', '.join(kinds)}"
        if self.turns_after:
            text += f"; in {self.turns_after:,} the turns after the last answer are left out"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Returns it as a manifest holds it."""
        examples = {kind: list(map(asdict, rows)) for kind, rows in self.examples.items()}
        skipped = dict(self.skipped.most_common())
        return {"records": self.records, "skipped": skipped, "examples": examples}


class Unique:
    """Makes ids unique: one that was there before gets the record's number.

    Which were there is kept in a table of bits, of one size whatever the number of records: now and
    then an id gets its number without need, and none is there twice.
    """

    _BITS = 2**27  # 16 MB; of a million ids some 3,700 get a number without need

    def __init__(self) -> None:
        self._table = bytearray(self._BITS // 8)
        self._number = 0

    def name(self, id: str) -> str:
        """Returns the id, or where it was there the id with a number."""
        self._number += 1
        while self._was_there(id):
            id = f"{id}-{self._number}"
        return id

    def _was_there(self, id: str) -> bool:
        index = zlib.crc32(id.encode("utf-8", "surrogatepass")) % self._BITS
        byte, bit = index >> 3, 1 << (index & 7)
        was_there = bool(self._table[byte] & bit)
        self._table[byte] |= bit
        return was_there


def read_traces(entries: list[dict[str, Any]], say: Say) -> Iterator[Record | Skipped]:
    """Yields the traces of all sources of a config, one after the other.

    `say` is told each source's layout, and at its end what became of its rows. Raises UserError
    where a source cannot be read, its layout is not known, or it gives no trace at all.
    """
    unique = Unique()
    for entry in entries:
        name = str(entry["source"])
        module = plugins.load("trace source", name)
        config: TraceConfig = module.Config(**{k: v for k, v in entry.items() if k != "source"})
        label = config.name or _label(name, entry)
        tally = Tally()
        items = records(module.build(config), config, label, say, unique)
        for item in _limited(items, config.limit):
            tally.add(item)
            yield item
        say(f"  {printable(label)}: {tally}")
        if not tally.records:
            raise UserError(f"{printable(label)}: no trace in it; {tally}{_why(tally)}")


def records(
    rows: Rows, config: TraceConfig, label: str, say: Say, unique: Unique
) -> Iterator[Record | Skipped]:
    """Yields the records of the rows of one source. The first rows show the layout.

    Raises UserError where no layout fits, or the config names a column that is not there.
    """
    nested = [column for column in config.columns.values() if "." in column]
    if nested:
        rows = (_lifted(row, nested) for row in rows)
    rows, first = _first_rows(rows)
    convert = _converter(first, config, label, say)
    for row in rows:
        if row.values is None:
            yield skip(row.place, row.error)
            continue
        for item in convert(row.values):
            if isinstance(item, Record):
                item.id = unique.name(item.id)
                yield item
            else:
                yield skip(row.place, item)


def _lifted(row: Row, columns: list[str]) -> Row:
    """Returns a row with nested columns as columns of their own, called by their dotted names."""
    if row.values is None:
        return row
    values = row.values
    for column in columns:
        if (path := find_column(row.values, column)) is not None and len(path) > 1:
            values = {**without(values, path), column: cell_at(row.values, path)}
    return row._replace(values=values)


def _first_rows(rows: Rows) -> tuple[Rows, list[Row]]:
    """Returns all rows, and the first of them that could be read."""
    start: list[Row] = []
    readable: list[Row] = []
    for row in itertools.islice(rows, _LOOKED_AT):
        start.append(row)
        if row.values is not None:
            readable.append(row)
            if len(readable) == FIRST_ROWS:
                break
    return itertools.chain(start, rows), readable


def _converter(first: list[Row], config: TraceConfig, label: str, say: Say) -> Convert:
    values = [row.values for row in first if row.values is not None]
    if not values:  # nothing that can be read: each row says why
        return converter(LAYOUTS[-1], [], label)
    columns = list(dict.fromkeys(str(column) for row in values for column in row))
    for role, column in config.columns.items():
        if column not in columns:
            raise UserError(
                printable(f"{first[0].place}: columns.{role}: no column {column!r}", 300)
                + printable(nearest(column, columns))
            )
    try:
        layout = choose_layout(config.layout, config.columns, values)
    except LookupError as error:
        which = f"the layout {error} does not fit" if str(error) else "no known layout fits"
        raise UserError(
            f"{printable(first[0].place)}: {which} these columns: {printable(', '.join(columns))}\n"
            f"say what they are under `columns:` (question, response, answer, ...), "
            f"or name one of the layouts: {', '.join(known.name for known in LAYOUTS)}"
        ) from error
    say(printable(f"  {printable(label)}: layout {layout.name}: {', '.join(columns)}", 300))
    return converter(layout, values, label, config.per_sample)


def _limited(items: Iterator[Record | Skipped], limit: int | None) -> Iterator[Record | Skipped]:
    records = 0
    for item in items:
        yield item
        records += isinstance(item, Record)
        if records == limit:
            return


def _label(name: str, entry: dict[str, Any]) -> str:
    """Returns the last part of the source's path or name, without what says its format."""
    place = str(entry.get("dataset") or entry.get("path") or name).rstrip("/")
    return Path(place).name.split(".")[0].replace("*", "") or name


def _why(tally: Tally) -> str:
    first = next((shown[0] for shown in tally.examples.values()), None)
    return f"\nthe first: {first.place}: {first.reason}" if first else ""
