"""Turns a row into its records, as a layout says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from synth.core.message_text import reasoning_text
from synth.core.readers import (
    Unreadable,
    json_value,
    kind_of,
    media_column,
    media_placeholder,
    reference_text,
)
from synth.core.reasoning import join_trace, split_fields
from synth.core.record import Generation, Message, Record, Task
from synth.core.text.boxed import last_box
from synth.traces._layouts.known import Layout
from synth.traces._layouts.own_records import own_records
from synth.traces._layouts.turns import Turn, read_turns

Convert = Callable[[dict[str, Any]], Iterator[Record | str]]
Take = Callable[..., Any]

# Up to so many characters a solution may be the answer itself: `128`, `x = 3`.
SHORT_SOLUTION = 50
# A column called reasoning may be a switch (Llama-Nemotron).
_SWITCHES = {"", "on", "off", "true", "false", "yes", "no"}
TURNS_AFTER = "turns_after"  # metadata: what the user or a tool said after the trace
_NOT_IN_ID = re.compile(r"[^\w.-]+")


@dataclass(slots=True)
class _RowTraces:
    """What a row holds: the turns before the response, and reasoning and response of each trace."""

    turns: list[Turn]
    traces: list[tuple[Any, Any]]
    rest: dict[str, Any]  # what else the turns hold


def converter(
    layout: Layout, rows: Iterable[Mapping[str, Any]], label: str, per_sample: Collection[str] = ()
) -> Convert:
    """Makes a function that gives a row's records, and for each trace that gives none says why.

    Args:
        layout: Which columns hold what.
        rows: The first rows, which show how the columns are spelt.
        label: Name of the source, for ids and for tasks that have no source of their own.
        per_sample: Columns beside the layout's own that are lists beside a list of responses.
    """
    if layout.name == "records":
        return own_records
    names = layout.roles(rows)
    lists, repeats, missing = (*layout.per_sample, *per_sample), layout.repeats, layout.missing
    prefix = _NOT_IN_ID.sub("-", label)[:80] or "traces"
    plans: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def plan_of(row: dict[str, Any]) -> dict[str, list[str]]:
        """Returns each role's columns in this row; most rows have the same ones."""
        columns = tuple(row)
        plan = plans.get(columns)
        if plan is None:
            in_row = {role: [c for c in known if c in row] for role, known in names.items()}
            plan = {role: columns_of for role, columns_of in in_row.items() if columns_of}
            if len(plans) < 100 and len(columns) < 1000:  # a bound on what is held
                plans[columns] = plan
        return plan

    def convert(row: dict[str, Any]) -> Iterator[Record | str]:
        if media := media_column(row):
            yield f"a turn is not text: the column {media!r} is filled"
            return
        plan, rest = plan_of(row), dict(row)

        def take(role: str, fits: Callable[[Any], bool] = lambda value: True) -> Any:
            """Returns the first value that fits of a role's columns; it is then no metadata."""
            for column in plan.get(role, ()):
                value = rest.get(column)
                if value is None or (missing and isinstance(value, str) and value in missing):
                    continue
                if fits(value):
                    return rest.pop(column)
            return None

        try:
            traces = _row_traces(take)
            question, earlier = _last_question(traces.turns)
            source, model = take("source", _is_text) or label, take("model", _is_text) or ""
            finish_reasons = take("finish_reason", lambda value: isinstance(value, str | list))
            tokens = take("completion_tokens", lambda value: isinstance(value, int | list))
            reference_cell = take("answer", _is_reference)
            solution = next((r for c in plan.get("solution", ()) if _is_text(r := rest.get(c))), "")
            sample_lists = {c: rest.pop(c) for c in lists if isinstance(rest.get(c), list)}
            for column in repeats:
                rest.pop(column, None)
            if traces.rest:
                rest = {**traces.rest, **rest}
            metadata = {column: json_value(value) for column, value in rest.items()}
        except Unreadable as error:
            yield str(error)
            return
        several = len(traces.traces) > 1
        for sample, (reasoning, response) in enumerate(traces.traces):
            try:
                thought, answer = _split(reasoning, response)
                of_sample = {
                    c: json_value(v[sample]) for c, v in sample_lists.items() if sample < len(v)
                }
            except Unreadable as error:
                yield f"{error} (sample {sample})" if several else str(error)
                continue
            reference = None if reference_cell is None else reference_text(reference_cell)
            reference = reference and reference.strip()
            if solution and reference_cell is None:
                trace_texts = {answer, str(response).strip()}
                reference = _from_solution(solution, trace_texts, layout.short_solution)
            id = f"{prefix}-{_hash(question, reference or '', *earlier)}"
            task = Task(id, question, reference, source, {**metadata, **of_sample})
            finish, used = _entry(finish_reasons, sample), _count(_entry(tokens, sample))
            generation = None
            if several or model or finish or used is not None:
                finish = finish if isinstance(finish, str) and finish else "unknown"
                generation = Generation(
                    "", model, "", "", {}, sample, finish, None, used, None, 0.0, ""
                )
            messages = list(map(_message, traces.turns))
            id = f"{id}-{_hash(thought or '', answer)}"
            yield Record(id, task, messages, thought, answer, generation)

    return convert


def _message(turn: Turn) -> Message:
    """Returns an earlier turn with its reasoning, in the tags in which others have it inline."""
    content = turn.content if turn.reasoning is None else join_trace(turn.reasoning, turn.content)
    return Message(role=turn.role, content=content)


def _last_question(turns: list[Turn]) -> tuple[str, list[str]]:
    """Returns the last user's turn, and the turns before it, which make it another question."""
    for index in range(len(turns) - 1, -1, -1):
        if turns[index].role == "user":
            question = turns[index].content
            if not question or question.isspace():
                raise Unreadable("no question: it is empty")
            for turn in turns[: index + 1]:
                if turn.role == "user" and (mark := media_placeholder(turn.content)):
                    raise Unreadable(f"a turn is not text: {mark} stands for what is not there")
            return question, [turn.content for turn in turns[:index] if turn.role != "system"]
    raise Unreadable("no question: no user's turn")


def _row_traces(take: Take) -> _RowTraces:
    """Finds the turns and the traces; which of them there are decides how."""
    chat = take("messages")
    if chat is not None:
        turns = _with_system(read_turns(chat), take)
        if (traces := _last_turn(turns)) is not None:
            return traces
    else:
        turns = _question(take)
    reasoning = take("reasoning", _is_reasoning)
    response = take("response", lambda value: value != [])
    if response is None and reasoning is not None:
        response = take("answer", _is_answer)  # beside reasoning an answer is the response
    if response is None and reasoning is None:
        raise Unreadable("no response: its column is missing or empty")
    if not isinstance(response, list):
        pairs = [(reasoning, "" if response is None else response)]
    elif all(isinstance(item, dict) for item in response):
        if (traces := _last_turn(turns + read_turns(response))) is None:
            raise Unreadable("no response: no assistant's turn")
        return traces
    elif isinstance(reasoning, list) and len(reasoning) == len(response):
        pairs = list(zip(reasoning, response, strict=True))
    else:
        pairs = [(reasoning, item) for item in response]
    return _RowTraces(turns, pairs, _rest(turns))


def _question(take: Take) -> list[Turn]:
    """Reads the turns before the response, where both have columns of their own."""
    question = take("question")
    if isinstance(question, list | dict):
        return _with_system(read_turns(question), take)
    if question is None:
        raise Unreadable("no question: its column is missing or empty")
    if not isinstance(question, str):
        raise Unreadable(f"no question: it is {kind_of(question)}")
    under = take("input", _is_text)
    turns = []
    for pair in take("history") or ():
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_string, pair)):
            raise Unreadable("no messages: the history is not a list of pairs of texts")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    turns.append(Turn("user", f"{question}\n{under}" if under else question))
    return _with_system(turns, take)


def _with_system(turns: list[Turn], take: Take) -> list[Turn]:
    if turns[0].role == "system":
        return turns
    system = take("system", _is_text)
    return turns if system is None else [Turn("system", system), *turns]


def _last_turn(turns: list[Turn]) -> _RowTraces | None:
    """Takes the last assistant turn as the trace; what follows it goes to the metadata."""
    for index in range(len(turns) - 1, -1, -1):
        trace, before = turns[index], turns[:index]
        if trace.role == "assistant":
            rest = {**_rest(before), **trace.rest}
            if after := turns[index + 1 :]:
                rest[TURNS_AFTER] = list(map(_message, after))
            return _RowTraces(before, [(trace.reasoning, trace.content)], rest)
    return None


def _rest(turns: list[Turn]) -> dict[str, Any]:
    """Returns what else the question's turn holds."""
    return next((turn.rest for turn in reversed(turns) if turn.role == "user"), {})


def _split(reasoning: Any, response: Any) -> tuple[str | None, str]:
    """Returns reasoning and answer of a trace; reasoning of its own wins over inline tags."""
    if type(response) in (int, float):
        response = str(response)
    if not isinstance(response, str):
        raise Unreadable(f"no response: it is {kind_of(response)}")
    if isinstance(reasoning, list) and not all(isinstance(r, str | dict) for r in reasoning):
        raise Unreadable("no reasoning: its list holds something that is not text")
    text = reasoning_text(reasoning)
    if reasoning is not None and not isinstance(reasoning, str | list) and not text:
        raise Unreadable(f"no reasoning: it is {kind_of(reasoning)}")
    thought, answer = split_fields(text, response)
    if not thought and not answer:
        raise Unreadable("no response: it is empty")
    return thought, answer


def _from_solution(solution: str, trace_texts: set[str], short: bool) -> str | None:
    """Returns the reference that a worked solution ends with.

    A solution that is the trace itself gives none: it would agree with whatever the trace says.
    """
    solution = solution.strip()
    if not solution or solution in trace_texts:
        return None
    box = last_box(solution)
    return solution if box is None and short and len(solution) <= SHORT_SOLUTION else box


def _entry(value: Any, sample: int) -> Any:
    """Returns a sample's entry of a list, or the one value of all samples."""
    if isinstance(value, list):
        return value[sample] if sample < len(value) else None
    return value


def _hash(*texts: str) -> str:
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:12]


def _count(value: Any) -> int | None:
    """Returns a number of tokens; None where it is not one."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not value.isspace()


def _is_answer(value: Any) -> bool:
    return _is_reference(value) and not isinstance(value, list)


def _is_reference(value: Any) -> bool:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return type(value) in (int, float, bool, str) and reference_text(value) is not None


def _is_reasoning(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > 5 or value.strip().lower() not in _SWITCHES
    return (isinstance(value, list) and value != []) or reasoning_text(value) != ""
