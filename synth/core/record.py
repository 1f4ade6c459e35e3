"""The one record that a trace is, from birth to training. Stages add to it and never fork it."""

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
    """A question to be answered.

    Attributes:
        id: Stable name of the question, made from its source and content.
        question: The text that the prompt shows.
        answer: The reference answer, where one is known.
        source: Which task source of the config it came from.
        metadata: What else the source gave (choices, tests, difficulty, ...), as JSON values.
    """

    id: str
    question: str
    answer: str | None = None
    source: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Generation:
    """How an answer came to be.

    Attributes:
        teacher: Name of the teacher in the config.
        model: Model as the endpoint reported it.
        template: Name of the prompt template, and `template_hash` the hash of its text.
        sampling: The parameters that were sent.
        sample: Which sample of this question it is, from 0.
        finish_reason: `stop`, `length`, ... as the endpoint gave it.
        prompt_tokens: Tokens of the prompt as the endpoint counted them, or None.
        completion_tokens: Tokens of the answer, reasoning included, or None.
        cost_usd: Price of this response by the config's prices, or None where none is set.
        latency_s: Seconds from request to response.
        key: Key of the raw response in the response store.
        earlier_keys: Keys of the pieces before it, where an answer was cut off and continued.
        student_tokens: Length of the trace in the student's tokens, where they were counted.
        parent: Id of the record that this one was made from, where it was.
    """

    teacher: str
    model: str
    template: str
    template_hash: str
    sampling: dict[str, Any]
    sample: int
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    latency_s: float
    key: str
    earlier_keys: list[str] = field(default_factory=list)
    student_tokens: int | None = None
    parent: str | None = None


@dataclass(slots=True)
class Verdict:
    """What one filter said of one record: a row of the ledger.

    Attributes:
        filter: Name of the filter in the config.
        keep: Whether the record passes it; None where it cannot tell.
        reason: Why not (or a remark where it passes); short, groups in the funnel by `kind`.
        score: The figure that was compared, where there is one.
        threshold: What it was compared with.
        evidence: What the verdict rests on, as JSON text: spans, partners, failing cases.
        version: Of the filter's code.
        drops: Whether the record is dropped for it; a filter that only tags drops nothing.
        seconds: Time it took. Not stored with the record: it differs from run to run.
    """

    filter: str
    keep: bool | None
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    evidence: str | None = None
    version: int = 1
    drops: bool | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Without a word on it, what is not kept is dropped."""
        if self.drops is None:
            self.drops = not self.keep

    @property
    def kind(self) -> str:
        """The part of the reason before the colon, by which the funnel counts."""
        return self.reason.split(":", 1)[0]


@dataclass(slots=True)
class Record:
    """A trace: the task, what was sent, what came back, and what the filters said.

    Attributes:
        id: Unique in a run: task, teacher and sample.
        messages: The messages sent to the teacher.
        reasoning: The chain of thought without its tags, or None where the model gave none.
        answer: What follows the reasoning.
        generation: None for records that came from outside.
        verdicts: In the order in which the filters ran.
    """

    id: str
    task: Task
    messages: list[Message]
    reasoning: str | None
    answer: str
    generation: Generation | None = None
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def rejected_by(self) -> Verdict | None:
        """The first verdict that drops the record, or None."""
        return next((verdict for verdict in self.verdicts if verdict.drops), None)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of a value. Lone surrogates are hashed, not refused."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


@functools.cache
def field_types(cls: type) -> dict[str, tuple[Any, bool]]:
    """Return the type of each stored field of a record's part, and whether it may be None."""
    types = {}
    for name, hint in get_type_hints(cls).items():
        if (cls, name) != (Verdict, "seconds"):  # differs from run to run: not stored
            options = [kind for kind in get_args(hint) if kind is not NoneType]
            optional = get_origin(hint) is UnionType
            types[name] = (options[0] if optional else hint, optional)
    return types


def to_row(record: Record) -> dict[str, Any]:
    """A record as a row of one schema: free-form mappings become JSON text."""
    row = _fields(record)
    row["task"] = _fields(record.task) | {"metadata": canonical_json(record.task.metadata)}
    row["messages"] = [dict(message) for message in record.messages]
    if (made := record.generation) is not None:
        row["generation"] = _fields(made) | {"sampling": canonical_json(made.sampling)}
    row["verdicts"] = [_fields(verdict) for verdict in record.verdicts]
    for verdict in row["verdicts"]:
        del verdict["seconds"]
    return row


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, as they are; `asdict` copies all of them and takes ten times."""
    return {name: getattr(value, name) for name in value.__slots__}


def from_row(row: dict[str, Any]) -> Record:
    """The record that `to_row` wrote."""
    task = Task(**{**row["task"], "metadata": json.loads(row["task"]["metadata"])})
    generation = row["generation"]
    if generation is not None:
        generation = Generation(**{**generation, "sampling": json.loads(generation["sampling"])})
    return Record(
        id=row["id"],
        task=task,
        messages=[Message(role=m["role"], content=m["content"]) for m in row["messages"]],
        reasoning=row["reasoning"],
        answer=row["answer"],
        generation=generation,
        verdicts=[Verdict(**verdict) for verdict in row["verdicts"]],
    )


@dataclass(frozen=True, slots=True)
class Request:
    """One sample of one question.

    Attributes:
        messages: What is sent.
        sampling: OpenAI's parameter names (temperature, top_p, max_tokens, stop, seed, logprobs,
            top_logprobs, ...).
        sample: Which sample of the question this is, from 0.
        task: The question itself, for teachers that make their answers up (`fake`).
    """

    messages: list[Message]
    sampling: dict[str, Any] = field(default_factory=dict)
    sample: int = 0
    task: Task | None = None
