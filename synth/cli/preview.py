"""`distill preview`: a few questions all the way, for the eyes: prompt, trace, verdicts, mask."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from synth.config.run import Run
from synth.core.errors import MissingPackage, UserError
from synth.core.prompts import load_prompt
from synth.core.record import Message, Record, Task


def show(run: Run, number: int, ask: bool) -> None:
    """Prints the preview of the first questions.

    Where a package is missing, what can be shown without it is shown, and the rest says what it
    needs; questions then come from the prompt's own worked examples.

    Args:
        run: The checked config.
        number: How many questions.
        ask: Whether to ask the teacher; its answers go to the store as in a run.
    """
    console = Console(highlight=False)
    if run.generate is None:
        raise UserError("nothing to preview: the config has no section generate")
    records = _examples(run)
    try:
        tasks = _tasks(run, number)
    except MissingPackage as missing:
        console.print(f"the questions are not shown: {missing}", markup=False)
        tasks = [record.task for record in records][:number]
        if tasks:
            console.print("the prompt's worked examples stand in for them")
    prompt = load_prompt(run.generate.prompt.template)
    for task in tasks:
        messages = prompt.messages(task, run.generate.prompt.values)
        console.print(
            Panel(_chat(messages), title=_title(f"prompt {prompt.name}"), title_align="left")
        )
    if ask:
        try:
            records = _answers(run, tasks)
        except MissingPackage as missing:
            console.print(f"the teacher is not asked: {missing}", markup=False)
    for record in records[:number]:
        _show_record(console, run, record)


def _tasks(run: Run, number: int) -> list[Task]:
    """The first questions. Reads every source, as the split needs all of them."""
    from synth.tasks import load_tasks

    assert run.tasks is not None
    return load_tasks(run.tasks, run.seed).train[:number]


def _examples(run: Run) -> list[Record]:
    """The worked examples of the prompt as records: there is always a trace to show."""
    assert run.generate is not None
    records = []
    for index, example in enumerate(run.generate.prompt.values.get("examples") or []):
        if isinstance(example, dict) and {"question", "answer"} <= set(example):
            task = Task(f"example-{index}", str(example["question"]), source="worked examples")
            reasoning = example.get("reasoning")
            records.append(Record(task.id, task, [], reasoning, str(example["answer"])))
    return records


def _answers(run: Run, tasks: list[Task]) -> list[Record]:
    """One answer a question, with the verdicts of the trace filters that can run here."""
    import asyncio

    from synth.config.generate import Samples
    from synth.generate.runner import generate
    from synth.generate.stats import GenerationStats
    from synth.stages.build_filters import FilterSet
    from synth.stages.generate import generation_spec
    from synth.store.responses import ResponseStore

    records: list[Record] = []
    filters = FilterSet.from_config(run)
    with filters.chain("trace") as chain, ResponseStore(run.store_path) as store:
        ask = generation_spec(run, filters, chain.check_trace)
        ask.samples = Samples(max=1)
        ask.vote = None
        for teacher in ask.teachers.values():
            teacher.disable_batching()  # three answers are not worth a day's wait for a batch
        take: Callable[[Task, list[Record]], None] = lambda _, got: records.extend(got)  # noqa: E731
        asyncio.run(generate(ask, store, tasks, take, GenerationStats(questions_total=len(tasks))))
    return records


def _chat(messages: list[Message]) -> Text:
    text = Text()
    for index, message in enumerate(messages):
        text.append(("\n\n" if index else "") + message["role"], style="bold cyan")
        text.append("\n" + message["content"])
    return text


def _title(text: str) -> Text:
    return Text(text, style="bold")


def _show_record(console: Console, run: Run, record: Record) -> None:
    trace = Text()
    if record.reasoning is not None:
        trace.append("reasoning\n", style="bold cyan").append(
            record.reasoning + "\n\n", style="dim"
        )
    trace.append("answer\n", style="bold cyan").append(record.answer)
    for verdict in record.verdicts:
        mark = ("\nkeep ", "green") if verdict.keep else ("\ntag ", "yellow")
        mark = ("\ndrop ", "red") if verdict.drops else mark
        trace.append(*mark).append(f"{verdict.filter} {verdict.reason}")
    console.print(Panel(trace, title=_title(f"trace {record.id}"), title_align="left"))
    if run.student is None:
        return
    mask = Text()
    for text, has_loss in _mask(run, record):
        mask.append(text, style="black on green" if has_loss else "dim")
    title = "training text; the student learns what is " + (
        "green" if console.is_terminal else "between [[ and ]]"
    )
    if not console.is_terminal:
        mask = Text("".join(f"[[{t}]]" if loss else t for t, loss in _mask(run, record)))
    console.print(Panel(mask, title=_title(title), title_align="left"))


def _mask(run: Run, record: Record) -> list[tuple[str, bool]]:
    """The student's training text in pieces, each with or without loss."""
    from sft.data.encoding import preview_spans
    from synth.stages.build_student import StudentSetup

    assert run.student is not None
    messages = StudentSetup(run.student).messages(record.task)
    student = run.student.model_copy(update={"model": run.student_origin})
    return preview_spans(student, messages, record.reasoning, record.answer)
