"""How data sets of traces are laid out: a table, and finding which row of it fits.

A layout says which columns hold what. Columns are looked for in the order given, without regard to
case, and the first that a row has is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# What a column can be. `answer` is the reference, as it is for task sources.
ROLES = {
    "messages": "turns of a chat: the last assistant turn is the trace",
    "question": "the question, or the turns before the response",
    "input": "what is set under the question",
    "system": "the system prompt",
    "history": "earlier turns, as pairs",
    "response": "what the model wrote, think tags included; a list where there are several",
    "reasoning": "the reasoning, where it has a column of its own",
    "answer": "the reference answer",
    "solution": "a worked reference: the content of its last box is the reference answer",
    "source": "where the question comes from",
    "model": "who wrote the trace",
    "finish_reason": "why it ended",
    "completion_tokens": "how many tokens it has",
}
_QUESTION = ("question", "problem", "query")
_RESPONSE = ("response", "responses", "completion", "completions", "generation", "generations",
             "output", "generated_text", "model_output")  # fmt: skip
# What is read in every layout that does not say otherwise.
_COMMON: dict[str, tuple[str, ...]] = {
    "system": ("system", "system_prompt"),
    "reasoning": (
        "reasoning_content",
        "reasoning",
        "thinking",
        "complex_cot",
        "cot",
        "chain_of_thought",
    ),
    "answer": ("expected_answer", "ground_truth", "final_answer", "reference_answer", "answer"),
    "solution": ("solution", "ground_truth_solution"),
    "source": ("source", "data_source"),
    "model": ("model", "generation_model", "generator", "teacher"),
    "finish_reason": ("finish_reason", "stop_reason"),
    "completion_tokens": ("completion_tokens", "generated_token_count"),
}


@dataclass(frozen=True)
class Layout:
    """One way in which traces are laid out.

    Attributes:
        name: As a config says it.
        about: What it is, and which published data sets use it.
        needs: Roles that must have a column; a layout fits where they all do.
        own: Columns of its roles, before those that are common.
        per_sample: Columns that are lists beside a list of responses.
        repeats: Columns left out of the metadata: they say again what another one says.
        missing: What stands in a cell that is empty.
        short_solution: Whether a short solution is itself the reference answer.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    per_sample: frozenset[str] = frozenset()
    repeats: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    short_solution: bool = False

    def roles(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
        """Columns of every role, as the rows spell them.

        A column that the layout itself gives a role has no other.
        """
        taken = {column for columns in self.own.values() for column in columns}
        common = {
            role: tuple(column for column in columns if column not in taken)
            for role, columns in _COMMON.items()
        }
        spelt: dict[str, list[str]] = {}
        for column in dict.fromkeys(column for row in rows for column in row):
            spelt.setdefault(column.lower(), []).append(column)
        return {
            role: tuple(
                dict.fromkeys(c for column in columns for c in (column, *spelt.get(column, ())))
            )
            for role, columns in {**common, **self.own}.items()
        }

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has what the layout needs."""
        there = {column.lower() for column, value in row.items() if value is not None}
        return all(there.intersection(self.own[role]) for role in self.needs)


# In the order in which they are tried: the first that fits most of the first rows is taken.
LAYOUTS = (
    Layout(
        "records",
        "our own: a run's folder, one of its stages, or a record a line",
        ("record",),
        {"record": ("task",)},
    ),
    Layout(
        "openr1",
        "several traces a row: OpenR1-Math-220k",
        ("question", "response", "finished"),
        {
            "question": ("problem",),
            "response": ("generations",),
            "finish_reason": ("finish_reasons",),
            "finished": ("is_reasoning_complete",),
        },
        per_sample=frozenset(
            ("is_reasoning_complete", "correctness_math_verify", "correctness_llama")
        ),
        repeats=frozenset(("messages",)),
    ),
    Layout(
        "openthoughts",
        "reasoning and solution apart: OpenThoughts-114k, configuration metadata",
        ("question", "reasoning", "response"),
        {
            "question": ("problem",),
            "reasoning": ("deepseek_reasoning",),
            "response": ("deepseek_solution",),
        },
    ),
    Layout(
        "s1k",
        "a trajectory and an attempt: s1K, s1K-1.1 (there the traces of DeepSeek-R1)",
        ("question", "reasoning", "response"),
        {
            "question": ("question",),
            "reasoning": ("deepseek_thinking_trajectory", "thinking_trajectories"),
            "response": ("deepseek_attempt", "attempt"),
            "source": ("source_type",),
        },
        short_solution=True,
    ),
    Layout(
        "openmathreasoning",
        "a generated solution and the expected answer: OpenMathReasoning, OpenMathInstruct",
        ("question", "response"),
        {
            "question": ("problem", "question"),
            "response": ("generated_solution",),
            "source": ("problem_source", "dataset"),
        },
        missing=frozenset(("n/a",)),
    ),
    Layout(
        "qwen-math",
        "several answers a row with their scores: the evaluation of Qwen2.5-Math",
        ("question", "response", "predicted", "scored"),
        {
            "question": ("question",),
            "response": ("code",),
            "predicted": ("pred",),
            "scored": ("score",),
            "answer": ("answer", "gt"),
            "solution": ("solution", "gt_cot"),
        },
        per_sample=frozenset(("pred", "report", "score", "pred_score")),
        repeats=frozenset(("response", "query", "history")),
    ),
    Layout(
        "sharegpt",
        "turns with from and value: ShareGPT, OpenThoughts-114k, OpenThoughts3, Bespoke-Stratos",
        ("messages",),
        {"messages": ("conversations", "conversation"), "response": _RESPONSE},
    ),
    Layout(
        "messages",
        "turns with role and content (OpenAI, TRL): Mixture-of-Thoughts, NuminaMath-CoT",
        ("messages",),
        {"messages": ("messages",), "response": _RESPONSE},
    ),
    Layout(
        "prompt-completion",
        "a prompt and what followed, as texts or as turns: TRL",
        ("question", "response"),
        {"question": ("prompt",), "response": _RESPONSE},
    ),
    Layout(
        "alpaca",
        "instruction, input, output, and system and history where there are any: Alpaca",
        ("question", "response"),
        {
            "question": ("instruction",),
            "input": ("input",),
            "response": ("output", "response"),
            "history": ("history",),
        },
    ),
    Layout(
        "question-response",
        "a question and what the model wrote: medical-o1-reasoning, Llama-Nemotron",
        ("question", "response"),
        {"question": (*_QUESTION, "input"), "response": _RESPONSE},
    ),
    Layout(
        "solution",
        "a question and a solution, which is the trace: LIMO, NuminaMath-1.5",
        ("question", "response"),
        {"question": _QUESTION, "response": ("solution",)},
    ),
    Layout(
        "question-answer",
        "a question and an answer, which is the trace: GSM8K",
        ("question", "response"),
        {"question": _QUESTION, "response": ("answer",)},
    ),
)
_BARE = Layout("columns", "as the config says", ())


def chosen(name: str, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Layout:
    """The layout that a config names or that the first rows show, with the config's own columns.

    Args:
        name: A layout, or `auto`.
        columns: A column for each role that the config says itself.
        rows: The first rows of the data.

    Raises:
        LookupError: None fits any of the rows.
    """
    rows = list(rows)
    # A config that names all that is needed leaves nothing to be found.
    whole = "messages" in columns or ("question" in columns and "response" in columns)
    if name == "auto" and whole:
        found = _BARE
    else:
        tried = [layout for layout in LAYOUTS if name in ("auto", layout.name)]
        fits = {layout.name: sum(map(layout.fits, rows)) for layout in tried}
        found = max(tried, key=lambda layout: fits[layout.name])
        if not fits[found.name] and not (columns and name != "auto"):
            raise LookupError(found.name if name != "auto" else "")
    own = {role: (column,) for role, column in columns.items()}
    return replace(found, own={**found.own, **own})
