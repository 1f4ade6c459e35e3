"""From a row to its records, as a layout says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from synth.core.boxed import last_box
from synth.core.reasoning import parse_completion, split_trace
from synth.core.record import Generation, Message, Record, Task
from synth.core.rows import kind_of
from synth.traces._layouts.json_values import Unreadable, count, json_value
from synth.traces._layouts.known import Layout
from synth.traces._layouts.own_records import own_records
from synth.traces._layouts.turns import Turn, read_turns

Convert = Callable[[dict[str, Any]], Iterator[Record | str]]
Take = Callable[..., Any]

# Up to so many characters a solution may be the answer itself: `128`, `x = 3`.
SHORT_SOLUTION = 50
# A column called reasoning may be a switch (Llama-Nemotron).
_SWITCHES = {"", "on", "off", "true", "false", "yes", "no"}
_NOT_IN_ID = re.compile(r"[^\w.-]+")


@dataclass(slots=True)
class _Asked:
    """What a row holds: the turns before the response, and reasoning and response of each trace."""

    turns: list[Turn]
    traces: list[tuple[Any, Any]]
    rest: dict[str, Any]


def converter(
    layout: Layout, rows: Iterable[Mapping[str, Any]], label: str, per_sample: Collection[str] = ()
) -> Convert:
    """A function that gives a row's records, and for each trace that gives none a text why.

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
        """Each role's columns in this row; most rows have the same ones."""
        columns = tuple(row)
        plan = plans.get(columns)
        if plan is None:
            found = {role: [c for c in known if c in row] for role, known in names.items()}
            plan = {role: there for role, there in found.items() if there}
            if len(plans) < 100 and len(columns) < 1000:  # a bound on what is held
                plans[columns] = plan
        return plan

    def convert(row: dict[str, Any]) -> Iterator[Record | str]:
        plan, rest = plan_of(row), dict(row)

        def take(role: str, fits: Callable[[Any], bool] = _there) -> Any:
            """The first value that fits of a role's columns; it is then no metadata."""
            for column in plan.get(role, ()):
                value = rest.get(column)
                if value is None or (missing and isinstance(value, str) and value in missing):
                    continue
                if fits(value):
                    return rest.pop(column)
            return None

        try:
            asked = _asked(take)
            question, earlier = _last_question(asked.turns)
            source, model = take("source", _is_text) or label, take("model", _is_text) or ""
            ends, tokens = take("finish_reason", _is_end), take("completion_tokens", _is_count)
            given = take("answer", _is_answer)
            solution = next((r for c in plan.get("solution", ()) if _is_text(r := rest.get(c))), "")
            shares = _lists(rest, lists) if lists else {}
            for column in repeats:
                rest.pop(column, None)
            if asked.rest:
                rest = {**asked.rest, **rest}
            metadata = {column: json_value(value) for column, value in rest.items()}
        except Unreadable as error:
            yield str(error)
            return
        several = len(asked.traces) > 1
        for sample, (reasoning, response) in enumerate(asked.traces):
            try:
                thought, answer = _split(reasoning, response)
                own = _entries(shares, sample) if shares else {}
            except Unreadable as error:
                yield f"{error} (sample {sample})" if several else str(error)
                continue
            reference = None if given is None else str(given).strip()
            if solution and given is None:
                said = {answer, str(response).strip()}
                reference = _from_solution(solution, said, layout.short_solution)
            id = f"{prefix}-{_hash(question, reference or '', *earlier)}"
            task = Task(id, question, reference, source, {**metadata, **own})
            finish, used = _entry(ends, sample), count(_entry(tokens, sample))
            generation = None
            if several or model or finish or used is not None:
                finish = finish if isinstance(finish, str) and finish else "unknown"
                generation = Generation(
                    "", model, "", "", {}, sample, finish, None, used, None, 0.0, ""
                )
            messages: list[Message] = [{"role": t.role, "content": t.content} for t in asked.turns]
            id = f"{id}-{_hash(thought or '', answer)}"
            yield Record(id, task, messages, thought, answer, generation)

    return convert


def _last_question(turns: list[Turn]) -> tuple[str, list[str]]:
    """The last user's turn, and what was said before it, which makes it another question."""
    for at in range(len(turns) - 1, -1, -1):
        if turns[at].role == "user":
            question = turns[at].content
            if not question or question.isspace():
                raise Unreadable("no question: it is empty")
            return question, [turn.content for turn in turns[:at] if turn.role != "system"]
    raise Unreadable("no question: no user's turn")


def _asked(take: Take) -> _Asked:
    """Finds the turns and the traces; which of them there are decides how."""
    chat = take("messages")
    if chat is not None:
        turns = _with_system(read_turns(chat), take)
        if (asked := _last_turn(turns)) is not None:
            return asked
    else:
        turns = _question(take)
    reasoning = take("reasoning", _is_reasoning)
    response = take("response", _said)
    if response is None and reasoning is not None:
        response = take("answer", _is_answer)  # beside reasoning an answer is the response
    if response is None and reasoning is None:
        raise Unreadable("no response: its column is missing or empty")
    if isinstance(response, list):
        if all(isinstance(item, dict) for item in response):
            asked = _last_turn(turns + read_turns(response))
            if asked is None:
                raise Unreadable("no response: no assistant's turn")
            return asked
        if isinstance(reasoning, list) and len(reasoning) == len(response):
            return _Asked(turns, list(zip(reasoning, response, strict=True)), _rest(turns))
        return _Asked(turns, [(reasoning, item) for item in response], _rest(turns))
    return _Asked(turns, [(reasoning, "" if response is None else response)], _rest(turns))


def _question(take: Take) -> list[Turn]:
    """The turns before the response, where question and response have columns of their own."""
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
        turns += [Turn("user", pair[0], None, {}), Turn("assistant", pair[1], None, {})]
    turns.append(Turn("user", f"{question}\n{under}" if under else question, None, {}))
    return _with_system(turns, take)


def _with_system(turns: list[Turn], take: Take) -> list[Turn]:
    if turns[0].role == "system":
        return turns
    system = take("system", _is_text)
    return turns if system is None else [Turn("system", system, None, {}), *turns]


def _last_turn(turns: list[Turn]) -> _Asked | None:
    """The last assistant turn as the trace; what follows it is left out."""
    for at in range(len(turns) - 1, -1, -1):
        said = turns[at]
        if said.role == "assistant":
            before = turns[:at]
            rest = _rest(before)
            rest = {**rest, **said.rest} if said.rest else rest
            return _Asked(before, [(said.reasoning, said.content)], rest)
    return None


def _rest(turns: list[Turn]) -> dict[str, Any]:
    """What else the question's turn holds."""
    for turn in reversed(turns):
        if turn.role == "user":
            return turn.rest
    return {}


def _split(reasoning: Any, response: Any) -> tuple[str | None, str]:
    """Reasoning and answer of a trace; reasoning of its own wins over inline tags."""
    if type(response) in (int, float):
        response = str(response)
    if not isinstance(response, str):
        raise Unreadable(f"no response: it is {kind_of(response)}")
    if isinstance(reasoning, list):  # s1K: the steps of one trajectory
        if not all(map(_is_string, reasoning)):
            raise Unreadable("no reasoning: its list holds something that is not text")
        reasoning = "\n\n".join(reasoning)
    if reasoning is not None and not isinstance(reasoning, str):
        raise Unreadable(f"no reasoning: it is {kind_of(reasoning)}")
    if not reasoning or not reasoning.strip():
        thought, answer = split_trace(response)
    else:
        inside, after = split_trace(reasoning)
        if inside and not after:  # its tags are in the column
            reasoning = inside
        thought, answer = split_trace(response)
        if thought != reasoning.strip():  # else it is said in both columns
            message = {"content": response, "reasoning": reasoning}
            thought, answer, _ = parse_completion({"choices": [{"message": message}]})
    if not thought and not answer:
        raise Unreadable("no response: it is empty")
    return thought, answer


def _from_solution(solution: str, said: set[str], short: bool) -> str | None:
    """The reference that a worked solution ends with.

    A solution that is the trace itself gives none: it would agree with whatever the trace says.
    """
    solution = solution.strip()
    if not solution or solution in said:
        return None
    box = last_box(solution)
    return solution if box is None and short and len(solution) <= SHORT_SOLUTION else box


def _lists(rest: dict[str, Any], columns: Collection[str]) -> dict[str, list[Any]]:
    """The lists beside a list of responses, taken out of what goes to the metadata."""
    return {c: rest.pop(c) for c in columns if isinstance(rest.get(c), list)}


def _entries(lists: dict[str, list[Any]], sample: int) -> dict[str, Any]:
    """A sample's own entry of each list."""
    return {c: json_value(v[sample]) for c, v in lists.items() if sample < len(v)}


def _entry(value: Any, sample: int) -> Any:
    """One for each sample, or one for all."""
    if isinstance(value, list):
        return value[sample] if sample < len(value) else None
    return value


def _hash(*texts: str) -> str:
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:12]


def _there(value: Any) -> bool:
    return True


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not value.isspace()


def _is_answer(value: Any) -> bool:
    return type(value) in (int, float, bool) or _is_text(value)


def _is_end(value: Any) -> bool:
    return isinstance(value, str | list)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | list)


def _said(value: Any) -> bool:
    return not isinstance(value, list) or bool(value)


def _is_reasoning(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > 5 or value.strip().lower() not in _SWITCHES
    return isinstance(value, list) and value != []
