"""How much a filter against duplicates finds in the user's own data: plants known edits, counts."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, cycle, pairwise
from typing import Any, NamedTuple

from filters._dedup.base import On, folded, parts, text_of
from filters._text.words import words
from filters.base import Context
from synth.core import plugins
from synth.core.errors import UserError
from synth.core.record import Record
from synth.core.text.question_text import CJK

FILTERS = ("exact_dedup", "near_dedup", "semantic_dedup")
# Texts of fewer words cannot be edited by small steps; so many drops are checked one by one.
_SHORTEST, _CHECKED = 8, 5000
_PIECE = re.compile(rf"\s+|[{CJK}]|[^\s{CJK}]+")
_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]+|[^.!?\n]+")

Edit = Callable[[str, float, random.Random], str]
Similarity = Callable[[Record, Record], float]


@dataclass
class Count:
    """Planted pairs of one sort that are duplicates by the exact similarity."""

    name: str  # a range of similarity, or a kind of edit
    pairs: int = 0
    found: int = 0  # of these, the ones that did not both stay

    @property
    def recall(self) -> float | None:
        """The share found; None where there was no pair."""
        return self.found / self.pairs if self.pairs else None


@dataclass
class Calibration:
    """What came of planting edits."""

    filter: str
    threshold: float
    records: int = 0  # of the data, those planted aside
    planted: int = 0  # pairs, those below the threshold included
    bands: list[Count] = field(default_factory=list)  # by similarity, from the threshold to 1
    kinds: list[Count] = field(default_factory=list)  # by kind of edit
    dropped: int = 0  # records, data and planted ones, checked against the partner named
    right: int = 0  # of these, the ones whose similarity with it reaches the threshold
    # Ids of the others with their partner and the exact similarity.
    wrong: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def pairs(self) -> Count:
        """All planted pairs that are duplicates."""
        pairs, found = sum(band.pairs for band in self.bands), sum(b.found for b in self.bands)
        return Count("all", pairs, found)

    @property
    def precision(self) -> float | None:
        """The share of checked drops that were right; None where nothing was dropped."""
        return self.right / self.dropped if self.dropped else None

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        shares = {"recall": self.pairs.recall, "precision": self.precision}
        return dataclasses.asdict(self) | shares


class _Pair(NamedTuple):
    base: Record
    copy: Record
    kind: str
    similarity: float


def calibrate(
    name: str,
    records: Callable[[], Iterator[Record]],
    options: Mapping[str, Any],
    context: Context | None = None,
    pairs: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Plants edited copies of records among all of them, runs the filter and counts.

    The similarity of each planted pair is worked out exactly and apart from the filter's own code:
    Jaccard over runs of words as strings, equality of normalised texts, or the cosine of
    embeddings. A pair counts as found where its two records do not both stay.

    Args:
        name: `exact_dedup`, `near_dedup` or `semantic_dedup`.
        records: Starts a pass over the data.
        options: The filter's options in the config; `keep` is 1 here and `index` is left alone.
        context: What the filter is handed.
        pairs: How many to plant, at most one a record.
        seed: Of the choice of records and edits.

    Raises:
        UserError: The filter is no such filter, or the data has no text of eight words.
    """
    if name not in FILTERS:
        raise UserError(f"filter {name!r} finds no duplicates: one of {', '.join(FILTERS)}")
    module = plugins.load("filter", name)
    config = module.Config(**{**options, "keep": 1, "index": None})
    threshold = getattr(config, "threshold", 1.0)
    similarity = _similarity(name, config)
    rng = random.Random(seed)
    total, bases = _sample(records, config.on, pairs, rng)
    if not bases:
        raise UserError(f"no text of {_SHORTEST} words and more to edit in {total} records")
    result = Calibration(name, threshold, total, len(bases))
    planted: list[_Pair] = []
    for base, kind in zip(bases, cycle(EDITS)):
        target = threshold + rng.uniform(-0.25, 1.0) * (1 - threshold)
        copy = _near(base, kind, target, config.on, similarity, rng.random())
        planted.append(_Pair(base, copy, kind, similarity(base, copy)))

    def all_records() -> Iterator[Record]:
        return chain(records(), (pair.copy for pair in planted))

    check = module.build(config, context or Context())
    dropped: dict[str, str] = {}
    for record, decision in zip(all_records(), check(all_records), strict=True):
        if not decision.keep:
            dropped[record.id] = decision.evidence["partner"]
    step = (1 - threshold) / 4
    edges = [threshold, threshold + step, threshold + 2 * step] if step else [1.0]
    for low, high in pairwise([*edges, float("inf")]):
        band = [pair for pair in planted if low <= pair.similarity + 1e-9 < high]
        closing = ")" if high <= 1 else "]"
        result.bands.append(_count(f"[{low:.3g}, {min(high, 1):.3g}{closing}", band, dropped))
    near = [pair for pair in planted if pair.similarity + 1e-9 >= threshold]
    for kind in EDITS:
        result.kinds.append(_count(kind, [pair for pair in near if pair.kind == kind], dropped))
    _check_drops(result, dropped, all_records, similarity)
    return result


def _count(name: str, pairs: list[_Pair], dropped: Mapping[str, str]) -> Count:
    found = sum(pair.base.id in dropped or pair.copy.id in dropped for pair in pairs)
    return Count(name, len(pairs), found)


def _check_drops(
    result: Calibration,
    dropped: Mapping[str, str],
    records: Callable[[], Iterator[Record]],
    similarity: Similarity,
) -> None:
    """Compares what was dropped with the partner that it was dropped for."""
    checked = dict(sorted(dropped.items())[:: max(1, len(dropped) // _CHECKED)])
    ids = {*checked, *checked.values()}
    by_id = {record.id: record for record in records() if record.id in ids}
    # Half-precision vectors are right to three decimals.
    tolerance = 2e-3 * (result.filter == "semantic_dedup") + 1e-9
    for id, partner in checked.items():
        exact = similarity(by_id[id], by_id[partner])
        result.dropped += 1
        if exact + tolerance >= result.threshold:
            result.right += 1
        else:
            result.wrong.append((id, partner, exact))


def _sample(
    records: Callable[[], Iterator[Record]], on: On, size: int, rng: random.Random
) -> tuple[int, list[Record]]:
    """How many records there are, and so many of them drawn evenly, none with another's text."""
    drawn: list[Record] = []
    total, long, seen = 0, 0, set()
    for record in records():
        total += 1
        text = text_of(record, on)
        key = hash(" ".join(folded(text).split()))
        if key in seen or len(words(text)) < _SHORTEST:
            continue
        seen.add(key)
        long += 1
        if len(drawn) < size:
            drawn.append(record)
        elif (index := rng.randrange(long)) < size:
            drawn[index] = record
    return total, drawn


def _near(
    base: Record, kind: str, target: float, on: On, similarity: Similarity, chance: float
) -> Record:
    """A copy edited so far that its similarity comes near to a target."""
    low, high, best = 0.0, 0.5, (2.0, base)
    for _ in range(7):
        share = (low + high) / 2
        # The same chance each time: more edits are the fewer ones and some others.
        copy = _edited(base, on, kind, share, random.Random(chance))
        exact = similarity(base, copy)
        best = min(best, (abs(exact - target), copy), key=lambda pair: pair[0])
        low, high = (share, high) if exact > target else (low, share)
    return best[1]


def _edited(base: Record, on: On, kind: str, share: float, rng: random.Random) -> Record:
    """The record with its longest compared text edited."""
    edit = EDITS[kind]
    longest = max(parts(base, on), key=lambda part: len(part or ""))
    changes: dict[str, Any] = {"id": f"{base.id}+edited"}
    if on == "question" or longest is base.task.question:
        question = edit(base.task.question, share, rng)
        changes["task"] = dataclasses.replace(base.task, question=question)
    elif longest is base.reasoning:
        changes["reasoning"] = edit(base.reasoning or "", share, rng)
    else:
        changes["answer"] = edit(base.answer, share, rng)
    return dataclasses.replace(base, **changes)


def _similarity(name: str, config: Any) -> Similarity:
    if name == "near_dedup":
        return lambda a, b: _jaccard(text_of(a, config.on), text_of(b, config.on), config.words)
    if name == "exact_dedup":

        def normalised(record: Record) -> list[str | None]:
            texts = parts(record, config.on)
            return [None if text is None else " ".join(folded(text).split()) for text in texts]

        return lambda a, b: float(normalised(a) == normalised(b))
    from filters._models.embeddings import embedder

    embed = embedder(config.model)

    def cosine(a: Record, b: Record) -> float:
        vectors = embed([text_of(a, config.on), text_of(b, config.on)])
        return float(vectors[0] @ vectors[1])

    return cosine


def _jaccard(first: str, second: str, n: int) -> float:
    """The Jaccard as it is defined, over runs of words as strings."""
    a, b = (_runs(words(folded(text)), n) for text in (first, second))
    return len(a & b) / len(a | b) if a | b else 1.0


def _runs(tokens: list[str], n: int) -> set[tuple[str, ...]]:
    padded = [""] * (n - 1) + tokens + [""] * (n - 1)
    return {tuple(padded[start : start + n]) for start in range(len(padded) - n + 1)}


# --- the edits: a text, the share of its words (or sentences) that change, and where


def _edit_words(change: Callable[[str, list[str], random.Random], str]) -> Edit:
    """An edit that changes single words; `change` gets the word and all words of the text."""

    def edit(text: str, share: float, rng: random.Random) -> str:
        pieces = _PIECE.findall(text)
        indices = [index for index, piece in enumerate(pieces) if not piece.isspace()]
        all_words = [pieces[index] for index in indices]
        rng.shuffle(indices)
        for index in indices[: max(1, round(share * len(indices)))]:
            pieces[index] = change(pieces[index], all_words, rng)
        return "".join(pieces)

    return edit


_in_capitals = _edit_words(lambda word, all_words, rng: word.upper())


def _numbers(text: str, share: float, rng: random.Random) -> str:
    spans = [match.span() for match in re.finditer(r"\d+", text)]
    rng.shuffle(spans)
    for start, end in sorted(spans[: max(1, round(2 * share * len(spans)))], reverse=True):
        text = text[:start] + str(int(text[start:end][:9]) + 1 + rng.randrange(9)) + text[end:]
    return text


def _sentences_left_out(text: str, share: float, rng: random.Random) -> str:
    sentences = _SENTENCE.findall(text)
    count = min(len(sentences), 1 + int(share * len(sentences)))
    gone = set(rng.sample(range(len(sentences)), count))
    return "".join(s for index, s in enumerate(sentences) if index not in gone)


def _sentences_moved(text: str, share: float, rng: random.Random) -> str:
    sentences = _SENTENCE.findall(text)
    for _ in range(min(len(sentences), 1 + int(share * len(sentences)))):
        sentence = sentences.pop(rng.randrange(len(sentences)))
        sentences.insert(rng.randint(0, len(sentences)), sentence)
    return "".join(sentences)


def _set_otherwise(text: str, share: float, rng: random.Random) -> str:
    """Case and blanks: the same to `exact_dedup`."""
    return _in_capitals(text, share, rng).replace(" ", "  ").replace("\n", "\n\n")


EDITS: dict[str, Edit] = {
    "words replaced": _edit_words(lambda word, all_words, rng: rng.choice(all_words) + "x"),
    "words left out": _edit_words(lambda word, all_words, rng: ""),
    "words put in": _edit_words(lambda word, all_words, rng: f"{word} {rng.choice(all_words)}"),
    "numbers changed": _numbers,
    "sentences left out": _sentences_left_out,
    "sentences moved": _sentences_moved,
    "case and blanks": _set_otherwise,
    "marked up": _edit_words(lambda word, all_words, rng: f"**{word}**"),
}
