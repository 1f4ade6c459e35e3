"""Keeps soft labels: the likeliest tokens at each position of an answer, and their logprobs.

They come with an answer (from vLLM, or an API that gives them) and lie beside the records in side
files, keyed by the record's id and a hash of the token ids, so that training can prove that it
pairs them with the very tokens they were made for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.core.compression import compress, decompress
from synth.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOKEN_ID = "token_id:"
EMPTY = -float("inf")  # where a position has fewer entries than others


@dataclass(slots=True)
class TopLogprobs:
    """Top-k log-probabilities of one answer.

    `temperature` is that of the log-probabilities (1.0: the model's own), not the one at which the
    tokens were drawn. It is stated since top-k cannot give a softmax at another temperature.
    """

    token_ids: NDArray[np.int32]  # (n,): the tokens generated, end token included where given
    chosen: NDArray[np.float32]  # (n,): log-probability of each of them
    top_ids: NDArray[np.int32]  # (n, k): the likeliest tokens, likeliest first; -1 where not filled
    top_logprobs: NDArray[np.float32]  # (n, k): their log-probabilities; -inf where not filled
    temperature: float = 1.0

    @property
    def tokens_hash(self) -> str:
        """Returns `hash_tokens` of the token ids."""
        return hash_tokens(self.token_ids)

    def __len__(self) -> int:
        return len(self.token_ids)


def hash_tokens(token_ids: Any) -> str:
    """Returns the SHA-256 (hex) of token ids, a sequence or array, as little-endian int32."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(token_ids, dtype="<i4").tobytes()).hexdigest()


def take_labels(
    raw: dict[str, Any], id_of: Callable[[dict[str, Any]], int | None] | None = None
) -> TopLogprobs:
    """Takes the log-probabilities out of a raw completion (OpenAI's form) as arrays.

    Args:
        raw: The completion; `choices[0].logprobs` is gone from it afterwards.
        id_of: The token id of an entry (`token`, `bytes`); by default `token_id:N` is read, which
            vLLM writes when asked with `return_tokens_as_token_ids`.

    Raises:
        ValueError: There are none, or they are not of that form.
    """
    import numpy as np

    logprobs = raw["choices"][0].pop("logprobs", None)
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        raise ValueError("the endpoint returned no logprobs")
    read = id_of or _written_id
    try:
        width = max((len(entry.get("top_logprobs") or ()) for entry in content), default=0)
        token_ids = np.full(len(content), -1, np.int32)
        chosen = np.full(len(content), EMPTY, np.float32)
        top_ids = np.full((len(content), width), -1, np.int32)
        top = np.full((len(content), width), EMPTY, np.float32)
        for i, entry in enumerate(content):
            if (token_id := read(entry)) is not None:
                token_ids[i] = token_id
            chosen[i] = entry["logprob"]
            alternatives = sorted(entry.get("top_logprobs") or (), key=lambda e: -e["logprob"])
            for j, alternative in enumerate(alternatives):
                if (token_id := read(alternative)) is not None:
                    top_ids[i, j], top[i, j] = token_id, alternative["logprob"]
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"an entry has another form ({error!r})") from error
    if (token_ids < 0).any():
        raise ValueError("a token has no id: the endpoint sends none, or the tokenizer is another")
    return TopLogprobs(token_ids, chosen, top_ids, top)


def _written_id(entry: dict[str, Any]) -> int | None:
    token = entry["token"]
    if not token.startswith(_TOKEN_ID):
        raise ValueError("tokens without ids; set the teacher's token_ids")
    return int(token[len(_TOKEN_ID) :])


def pack(labels: TopLogprobs) -> bytes:
    """Returns labels as bytes for the response store, nothing lost."""
    n, k = labels.top_ids.shape
    head = json.dumps({"n": n, "k": k, "temperature": labels.temperature}).encode() + b"\n"
    arrays = (labels.token_ids, labels.chosen, labels.top_ids, labels.top_logprobs)
    types = ("<i4", "<f4", "<i4", "<f4")
    parts = (a.astype(t).tobytes() for a, t in zip(arrays, types, strict=True))
    return compress(head + b"".join(parts))


def unpack(packed: bytes) -> TopLogprobs:
    """Returns what `pack` packed. Raises ValueError where it is damaged."""
    import numpy as np

    first_line, _, body = decompress(packed).partition(b"\n")
    head = json.loads(first_line)
    n, k = head["n"], head["k"]
    ids, chosen, top_ids, top = np.split(np.frombuffer(body, "<i4"), [n, 2 * n, 2 * n + n * k])
    return TopLogprobs(
        ids.astype(np.int32),
        chosen.view("<f4").astype(np.float32),
        top_ids.reshape(n, k).astype(np.int32),
        top.view("<f4").astype(np.float32).reshape(n, k),
        head["temperature"],
    )


def joined(parts: Sequence[TopLogprobs]) -> TopLogprobs:
    """Joins the labels of an answer that came in several pieces."""
    import numpy as np

    width = max(part.top_ids.shape[1] for part in parts)

    def widen(array: Any, fill: float) -> Any:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)

    return TopLogprobs(
        np.concatenate([part.token_ids for part in parts]),
        np.concatenate([part.chosen for part in parts]),
        np.concatenate([widen(part.top_ids, -1) for part in parts]),
        np.concatenate([widen(part.top_logprobs, EMPTY) for part in parts]),
        parts[0].temperature,
    )


class LabelWriter:
    """Writes side files: Parquet shards, a row an answer, columns as in `read_logprobs`.

    Log-probabilities of the top-k are written as float16: a relative error of at most 2^-11.
    """

    ROWS_PER_SHARD = 1_000
    HELD = 1_000_000  # log-probabilities that are held before they go to the file

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self._group: list[dict[str, Any]] = []
        self._held = 0
        self._writer: Any = None

    def write(self, id: str, labels: TopLogprobs) -> None:
        """Adds the labels of the record with this id."""
        import numpy as np

        if self.rows % self.ROWS_PER_SHARD == 0:
            self.close()
        self._group.append(
            {
                "id": id,
                "tokens_hash": labels.tokens_hash,
                "temperature": labels.temperature,
                "k": labels.top_ids.shape[1],
                "token_ids": labels.token_ids,
                "chosen": labels.chosen,
                "top_ids": labels.top_ids.ravel(),
                "top_logprobs": labels.top_logprobs.astype(np.float16).ravel(),
            }
        )
        self.rows += 1
        self._held += labels.top_ids.size
        if self._held > self.HELD:
            self._flush()

    def close(self) -> None:
        """Ends the shard that is being written."""
        if self._group:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            {
                "id": pa.string(),
                "tokens_hash": pa.string(),
                "temperature": pa.float32(),
                "k": pa.int32(),
                "token_ids": pa.list_(pa.int32()),
                "chosen": pa.list_(pa.float32()),
                "top_ids": pa.list_(pa.int32()),
                "top_logprobs": pa.list_(pa.float16()),
            }
        )
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            shard = self.folder / f"labels-{(self.rows - 1) // self.ROWS_PER_SHARD:05d}.parquet"
            self._writer = pq.ParquetWriter(shard, schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._group, schema=schema))
        self._group, self._held = [], 0


def read_logprobs(folder: Path) -> Iterator[tuple[str, TopLogprobs]]:
    """Streams the side files of a folder: the record's id and its labels.

    Raises UserError where a shard is damaged, or a row's tokens have another hash than it says.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in sorted(folder.glob("labels-*.parquet")):
        try:
            for batch in pq.ParquetFile(shard).iter_batches(16):
                for row in batch.to_pylist():
                    ids = np.asarray(row["token_ids"], np.int32)
                    shape = (len(ids), row["k"])
                    labels = TopLogprobs(
                        ids,
                        np.asarray(row["chosen"], np.float32),
                        np.asarray(row["top_ids"], np.int32).reshape(shape),
                        np.asarray(row["top_logprobs"], np.float32).reshape(shape),
                        row["temperature"],
                    )
                    if labels.tokens_hash != row["tokens_hash"]:
                        raise ValueError(f"the tokens of {row['id']} are not those it was made for")
                    yield row["id"], labels
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise UserError(f"{shard}: not a sound shard of soft labels ({error})") from error
