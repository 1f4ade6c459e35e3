"""The record that a trace is from its request to training. Stages add to it and never fork it."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, TypedDict, get_args, get_origin, get_type_hints


class Message(TypedDict):
    """One turn of a chat: `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(slots=True)
class Task:
    """A question to be answered."""

    id: str  # stable: made from its source and content
    question: str  # the text that the prompt shows
    answer: str | None = None  # the reference answer, where one is known
    source: str = ""  # which task source of the config it came from
    # What else the source gave (choices, tests, difficulty, ...), as JSON values.
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Generation:
    """How an answer came to be."""

    teacher: str  # its name in the config
    model: str  # as the endpoint reported it
    template: str  # name of the prompt template
    template_hash: str
    sampling: dict[str, Any]  # the parameters that were sent
    sample: int  # which sample of this question it is, from 0
    finish_reason: str  # `stop`, `length`, ... as the endpoint gave it
    prompt_tokens: int | None  # as the endpoint counted them
    completion_tokens: int | None  # reasoning included
    cost_usd: float | None  # by the config's prices; None where none is set
    latency_s: float  # from request to response
    key: str  # of the raw response in the response store
    # Keys of the pieces before it, where an answer was cut off and continued.
    earlier_keys: list[str] = field(default_factory=list)
    student_tokens: int | None = None  # length in the student's tokens, where they were counted
    parent: str | None = None  # id of the record that this one was made from, where it was


@dataclass(slots=True)
class Verdict:
    """What one filter found in one record."""

    filter: str  # its name in the config
    keep: bool | None  # whether the record passes; None where the filter cannot tell
    reason: str = ""  # why not, or a remark where it passes; short, the funnel groups by `kind`
    score: float | None = None  # the figure that was compared, where there is one
    threshold: float | None = None  # what it was compared with
    evidence: str | None = None  # spans, partners, failing cases, as JSON text
    version: int = 1  # of the filter's code
    drops: bool | None = None  # whether the record is dropped; a filter that only tags drops none
    seconds: float = 0.0  # differs from run to run, so it is not stored with the record

    def __post_init__(self) -> None:
        if self.drops is None:  # what is not kept is dropped
            self.drops = not self.keep

    @property
    def kind(self) -> str:
        """Returns the part of the reason before the colon, by which the funnel counts."""
        return self.reason.split(":", 1)[0]


@dataclass(slots=True)
class Record:
    """A trace: the task, what was sent, what came back, and what the filters found."""

    id: str  # unique in a run: task, teacher and sample
    task: Task
    messages: list[Message]  # sent to the teacher
    reasoning: str | None  # without its tags; None where the model gave none
    answer: str  # what follows the reasoning
    generation: Generation | None = None  # None for records that came from outside
    verdicts: list[Verdict] = field(default_factory=list)  # in the order in which filters ran

    @property
    def rejected_by(self) -> Verdict | None:
        """Returns the first verdict that drops the record, or None."""
        return next((verdict for verdict in self.verdicts if verdict.drops), None)


def canonical_json(value: Any) -> str:
    """Returns JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Returns the SHA-256 (hex) of the canonical JSON of a value; lone surrogates are hashed."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


@functools.cache
def field_types(cls: type) -> dict[str, tuple[Any, bool]]:
    """Returns the type of each stored field of a record's part, and whether it may be None."""
    types = {}
    for name, hint in get_type_hints(cls).items():
        if (cls, name) != (Verdict, "seconds"):  # differs from run to run: not stored
            options = [kind for kind in get_args(hint) if kind is not NoneType]
            optional = get_origin(hint) is UnionType
            types[name] = (options[0] if optional else hint, optional)
    return types


def to_row(record: Record) -> dict[str, Any]:
    """Returns a record as a row of one schema: free-form mappings become JSON text."""
    row = _fields(record)
    row["task"] = _fields(record.task) | {"metadata": canonical_json(record.task.metadata)}
    row["messages"] = [dict(message) for message in record.messages]
    if (generation := record.generation) is not None:
        sampling = canonical_json(generation.sampling)
        row["generation"] = _fields(generation) | {"sampling": sampling}
    row["verdicts"] = [_fields(verdict) for verdict in record.verdicts]
    for verdict in row["verdicts"]:
        del verdict["seconds"]
    return row


def _fields(value: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass as they are; `asdict` copies and takes ten times."""
    return {name: getattr(value, name) for name in value.__slots__}


def from_row(row: dict[str, Any]) -> Record:
    """Returns the record that `to_row` wrote."""
    task = Task(**{**row["task"], "metadata": json.loads(row["task"]["metadata"])})
    messages = [Message(role=m["role"], content=m["content"]) for m in row["messages"]]
    generation = row["generation"]
    if generation is not None:
        generation = Generation(**{**generation, "sampling": json.loads(generation["sampling"])})
    verdicts = [Verdict(**verdict) for verdict in row["verdicts"]]
    reasoning, answer = row["reasoning"], row["answer"]
    return Record(row["id"], task, messages, reasoning, answer, generation, verdicts)


@dataclass(frozen=True, slots=True)
class Request:
    """One sample of one question."""

    messages: list[Message]
    # OpenAI's names: temperature, top_p, max_tokens, stop, seed, logprobs, top_logprobs, ...
    sampling: dict[str, Any] = field(default_factory=dict)
    sample: int = 0  # which sample of the question this is, from 0
    task: Task | None = None  # for teachers that make their answers up (`fake`)
