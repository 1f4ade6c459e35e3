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
from synth.core.errors import UserError
from synth.core.record import Record
from synth.core.run_folder import RunFolder, differences
from synth.core.text.display import printable
from synth.store.usage import StoredResponse, entries

# From this share on (difflib's ratio) one question is an edit of the other.
NEAR = 0.6
# Stored requests whose text is compared letter by letter; which, their words decide.
CLOSEST = 20
_PARTS = ("teacher", "sampling", "sample")  # of a request, besides its messages
_AROUND = 24  # characters of context on each side of a change


@dataclass(frozen=True, slots=True)
class Miss:
    """The stored request that came nearest to one that had to be bought."""

    entry: StoredResponse
    differs: list[str]  # a line each; none where only the sample's number differs
    edited: bool = False  # whether the question's text was edited
    samples: tuple[int, ...] = ()  # those that were there already, where nothing else differs


def explain_origin(folder: RunFolder, store_path: Path, id: str) -> str:
    """Returns what is known of a record, or of all records of a question.

    Raises UserError where no record and no question has this id, or there is no store.
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
    answer = record.generation
    if answer is None or not answer.key:
        yield "  it came from outside: no teacher of this run made it"
        return
    search = searches.get(answer.key)
    bought = ""
    if search is not None:
        time = datetime.datetime.fromtimestamp(search.response.created, datetime.UTC)
        bought = f"{time:%Y-%m-%d %H:%M:%S} UTC by run {search.response.run}"
    counts = [("prompt", answer.prompt_tokens), ("answer", answer.completion_tokens)]
    tokens = " + ".join(f"{n:,} {part}" for part, n in counts if n is not None)
    cost = "no price" if answer.cost_usd is None else f"${answer.cost_usd:.6f}"
    yield from _fields(
        {
            "teacher": f"{answer.teacher}, which says that it is {answer.model or '(nothing)'}",
            "prompt": f"{answer.template}, hash {answer.template_hash[:12]}",
            "sampling": ", ".join(f"{name} {value}" for name, value in answer.sampling.items()),
            "sample": f"{answer.sample}",
            "answer": f"{answer.finish_reason}; {tokens or 'tokens not told'}; {cost}; "
            f"{answer.latency_s:.2f} s",
            "key": answer.key,
            "continues": ", ".join(answer.earlier_keys),
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
        samples = f"sample {', '.join(map(str, miss.samples))}"
        yield f"  why bought: the same request was there with {samples}; this one is the first"
        yield "  of its number"
        return
    edit = "the question's text was edited; " if miss.edited else ""
    yield f"  why bought: {edit}it differs from the nearest stored request"
    yield f"  ({miss.entry.key[:12]}, bought by run {miss.entry.run}) in"
    yield from (f"    {line}" for line in miss.differs)


class Search:
    """Looks among the requests that were bought before one for what is most like it.

    The order of likeness: the same but for the sample's number; the same messages, of which those
    that differ in sampling alone come before those of another teacher, and these before both; then
    another prompt around the same question; then the question whose text is nearest, the newer
    first where all is equal.
    """

    def __init__(self, response: StoredResponse, question: str) -> None:
        self.response, self._question = response, question
        self._words, self._frame = set(question.split()), _frame(response.request, question)
        self._same: list[StoredResponse] = []
        self._best: tuple[int, StoredResponse] | None = None
        self._texts: list[tuple[float, int, StoredResponse]] = []
        self._age = 0

    def see(self, entry: StoredResponse) -> None:
        """Takes in the next older request."""
        request, other = self.response.request, entry.request
        self._age += 1
        if other["messages"] == request["messages"]:
            differ = [other[part] != request[part] for part in _PARTS]
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
        """Returns what came nearest of all that was seen; None where nothing is like it."""
        if self._same:
            samples = tuple(sorted({entry.request["sample"] for entry in self._same}))
            return Miss(self._same[0], differs=[], samples=samples)
        if self._best is not None:
            return self._miss(self._best[1])
        ranked = [(*self._likeness(entry.request), age, entry) for _, age, entry in self._texts]
        top = max(ranked, key=lambda item: item[:3], default=None)
        if top is None or top[0] < NEAR:
            return None
        return self._miss(top[-1], edited=self._question not in _last(top[-1].request))

    def _miss(self, entry: StoredResponse, edited: bool = False) -> Miss:
        return Miss(entry, _differences(entry.request, self.response.request), edited)

    def _shared(self, other: dict[str, Any]) -> float:
        """Guesses the likeness at little cost: 2 where it asks the same question."""
        asked = _asked(other, self._frame)
        if self._question in asked:
            return 2.0
        words = set(asked.split())
        return len(self._words & words) / max(1, len(self._words | words))

    def _likeness(self, other: dict[str, Any]) -> tuple[float, int]:
        asked, question, request = _asked(other, self._frame), self._question, self.response.request
        matcher = difflib.SequenceMatcher(None, asked, question, autojunk=False)
        likeness = 1.0 if question in asked else matcher.ratio()
        return likeness, sum(other[part] == request[part] for part in _PARTS)


def _last(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"]) if request["messages"] else ""


def _frame(request: dict[str, Any], question: str) -> tuple[str, str]:
    """Returns what stands before and after the question in the last message."""
    before, middle, after = _last(request).partition(question)
    return (before, after) if middle else ("", "")


def _asked(request: dict[str, Any], frame: tuple[str, str]) -> str:
    """Returns the question of a request with the same prompt, else its whole last message."""
    text, (before, after) = _last(request), frame
    inside = text.startswith(before) and text.endswith(after)
    return text[len(before) : len(text) - len(after)] if inside else text


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = (", ".join(m["role"] for m in request["messages"]) for request in (old, new))
    lines = [f"messages: {before} -> {after}"]
    if before == after:
        lines = [
            f"messages[{index}].content: {changed(a['content'], b['content'])}"
            for index, (a, b) in enumerate(zip(old["messages"], new["messages"], strict=True))
            if a["content"] != b["content"]
        ]
    for part in ("sampling", "teacher"):
        lines += differences(old[part], new[part], part)
    if old["sample"] != new["sample"]:
        lines.append(f"sample: {old['sample']} -> {new['sample']}")
    return lines


def changed(old: str, new: str) -> str:
    """Returns where two texts begin and end to differ, with a little of what stands around it.

    >>> changed("What is 17 + 25?", "What is 17 + 26?")
    '"What is 17 + 25?" -> "What is 17 + 26?"'
    """
    start = _equal_characters(old, new)
    tail = _equal_characters(old[start:][::-1], new[start:][::-1])
    return " -> ".join(_window(text, start, len(text) - tail) for text in (old, new))


def _equal_characters(old: str, new: str) -> int:
    pairs = enumerate(zip(old, new, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))


def _window(text: str, start: int, end: int) -> str:
    first, last = max(0, start - _AROUND), min(len(text), end + _AROUND)
    middle = text[first:last]
    if len(middle) > 4 * _AROUND:  # a long change: its two ends
        middle = f"{middle[: 2 * _AROUND]} ... {middle[-2 * _AROUND :]}"
    shown = f"{'...' if first else ''}{middle}{'...' if last < len(text) else ''}"
    return json.dumps(shown, ensure_ascii=False)
