"""Reading traces from files of a test."""

import json

import pyarrow as pa

from synth.core.dataset import _clean, record_schema
from synth.core.record import Record, canonical_json, to_row
from synth.traces import file
from synth.traces._load import Unique, records
from synth.traces.base import Skipped

GOOD = {"prompt": "Q?", "completion": "<think>t</think>a"}


def read(path, **config):
    made = file.Config(path=str(path), **config)
    return list(records(file.build(made), made, "name", lambda _: None, Unique()))


def lines(tmp_path, *given, name="a.jsonl", **config):
    """What lines of a file give; a line is a row or bytes."""
    path = tmp_path / name
    path.write_bytes(b"".join((g if isinstance(g, bytes) else json.dumps(g).encode()) + b"\n" for g in given))  # fmt: skip
    return read(path, **config)


def reasons(items):
    return [item.reason for item in items if isinstance(item, Skipped)]


def arrow(items):
    """Writes records as the stage does; raises where Parquet cannot hold one."""
    rows = [_clean(to_row(item)) for item in items if isinstance(item, Record)]
    for row in rows:
        canonical_json(row).encode()
    pa.Table.from_pylist(rows, schema=record_schema())
