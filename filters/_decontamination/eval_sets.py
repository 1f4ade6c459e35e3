"""Evaluation sets that a config names: files and hub data sets, their questions and ids."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, computed_field, field_validator, model_validator

from synth.core.errors import UserError, nearest
from synth.core.plugins import PluginConfig

# What data sets call their questions and their rows' names, best first; case does not count.
_QUESTIONS = ("question", "problem", "prompt", "instruction", "query", "input", "text")
_IDS = ("id", "unique_id", "task_id", "problem_id", "question_id", "idx", "uid")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")


class EvalSet(PluginConfig):
    """An evaluation set: a file (JSON Lines, JSON, CSV, Parquet; a folder of them), or a hub id."""

    path: Path | None = Field(None, description="A file (jsonl, json, csv, parquet) or a folder")
    dataset: str | None = Field(None, description="Or: a data set's id on the hub")
    subset: str | None = Field(None, description="Configuration of the hub data set")
    split: str = Field("test", description="Split of the hub data set")
    revision: str | None = Field(None, description="Commit, tag or branch of the hub data set")
    column: str | None = Field(None, description="Column of the question; found if not said")
    id: str | None = Field(None, description="Column that names a row; found if not said")
    name: str | None = Field(None, description="What verdicts call the set; the file or id if not")

    @field_validator("path")
    @classmethod
    def _exists(cls, path: Path | None) -> Path | None:
        if path is not None and not path.exists():
            raise ValueError("no such file or folder")
        return path

    @model_validator(mode="after")
    def _one_place(self) -> EvalSet:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path (a file) or dataset (a hub id)")
        return self

    @property
    def label(self) -> str:
        """What verdicts call the set."""
        return self.name or (self.path.name if self.path is not None else str(self.dataset))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def content(self) -> str | None:
        """Hash of the files: another evaluation set is another judgement."""
        if self.path is None:
            return None
        try:
            stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _files(self.path)]
        except (OSError, UserError):
            return None  # gone since; reading it says so
        return _hash(tuple(stats))


class Item(NamedTuple):
    """One question of an evaluation set; `id` is its row's name, or else `row`, counted from 0."""

    set: str
    id: str
    row: int
    question: str


def read_set(eval_set: EvalSet) -> tuple[list[Item], list[str]]:
    """Return the questions of a set, and a note on the rows that hold none.

    Raises:
        UserError: It cannot be read, or holds no column of questions.
    """
    label = eval_set.label
    items: list[Item] = []
    empty: list[int] = []
    column = id_column = None
    row = -1
    for row, values in enumerate(_rows(eval_set)):
        if row == 0:
            column = _column(label, eval_set.column, values, _QUESTIONS)
            if column is None:
                columns = ", ".join(map(str, values))
                raise UserError(
                    f"{label}: which column holds the question? Give column: one of {columns}"
                )
            id_column = _column(label, eval_set.id, values, _IDS)
        text = values.get(column or "")
        if isinstance(text, str) and text.strip():
            id = values.get(id_column) if id_column is not None else None
            items.append(Item(label, str(row if id is None else id), row, text))
        else:
            empty.append(row)
    if not items:
        raise UserError(f"{label}: no questions in the column {column!r} of {row + 1} rows")
    why = f"{label}: not checked, as the question is empty or no text: rows"
    return items, [f"{why} {listed(empty)}"] if empty else []


def listed(rows: list[Any]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return ", ".join(map(str, rows[:3])) + more


def _column(
    label: str, wanted: str | None, values: dict[str, Any], known: tuple[str, ...]
) -> str | None:
    """Return the column that is wanted, or the first known one that there is."""
    if wanted is None:
        by_case = {str(key).casefold(): key for key in reversed(list(values))}
        return next((by_case[key] for key in known if key in by_case), None)
    if wanted in values:
        return wanted
    raise UserError(f"{label}: no column {wanted!r}{nearest(wanted, map(str, values))}")


def _rows(eval_set: EvalSet) -> Iterator[dict[str, Any]]:
    if eval_set.path is None:
        yield from _hub(eval_set)
        return
    for path in _files(eval_set.path):
        try:
            for place, values in _file(path):
                if not isinstance(values, dict):
                    kind = type(values).__name__
                    raise UserError(f"{place}: an object was expected, this is a {kind}")
                yield values
        except (ValueError, RecursionError, OSError, csv.Error) as error:
            raise UserError(f"{path}: cannot be read ({error})") from error


def _files(path: Path) -> list[Path]:
    """Return the file, or the files of a folder that can hold questions, by name."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    readable = [file for file in files if file.name.endswith(_SUFFIXES)]
    if not readable:
        what = "an evaluation set" if path.is_file() else "no file in this folder"
        raise UserError(f"{path}: {what} is one of {', '.join(_SUFFIXES)}")
    return readable


def _file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row of a file with its place."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(1000):
                    yield from ((str(path), values) for values in batch.to_pylist())
        except pa.ArrowException as error:
            raise ValueError(f"no sound Parquet: {error}") from error
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from ((str(path), values) for values in csv.DictReader(lines))
    elif path.suffix == ".json":
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(whole, dict):  # {"data": [...]} and its like: the one list in it
            lists = [value for value in whole.values() if isinstance(value, list)]
            if len(lists) != 1:
                raise ValueError("a list of objects was expected")
            whole = lists[0]
        yield from ((f"{path}[{number}]", values) for number, values in enumerate(whole))
    else:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as raw:
            for number, line in enumerate(raw, 1):
                if line.strip():
                    try:
                        yield f"{path}:{number}", json.loads(line)
                    except ValueError as error:
                        raise ValueError(f"line {number} is not JSON: {error}") from error


def _hub(eval_set: EvalSet) -> Iterator[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            eval_set.dataset, eval_set.subset, split=eval_set.split, revision=eval_set.revision
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load the data set {eval_set.dataset!r}: {first}") from error
    yield from map(dict, loaded)


@functools.lru_cache(maxsize=64)
def _hash(stats: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in stats:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
