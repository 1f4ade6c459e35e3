"""What of a conversation a training leaves out: the student sees its prompt, and no other turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from synth.core.compression import parse_json
from synth.core.errors import UserError
from synth.core.record import Message, Record, Task

# What a refusal says can be done about it.
DROP_CONTEXT = (
    "A training shows the student its prompt and the last question alone; whole conversations and "
    "tools are not trained on yet. A system prompt that is the same everywhere can stand in a "
    "template of student.prompt. `train.drop_context: true` leaves all of this out."
)
_KINDS = {"system": "a system prompt", "tool": "results of tools"}


def left_out(record: Record, prompt: Sequence[Message]) -> list[str]:
    """Names what a trace from elsewhere has beside its question and the prompt does not show.

    A trace that a teacher of a config wrote has nothing of the kind: what stood before its question
    came from that config's own prompt, and the student is given another one on purpose.

    Example:
        >>> from synth.core.record import Task
        >>> asked = Message(role="user", content="Double it.")
        >>> turns = [Message(role="system", content="Be brief."), asked]
        >>> left_out(Record("r", Task("t", "Double it."), turns, None, "4"), [asked])
        ['a system prompt']
    """
    if record.generation is not None and record.generation.template:
        return []
    kinds = []
    turns = record.messages
    question = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    shown = {(turn["role"], turn["content"].strip()) for turn in prompt}
    for index, turn in enumerate(turns):
        role, text = turn["role"], turn["content"].strip()
        if index == question or not text or (role, text) in shown:
            continue
        # A prompt may set the same system text into another turn, as R1's recipes do.
        if role == "system" and any(text in turn["content"] for turn in prompt):
            continue
        kinds.append(_KINDS.get(role, "earlier turns"))
    names = _tool_names(record.task.metadata.get("tools"))
    if names and not all(any(name in turn["content"] for turn in prompt) for name in names):
        kinds.append("tools")
    if record.task.metadata.get("tool_calls"):
        kinds.append("calls of tools")
    return list(dict.fromkeys(kinds))


class LeftOut:
    """Counts the traces of which a training leaves something out.

    Attributes:
        total: Traces seen.
        traces: Those of them that lose something.
        kinds: What they lose, and how many of them.
        first: The id of the first of them.
    """

    def __init__(self, render_prompt: Callable[[Task], list[Message]]) -> None:
        self._render_prompt = render_prompt
        self.total = self.traces = 0
        self.kinds: Counter[str] = Counter()
        self.first = ""

    def add(self, record: Record) -> None:
        """Counts one trace."""
        self.total += 1
        try:
            prompt = self._render_prompt(record.task)
        except UserError:  # the training says what is wrong with it
            return
        if kinds := left_out(record, prompt):
            self.first = self.first or record.id
            self.traces += 1
            self.kinds.update(kinds)

    def __str__(self) -> str:
        """Says `8 of 9 traces: a system prompt 8, earlier turns 2 (the first: ID)`."""
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.kinds.most_common())
        return f"{self.traces:,} of {self.total:,} traces: {kinds} (the first: {self.first})"

    def refuse(self) -> None:
        """Raises UserError where any trace loses something."""
        if self.traces:
            raise UserError(
                f"the student's prompt would leave out parts of {self}.\n{DROP_CONTEXT}"
            )


def _tool_names(tools: Any) -> list[str]:
    """Returns the names of the tools that a column describes, in OpenAI's form or as bare ones."""
    if isinstance(tools, str):
        try:
            tools = parse_json(tools.encode("utf-8", "surrogatepass"))
        except ValueError:
            return []
    names = []
    for tool in tools if isinstance(tools, list) else []:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            names.append(function["name"])
    return names
