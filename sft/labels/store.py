"""Label sets: the soft labels of a data set on disk, read one record at a time in any order.

A label set is a folder:

    plan.json            written first: the teacher, what is stored of it, and the data
    labels-00000.bin     a shard: head, table of rows, codebook, one block a record
    keys.npy, rows.npy   the index: hashes of record ids in order, and where each block lies
    manifest.json        written last; a folder without it is not finished

Reading memory-maps the index (56 bytes a record) and reads blocks from their files, so a set of
100 GB needs no more memory than a small one. All that is read is held against its checksum.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sft.data.encoding import Encoded
from sft.labels.codec import Codebook, TeacherTopK, decode, encode
from synth.core.dataset import MANIFEST
from synth.core.errors import UserError
from synth.core.files import atomic_write, read_json, write_json
from synth.core.logprobs import hash_tokens

PLAN = "plan.json"
# Labelled tokens of a shard: what a kill costs at most, and about 64 MB while it is written.
SHARD_TOKENS = 2**16
_MAGIC = b"SDLABEL2"
_HEAD = struct.Struct("<8sIIII")  # magic, rows, their crc32, bytes of the codebook, their crc32
# Of the table and the index: where a record's block lies, and what it must be.
_ROW = np.dtype(
    [("key", "<u8"), ("hash", "V16"), ("offset", "<u8"), ("length", "<u4"), ("tokens", "<u4"),
     ("crc", "<u4"), ("shard", "<u4")]
)  # fmt: skip
_NEEDED = {"temperatures", "vocabulary", "records", "shards", "index"}
_BOOKS = 16  # codebooks of shards that stay in memory


def tokens_hash(example: Encoded) -> str:
    """Names an example by its tokens and by which of them carry loss (SHA-256, hex)."""
    return hash_tokens([*example.input_ids, *example.labels])


def content_of(pairs: Iterable[tuple[str, str]]) -> str:
    """Names a data set by its records' ids and hashes, in their order (SHA-256, hex)."""
    total = hashlib.sha256()
    for id, tokens in pairs:
        total.update(_key(id).to_bytes(8, "little") + bytes.fromhex(tokens))
    return total.hexdigest()


def begin(folder: Path, plan: dict[str, Any]) -> bool:
    """Begins a label set, or goes on with one of the same plan; says whether it is finished.

    Raises:
        UserError: The folder holds a label set of another plan.
    """
    old = read_json(folder / PLAN)
    if old is None:
        write_json(folder / PLAN, plan)
    elif old != plan:
        what = "; ".join(
            f"{key}: {old.get(key)} -> {plan.get(key)}"
            for key in sorted({*old, *plan})
            if old.get(key) != plan.get(key)
        )
        raise UserError(f"{folder}: holds labels of another kind ({what}); delete it to make them")
    return (folder / MANIFEST).exists()


def shard_path(folder: Path, number: int) -> Path:
    """Returns where a shard lies."""
    return folder / f"labels-{number:05d}.bin"


def write_shard(
    folder: Path,
    number: int,
    records: Sequence[tuple[str, str, TeacherTopK]],
    temperatures: Sequence[float],
) -> None:
    """Writes a shard of a label set under another name, and renames it when it is whole.

    The records are id, `tokens_hash` and labels; the temperatures those of the labels' `lse`.
    """
    book, kinds = Codebook.fit(np.concatenate([labels.top_ids for _, _, labels in records]))
    packed = book.pack()
    rows, blocks, first = [], [], 0
    offset = _HEAD.size + len(records) * _ROW.itemsize + len(packed)
    for id, tokens, labels in records:
        last = first + len(labels)
        block = encode(labels, temperatures, book, kinds[first:last])
        hashed = np.void(bytes.fromhex(tokens)[:16])
        crc = zlib.crc32(block)
        rows.append((_key(id), hashed, offset, len(block), len(labels), crc, number))
        blocks.append(block)
        first, offset = last, offset + len(block)
    table = np.array(rows, _ROW).tobytes()
    head = _HEAD.pack(_MAGIC, len(rows), zlib.crc32(table), len(packed), zlib.crc32(packed))
    path = shard_path(folder, number)
    # The name that 0.1.0 gave it too: what a kill left of a shard is written over.
    with atomic_write(path, partial=path.with_suffix(".partial")) as file:
        file.writelines([head, table, packed, *blocks])


def finish(folder: Path, shards: int) -> None:
    """Makes the index and the manifest of a label set whose shards are all written.

    Raises:
        UserError: A shard is missing or damaged, or two records have one id.
    """
    rows = np.concatenate([_open_shard(shard_path(folder, i))[0] for i in range(shards)])
    rows = rows[np.argsort(rows["key"], kind="stable")]
    if len(np.unique(rows["key"])) < len(rows):
        raise UserError(f"{folder}: two records have the same id")
    for name, array in (("keys", np.ascontiguousarray(rows["key"])), ("rows", rows)):
        with atomic_write(folder / f"{name}.npy") as file:
            np.save(file, array)
    manifest = {
        **read_json(folder / PLAN),
        "records": len(rows),
        "tokens": int(rows["tokens"].sum()),
        "shards": [shard_path(folder, i).stat().st_size for i in range(shards)],
        "index": zlib.crc32(rows.tobytes()),
    }
    write_json(folder / MANIFEST, manifest)


class LabelStore:
    """A finished label set; `manifest` has its plan, and records, tokens, bytes of each shard.

    Raises:
        UserError: The folder is no finished label set, or a file was cut.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or not manifest.keys() >= _NEEDED:
            raise UserError(f"{folder}: no finished label set; `distill label` makes one")
        self.manifest: dict[str, Any] = manifest
        self.temperatures: tuple[float, ...] = tuple(manifest["temperatures"])
        for number, size in enumerate(manifest["shards"]):
            path = shard_path(folder, number)
            if not path.exists() or path.stat().st_size != size:
                raise UserError(f"{path}: missing or cut; expected {size} bytes")
        try:
            self._keys = np.load(folder / "keys.npy", mmap_mode="r")
            self._rows = np.load(folder / "rows.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{folder}: the index is damaged ({error})") from error
        same = len(self._keys) == len(self._rows) == manifest["records"]
        if not same or self._rows.dtype != _ROW:
            raise UserError(f"{folder}: the index is of another label set")
        self._book = lru_cache(maxsize=_BOOKS)(self._read_book)

    def __reduce__(self) -> tuple[type[LabelStore], tuple[Path]]:
        # A data loader's worker opens the files itself instead of being sent the index.
        return LabelStore, (self.folder,)

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, id: str, tokens: str) -> TeacherTopK:
        """Reads the soft labels of one record, for an example with this `tokens_hash`.

        Raises:
            UserError: There are none, they are of other tokens, or the file is damaged.
        """
        row = self._find(id, tokens)
        path = shard_path(self.folder, int(row["shard"]))
        with path.open("rb") as file:
            file.seek(int(row["offset"]))
            block = file.read(int(row["length"]))
        if zlib.crc32(block) != row["crc"]:
            raise UserError(f"{path}: damaged (checksum of record {id!r}); make the labels again")
        try:
            labels = decode(block, self.temperatures, self._book(int(row["shard"])))
        except (ValueError, IndexError, struct.error) as error:
            raise UserError(f"{path}: not of this version ({error})") from error
        if len(labels) != row["tokens"]:
            raise UserError(f"{path}: record {id!r} has {len(labels)} labels, not {row['tokens']}")
        return labels

    def check(self, pairs: Iterable[tuple[str, str]], vocabulary: int | None = None) -> None:
        """Refuses a label set that does not belong to the data, before training.

        Every byte is held against its checksum (about a gigabyte a second).

        Args:
            pairs: Id and `tokens_hash` of each record to be trained on.
            vocabulary: How many logits the student shares with the teacher.

        Raises:
            UserError: Another vocabulary, a record without labels or with other tokens, or a
                damaged file.
        """
        stored = self.manifest["vocabulary"]
        if vocabulary is not None and vocabulary != stored:
            raise UserError(
                f"{self.folder}: labels over a vocabulary of {stored}, but the student's has "
                f"{vocabulary}"
            )
        for id, tokens in pairs:
            self._find(id, tokens)
        if zlib.crc32(self._rows.tobytes()) != self.manifest["index"]:
            raise UserError(f"{self.folder}: the index is damaged; make the labels again")
        for number in range(len(self.manifest["shards"])):
            path = shard_path(self.folder, number)
            rows, _ = _open_shard(path)
            with path.open("rb") as file:
                for row in rows:
                    file.seek(int(row["offset"]))
                    if zlib.crc32(file.read(int(row["length"]))) != row["crc"]:
                        raise UserError(f"{path}: damaged (checksum); make the labels again")

    def _find(self, id: str, tokens: str) -> Any:
        key, wanted = np.uint64(_key(id)), bytes.fromhex(tokens)[:16]
        index = int(np.searchsorted(self._keys, key))
        if index < len(self._keys) and self._keys[index] == key:
            row = self._rows[index]
            if row["hash"].tobytes() == wanted:
                return row
            raise UserError(
                f"{self.folder}: the labels of record {id!r} are of other tokens; another "
                "tokenizer, chat template or prompt? Make the labels again"
            )
        raise UserError(f"{self.folder}: no labels of record {id!r}; is it another data set's?")

    def _read_book(self, shard: int) -> Codebook:
        return Codebook.unpack(_open_shard(shard_path(self.folder, shard))[1])


def _key(id: str) -> int:
    """64 bits of a hash of a record's id; ids may hold any character, lone surrogates too."""
    return int.from_bytes(
        hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:8], "little"
    )


def _open_shard(path: Path) -> tuple[Any, bytes]:
    """Reads the table of rows of a shard and its packed codebook.

    Raises:
        UserError: It is missing, cut, of another version or damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            magic, number, rows_crc, size, book_crc = _HEAD.unpack(head)
            if magic != _MAGIC:
                raise UserError(f"{path}: not a shard of soft labels, or of another version")
            table = file.read(number * _ROW.itemsize)
            packed = file.read(size)
    except (OSError, struct.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); make the labels again") from error
    if zlib.crc32(table) != rows_crc or zlib.crc32(packed) != book_crc:
        raise UserError(f"{path}: damaged (checksum); make the labels again")
    return np.frombuffer(table, _ROW), packed
