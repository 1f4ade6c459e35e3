"""Soft labels as few bytes: what is lost is chosen by what the loss can feel.

Logits. What lies below the likeliest by d is quantised in steps of `STEP * exp(d / _TAU)`, but
none wider than `WIDEST`: an error of a logit moves the loss by its probability times that error,
at temperature T exp(-d / T), so unlikely tokens may be coarser. Logits come in order, so what is
stored is by how many steps each is below the one before.

Mass. Of each temperature the log odds of all tokens that are not stored are kept, and logsumexp is
computed from the logits as they come back. Rounding then never moves mass between the stored
tokens and the rest, which is where it would cost most.

Ids. Positions of a shard are sorted into kinds (after a digit, before a line's end, ...), and a
token is named by its rank in its kind's order of frequency. Tokens in one step have no
order among them, so they are sorted and named by the distance to the one before. A number x is
the bit length of x + 1 (entropy-coded) and the bits below the highest (as they are): Elias's gamma
code (1975), whose lengths fit Zipf's law.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

# Quantiser and level of Zstandard: chosen with bench/label_store.py.
STEP, WIDEST, _TAU = 0.007, 0.18, 1.8
_LEVEL = 12
# Without the four bytes that name a frame: there are a dozen frames a record.
_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS
# Where the steps stop growing: as a distance of logits and in steps.
_KNEE, _BEND = _TAU * math.log(WIDEST / STEP), _TAU / STEP * (1 - STEP / WIDEST)
# Ranks between which gaps have much the same distribution, so each stretch has a table of its own.
_STRETCHES = (0, 4, 16, 32)
_HEAD = struct.Struct("<IHBB")  # tokens, k, temperatures, reserved
_FAR, _LARGEST = 5000.0, 65504.0  # farthest below the top, largest float16
_ODDS = 1 / 256  # step of log odds; the rest of a high temperature is large, and felt
_NO_REST = -32768  # steps of a rest that has no mass
# Kinds of positions: at most so many, and positions that pay for one's list; how often a token is
# in a kind to be listed; positions that kinds are fitted on, and how often.
_KINDS, _POSITIONS_PER_KIND, _LISTED, _FITTED, _TURNS = 64, 256, 3, 8192, 8


@dataclass(slots=True)
class TeacherTopK:
    """The teacher's distributions at the n labelled tokens of one example."""

    top_ids: NDArray[np.int32]  # (n, k): the likeliest tokens, likeliest first
    top_logits: NDArray[np.float32]  # (n, k): their raw logits
    lse: NDArray[np.float32]  # (n, T): logsumexp(z / T) of all logits for each temperature

    def __len__(self) -> int:
        return len(self.top_ids)


def levels_of(below: Any) -> Any:
    """Counts the steps by which logits lie below the likeliest, from their distances."""
    below = np.minimum(below, _FAR)
    curved = _TAU / STEP * -np.expm1(-np.minimum(below, _KNEE) / _TAU)
    levels = curved + np.maximum(below - _KNEE, 0) / WIDEST
    return np.rint(levels).astype(np.int64)


def below_of(levels: Any) -> Any:
    """Gives the distances that `levels_of` was given back, rounded."""
    curved = -_TAU * np.log1p(-np.minimum(levels, _BEND) * STEP / _TAU)
    return np.where(levels <= _BEND, curved, _KNEE + (levels - _BEND) * WIDEST)


@dataclass(slots=True)
class Codebook:
    """The order of token ids at each kind of position of a shard.

    A kind has a list of its own for what is frequent in it; what is not there follows in an order
    that all kinds share.
    """

    listed: NDArray[np.int64]  # the lists of all kinds, one after another
    starts: NDArray[np.int64]  # where each kind's begins, and where the last ends
    common: NDArray[np.int64]  # all ids of the shard

    @classmethod
    def fit(cls, ids: NDArray[np.int32]) -> tuple[Codebook, NDArray[np.uint8]]:
        """Fits the codebook of a shard's ids (n, k), and the kind of each position.

        A mixture of multinomials, each position in the component where its ids take fewest bits
        (classification EM: Celeux and Govaert, 1992).
        """
        tokens, dense = np.unique(ids, return_inverse=True)
        dense = dense.reshape(ids.shape)
        number = int(min(_KINDS, max(1, len(ids) // _POSITIONS_PER_KIND)))
        kinds = _cluster(dense, len(tokens), number)
        lists = []
        for kind in range(number):
            counts = np.bincount(dense[kinds == kind].ravel(), minlength=len(tokens))
            lists.append(tokens[_by_frequency(counts, _LISTED)])
        starts = np.cumsum([0, *map(len, lists)])
        common = tokens[_by_frequency(np.bincount(dense.ravel()), 1)]
        return cls(np.concatenate(lists).astype(np.int64), starts, common.astype(np.int64)), kinds

    def ranks(self, ids: Any, kinds: Any) -> Any:
        """Ranks each id (n, k) in the order of its position's kind."""
        table = np.zeros(int(self.common.max()) + 1, np.int64)
        ranks = np.empty(ids.shape, np.int64)
        for kind in np.unique(kinds):
            listed = self.listed[self.starts[kind] : self.starts[kind + 1]]
            table[self.common] = len(listed) + np.arange(len(self.common))
            table[listed] = np.arange(len(listed))
            where = kinds == kind
            ranks[where] = table[ids[where]]
        return ranks

    def ids(self, ranks: Any, kinds: Any) -> Any:
        """Gives the ids (n, k) that have these ranks."""
        start, end = self.starts[kinds][:, None], self.starts[kinds + 1][:, None]
        beyond = ranks - (end - start)
        listed = self.listed[np.minimum(start + ranks, end - 1)] if len(self.listed) else 0
        return np.where(beyond < 0, listed, self.common[np.maximum(beyond, 0)]).astype(np.int32)

    def pack(self) -> bytes:
        """Packs the codebook as bytes."""
        head = _compress(np.asarray([len(self.starts), *self.starts], "<u4").tobytes())
        both = np.concatenate([self.listed, self.common])
        body = _compress(_planes(np.diff(both, prepend=0).astype("<i4")))
        return struct.pack("<I", len(head)) + head + body

    @classmethod
    def unpack(cls, packed: bytes) -> Codebook:
        """Unpacks what `pack` packed; raises ValueError where it is damaged."""
        end = 4 + int.from_bytes(packed[:4], "little")
        head = np.frombuffer(_decompress(packed[4:end]), "<u4").astype(np.int64)
        both = np.cumsum(_unplaned(_decompress(packed[end:]), "<i4"), dtype=np.int64)
        listed, common = np.split(both, [head[-1]])
        return cls(listed, head[1:], common)


def _by_frequency(counts: Any, min_count: int) -> Any:
    """Indices that occur so often, most frequent first, ascending where ranks have equal length."""
    order = np.argsort(-counts, kind="stable")[: int((counts >= min_count).sum())]
    return order[np.lexsort((order, _bit_lengths(np.arange(1, len(order) + 1))))]


def _cluster(ids: Any, tokens: int, number: int) -> Any:
    """A kind for each position, so that together their ids take few bits."""
    # What is likeliest first says most about the rest, so its most frequent values begin.
    first = np.bincount(ids[:, 0], minlength=tokens)
    begin = np.zeros(tokens, np.int64)
    seeds = np.argsort(-first, kind="stable")[:number]
    begin[seeds] = np.arange(len(seeds))
    stride = max(1, len(ids) // _FITTED)
    sample = torch.from_numpy(np.ascontiguousarray(ids[::stride]))
    kinds = torch.from_numpy(begin[ids[::stride, 0]])
    general = torch.bincount(sample.ravel(), minlength=tokens).float() + 0.1
    for turn in range(_TURNS):
        flat = (sample + kinds[:, None] * tokens).ravel()
        counts = torch.bincount(flat, minlength=number * tokens).reshape(number, tokens).float()
        share = counts / counts.sum(1, keepdim=True).clamp(min=1)
        bits = -torch.log(0.75 * share + 0.25 * general / general.sum()).T.contiguous()
        last = turn == _TURNS - 1
        source = torch.from_numpy(np.ascontiguousarray(ids)) if last else sample
        kinds = torch.nn.functional.embedding_bag(source, bits, mode="sum").argmin(1)
    return kinds.numpy().astype(np.uint8)


def encode(labels: TeacherTopK, temperatures: Sequence[float], book: Codebook, kinds: Any) -> bytes:
    """Encodes the soft labels of one example, logits in falling order, as bytes.

    `temperatures` are those of `labels.lse`; `book` is the shard's, `kinds` the positions'.
    """
    parts = encode_parts(labels, temperatures, book, kinds)
    lengths = struct.pack(f"<{len(parts)}I", *map(len, parts.values()))
    n, k = labels.top_ids.shape
    return _HEAD.pack(n, k, len(temperatures), 0) + lengths + b"".join(parts.values())


def encode_parts(
    labels: TeacherTopK, temperatures: Sequence[float], book: Codebook, kinds: Any
) -> dict[str, bytes]:
    """Encodes the parts of an example by name, for `encode` and for counting bytes."""
    logits = labels.top_logits.astype(np.float64)
    levels = levels_of(logits[:, :1] - logits)
    ranks = book.ranks(labels.top_ids, kinds)
    within = np.lexsort((ranks, levels), axis=1)
    levels = np.take_along_axis(levels, within, 1)
    ranks = np.take_along_axis(ranks, within, 1)
    gaps = np.diff(levels, axis=1)
    tied = np.zeros(levels.shape, bool)
    tied[:, 1:] = gaps == 0
    codes = ranks.copy()
    codes[:, 1:] -= np.where(tied[:, 1:], ranks[:, :-1] + 1, 0)
    bits = _bit_lengths(codes + 1) - 1
    odds = np.stack(
        [_odds(logits / t, lse) for t, lse in zip(temperatures, labels.lse.T, strict=True)], 1
    )
    parts = {"top": _compress(_planes(np.clip(logits[:, 0], -_LARGEST, _LARGEST).astype("<f2")))}
    parts["odds"] = _compress(_planes(odds.T.astype("<i2")))
    parts["kinds"] = _compress(kinds.tobytes())
    for low, high in _stretches(gaps.shape[1]):
        parts[f"gaps {low}"] = _compress(_planes(gaps[:, low:high].T.astype("<u2")))
    parts["lengths"] = _compress(bits[~tied].astype(np.uint8).tobytes())
    parts["lengths, tied"] = _compress(bits[tied].astype(np.uint8).tobytes())
    parts["bits"] = _pack_low_bits((codes + 1).ravel(), bits.ravel())
    return parts


def decode(data: bytes, temperatures: Sequence[float], book: Codebook) -> TeacherTopK:
    """Decodes what `encode` encoded, rounded; raises ValueError where it is of another form."""
    n, k, number, _ = _HEAD.unpack_from(data)
    if number != len(temperatures):
        raise ValueError(f"{number} temperatures, expected {len(temperatures)}")
    stretches = _stretches(k - 1)
    count = 6 + len(stretches)
    lengths = struct.unpack_from(f"<{count}I", data, _HEAD.size)
    ends = np.cumsum([_HEAD.size + 4 * count, *lengths])
    parts = [data[a:b] for a, b in pairwise(ends)]
    top = _unplaned(_decompress(parts[0]), "<f2").astype(np.float64)
    odds = _unplaned(_decompress(parts[1]), "<i2").astype(np.float64).reshape(number, n).T * _ODDS
    kinds = np.frombuffer(_decompress(parts[2]), np.uint8).astype(np.int64)
    gaps = np.zeros((n, k), np.int64)
    for (low, high), part in zip(stretches, parts[3:-3], strict=True):
        gaps[:, 1 + low : 1 + high] = _unplaned(_decompress(part), "<u2").reshape(high - low, n).T
    tied = gaps == 0
    tied[:, 0] = False
    bits = np.empty((n, k), np.uint8)
    bits[~tied] = np.frombuffer(_decompress(parts[-3]), np.uint8)
    bits[tied] = np.frombuffer(_decompress(parts[-2]), np.uint8)
    codes = _unpack_low_bits(parts[-1], bits.ravel()).reshape(n, k) - 1
    ids = book.ids(_ranks(codes, tied), kinds)
    logits = top[:, None] - below_of(np.cumsum(gaps, axis=1))
    lse = [_logsumexp(logits / t) + np.logaddexp(0, odds[:, i]) for i, t in enumerate(temperatures)]
    return TeacherTopK(ids, logits.astype(np.float32), np.stack(lse, 1).astype(np.float32))


def _ranks(codes: Any, tied: Any) -> Any:
    """Ranks from distances: sums that begin anew wherever a step begins."""
    flat = (codes + tied).ravel()
    sums = np.cumsum(flat)
    first = ~tied.ravel()
    before = (sums - flat)[first]
    return (sums - before[np.cumsum(first) - 1]).reshape(codes.shape)


def _odds(scaled: Any, lse: Any) -> Any:
    """Log odds of the mass outside the stored tokens."""
    short = np.minimum(_logsumexp(scaled) - lse, 0)  # log of the mass inside
    with np.errstate(divide="ignore"):
        odds = np.log(-np.expm1(short)) - short
    return np.rint(np.clip(odds / _ODDS, _NO_REST, -_NO_REST - 1))


def _logsumexp(z: Any) -> Any:
    top = z.max(axis=1)
    return top + np.log(np.exp(z - top[:, None]).sum(axis=1))


def _stretches(gaps: int) -> list[tuple[int, int]]:
    return list(pairwise([start for start in _STRETCHES if start < gaps] + [gaps] * (gaps > 0)))


def _bit_lengths(values: Any) -> Any:
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _pack_low_bits(values: Any, bits: Any) -> bytes:
    """The low bits of each value, those with one bit first, then those with two, and so on."""
    rows = [
        (values[bits == width, None] >> np.arange(width) & 1).astype(np.uint8).ravel()
        for width in range(1, int(bits.max(initial=0)) + 1)
    ]
    return np.packbits(np.concatenate(rows)).tobytes() if rows else b""


def _unpack_low_bits(packed: bytes, bits: Any) -> Any:
    """What `_pack_low_bits` packed, with the highest bit back in its place."""
    flat = np.unpackbits(np.frombuffer(packed, np.uint8))
    values = np.int64(1) << bits.astype(np.int64)
    start = 0
    for width in range(1, int(bits.max(initial=0)) + 1):
        where = np.flatnonzero(bits == width)
        end = start + width * len(where)
        values[where] += flat[start:end].reshape(-1, width) @ (1 << np.arange(width))
        start = end
    return values


def _planes(array: Any) -> bytes:
    """The bytes of an array, all first ones before all second ones, which packs better."""
    array = np.ascontiguousarray(array)
    planes: bytes = array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()
    return planes


def _unplaned(data: bytes, kind: str) -> Any:
    size = np.dtype(kind).itemsize
    flat = np.frombuffer(data, np.uint8).reshape(size, -1).T
    return np.ascontiguousarray(flat).view(kind).ravel()


def _compress(data: bytes) -> bytes:
    parameters: Any = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, source_size=len(data), format=_FORMAT
    )
    packed: bytes = zstandard.ZstdCompressor(compression_params=parameters).compress(data)
    return packed


def _decompress(data: bytes) -> bytes:
    try:
        return zstandard.ZstdDecompressor(format=_FORMAT).decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
