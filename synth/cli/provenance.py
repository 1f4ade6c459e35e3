"""`distill explain`: where a record came from, and why it was bought rather than reused."""

from __future__ import annotations

import datetime
import difflib
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.cli.lookup import find_records, nearest_ids
from synth.core.dataset import read_split
from synth.core.display import printable
from synth.core.errors import UserError
from synth.core.record import Record
from synth.core.run_folder import RunFolder, differences
from synth.store.usage import StoredResponse, entries

# From this share on (difflib's ratio) one question is an edit of the other.
NEAR = 0.6
# Stored requests whose text is compared letter by letter; which, their words decide.
CLOSEST = 20
_AROUND = 24  # characters of context on each side of a change


@dataclass(frozen=True, slots=True)
class Miss:
    """The stored request that came nearest to one that had to be bought.

    Attributes:
        entry: What is stored.
        differs: What differs, a line each; none where only the sample's number does.
        edited: Whether the question's text is what was edited.
        samples: The sample numbers that were there already, where nothing else differs.
    """

    entry: StoredResponse
    differs: list[str]
    edited: bool = False
    samples: tuple[int, ...] = ()


def explain_origin(folder: RunFolder, store_path: Path, id: str) -> str:
    """Returns what is known of a record, or of all records of a question.

    Args:
        folder: The run's folder, its generation done.
        store_path: The response store that the run used.
        id: The id of a record or of a question.

    Raises:
        UserError: No record and no question has this id, or there is no store.
    """
    folder.need("generate")
    records = [
        record
        for split in _splits(folder)
        for record in find_records(folder.stage("generate"), split, id)
    ]
    if not records:
        raise UserError(_unknown(folder, id))
    if not store_path.is_file():
        raise UserError(f"no response store at {store_path}; give the config, which names it")
    wanted = {r.generation.key: r.task.question for r in records if r.generation}
    searches: dict[str, Search] = {}
    for entry in entries(store_path):  # newest first: what follows was bought before
        for search in searches.values():
            search.see(entry)
        if entry.key in wanted:
            searches[entry.key] = Search(entry, wanted[entry.key])
    parts = ("\n".join(map(printable, _lines(record, searches))) for record in records)
    return "\n\n".join(parts)


def _splits(folder: RunFolder) -> list[str]:
    """Returns the splits of the generation that hold records."""
    return [split for split in ("train", "cut") if split in folder.need("generate")["rows"]]


def _unknown(folder: RunFolder, id: str) -> str:
    """Returns the message for an id without a record; it names ids that are near."""
    questions = {record.task.id for record in read_split(folder.stage("tasks"), "train")}
    if id in questions:
        return f"the question {id} has no record: it was not asked, or every request for it failed"
    ids = questions.union(
        name
        for split in _splits(folder)
        for record in read_split(folder.stage("generate"), split)
        for name in (record.id, record.task.id)
    )
    near = ", ".join(nearest_ids(ids, id))
    return f"no record and no question {id!r} in {folder.path}; near: {near}"


def _lines(record: Record, searches: dict[str, Search]) -> Iterator[str]:
    yield f"record {record.id}"
    source = f" (source {record.task.source})" if record.task.source else ""
    yield from _fields({"question": f"{record.task.id}{source}"})
    made = record.generation
    if made is None or not made.key:
        yield "  it came from outside: no teacher of this run made it"
        return
    search = searches.get(made.key)
    bought = ""
    if search is not None:
        time = datetime.datetime.fromtimestamp(search.own.created, datetime.UTC)
        bought = f"{time:%Y-%m-%d %H:%M:%S} UTC by run {search.own.run}"
    known = [("prompt", made.prompt_tokens), ("answer", made.completion_tokens)]
    tokens = " + ".join(f"{n:,} {what}" for what, n in known if n is not None)
    cost = "no price" if made.cost_usd is None else f"${made.cost_usd:.6f}"
    yield from _fields(
        {
            "teacher": f"{made.teacher}, which says that it is {made.model or '(nothing)'}",
            "prompt": f"{made.template}, hash {made.template_hash[:12]}",
            "sampling": ", ".join(f"{name} {value}" for name, value in made.sampling.items()),
            "sample": f"{made.sample}",
            "answer": f"{made.finish_reason}; {tokens or 'tokens not told'}; {cost}; "
            f"{made.latency_s:.2f} s",
            "key": made.key,
            "continues": ", ".join(made.earlier_keys),
            "bought": bought,
        }
    )
    if search is None:
        yield "  its response is not in this store: bought with another one, or damaged"
        return
    yield from _why(search.nearest())


def _fields(values: dict[str, str]) -> Iterator[str]:
    for name, value in values.items():
        if value:
            yield f"  {name:9} {value}"


def _why(miss: Miss | None) -> Iterator[str]:
    if miss is None:
        yield "  why bought: nothing like it was in the store"
        return
    if not miss.differs:
        had = ", ".join(map(str, miss.samples))
        yield f"  why bought: the same request was there with sample {had}; this one is the first"
        yield "  of its number"
        return
    what = "the question's text was edited; " if miss.edited else ""
    yield f"  why bought: {what}it differs from the nearest stored request"
    yield f"  ({miss.entry.key[:12]}, bought by run {miss.entry.run}) in"
    yield from (f"    {line}" for line in miss.differs)


class Search:
    """Looks among the requests that were bought before one for what is most like it.

    The order of likeness: the same but for the sample's number; the same messages, of which those
    that differ in sampling alone come before those of another teacher, and these before both; then
    another prompt around the same question; then the question whose text is nearest, the newer
    first where all is equal.

    Args:
        own: The stored request in question.
        question: The question's text as it stands in the messages.
    """

    def __init__(self, own: StoredResponse, question: str) -> None:
        self.own, self._question = own, question
        self._words, self._frame = set(question.split()), _frame(own.request, question)
        self._same: list[StoredResponse] = []
        self._best: tuple[int, StoredResponse] | None = None
        self._texts: list[tuple[float, int, StoredResponse]] = []
        self._age = 0

    def see(self, entry: StoredResponse) -> None:
        """Takes in the next older request."""
        own, other = self.own.request, entry.request
        self._age += 1
        if other["messages"] == own["messages"]:
            differ = [other[part] != own[part] for part in ("teacher", "sampling", "sample")]
            rank = 4 * differ[0] + 2 * differ[1] + differ[2]
            if rank <= 1:
                self._same.append(entry)
            elif self._best is None or rank < self._best[0]:
                self._best = (rank, entry)
        elif self._best is None and not self._same and (shared := self._shared(other)) > 0:
            # Letter by letter only the few that share the most words.
            push = heapq.heappush if len(self._texts) < CLOSEST else heapq.heappushpop
            push(self._texts, (shared, -self._age, entry))

    def nearest(self) -> Miss | None:
        """What came nearest of all that was seen; None where nothing is like it."""
        if self._same:
            samples = tuple(sorted({entry.request["sample"] for entry in self._same}))
            return Miss(self._same[0], differs=[], samples=samples)
        if self._best is not None:
            return Miss(
                self._best[1], differs=_differences(self._best[1].request, self.own.request)
            )
        ranked = [(*self._likeness(entry.request), age, entry) for _, age, entry in self._texts]
        top = max(ranked, key=lambda item: item[:3], default=None)
        if top is None or top[0] < NEAR:
            return None
        edited = self._question not in _last(top[-1].request)
        return Miss(top[-1], _differences(top[-1].request, self.own.request), edited)

    def _shared(self, other: dict[str, Any]) -> float:
        """A first guess at likeness that costs little: 2 where it asks the same question."""
        asked = _asked(other, self._frame)
        if self._question in asked:
            return 2.0
        theirs = set(asked.split())
        return len(self._words & theirs) / max(1, len(self._words | theirs))

    def _likeness(self, other: dict[str, Any]) -> tuple[float, int]:
        asked, question, own = _asked(other, self._frame), self._question, self.own.request
        alike = difflib.SequenceMatcher(None, asked, question, autojunk=False)
        text = 1.0 if question in asked else alike.ratio()
        return text, sum(other[part] == own[part] for part in ("teacher", "sampling", "sample"))


def _last(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"]) if request["messages"] else ""


def _frame(request: dict[str, Any], question: str) -> tuple[str, str]:
    """What stands before and after the question in the last message."""
    before, found, after = _last(request).partition(question)
    return (before, after) if found else ("", "")


def _asked(request: dict[str, Any], frame: tuple[str, str]) -> str:
    """The question of a request, where its prompt is the same; else the whole last message."""
    text, (before, after) = _last(request), frame
    inside = text.startswith(before) and text.endswith(after)
    return text[len(before) : len(text) - len(after)] if inside else text


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines = []
    theirs, ours = old["messages"], new["messages"]
    if [m["role"] for m in theirs] != [m["role"] for m in ours]:
        roles = [", ".join(m["role"] for m in messages) for messages in (theirs, ours)]
        lines.append(f"messages: {roles[0]} -> {roles[1]}")
    else:
        for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            if a["content"] != b["content"]:
                lines.append(f"messages[{i}].content: {changed(a['content'], b['content'])}")
    for part in ("sampling", "teacher"):
        lines += differences(old[part], new[part], part)
    if old["sample"] != new["sample"]:
        lines.append(f"sample: {old['sample']} -> {new['sample']}")
    return lines


def changed(old: str, new: str) -> str:
    """Where two texts begin and end to differ, with a little of what stands around it.

    >>> changed("What is 17 + 25?", "What is 17 + 26?")
    '"What is 17 + 25?" -> "What is 17 + 26?"'
    """
    start = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
        min(len(old), len(new)),
    )
    most = min(len(old), len(new)) - start
    tail = next((i for i in range(most) if old[-1 - i] != new[-1 - i]), most)
    return " -> ".join(_window(text, start, len(text) - tail) for text in (old, new))


def _window(text: str, start: int, end: int) -> str:
    first, last = max(0, start - _AROUND), min(len(text), end + _AROUND)
    middle = text[first:last]
    if len(middle) > 4 * _AROUND:  # a long change: its two ends
        middle = f"{middle[: 2 * _AROUND]} ... {middle[-2 * _AROUND :]}"
    shown = f"{'...' if first else ''}{middle}{'...' if last < len(text) else ''}"
    return json.dumps(shown, ensure_ascii=False)
