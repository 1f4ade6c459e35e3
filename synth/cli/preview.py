"""`distill preview`: a few questions all the way, for the eyes: prompt, trace, verdicts, mask."""

from __future__ import annotations

from typing import Any

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
    needs; questions then come from the prompt's own worked examples. If the teacher is asked, its
    answers go to the store as in a run.
    """
    console = Console(highlight=False)
    if run.generate is None:
        raise UserError("nothing to preview: the config has no section generate")
    records = _examples(run.generate.prompt.values.get("examples") or [])
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
        _panel(console, _chat(messages), f"prompt {prompt.name}")
    if ask:
        try:
            records = _answers(run, tasks, console)
        except MissingPackage as missing:
            console.print(f"the teacher is not asked: {missing}", markup=False)
    for record in records[:number]:
        _show_record(console, run, record)


def _tasks(run: Run, number: int) -> list[Task]:
    """Returns the first questions. Reads every source, as the split needs all of them."""
    from synth.tasks import load_tasks

    assert run.tasks is not None
    return load_tasks(run.tasks, run.seed).train[:number]


def _examples(examples: list[Any]) -> list[Record]:
    """Returns the worked examples of the prompt as records: there is always a trace to show."""
    records = []
    for index, example in enumerate(examples):
        if isinstance(example, dict) and {"question", "answer"} <= set(example):
            task = Task(f"example-{index}", str(example["question"]), source="worked examples")
            reasoning = example.get("reasoning")
            records.append(Record(task.id, task, [], reasoning, str(example["answer"])))
    return records


def _answers(run: Run, tasks: list[Task], console: Console) -> list[Record]:
    """Returns one answer a question, with the verdicts of the trace filters."""
    import asyncio

    from synth.config.generate import Samples
    from synth.generate.runner import generate
    from synth.generate.stats import GenerationStats
    from synth.stages.build_filters import FilterSet
    from synth.stages.build_teachers import failed_lines
    from synth.stages.generate import generation_spec
    from synth.store.responses import ResponseStore

    records: list[Record] = []
    filters = FilterSet.from_config(run)
    with filters.chain("trace") as chain, ResponseStore(run.store_path) as store:
        spec = generation_spec(run, filters, chain.check_trace)
        spec.samples, spec.vote = Samples(max=1), None
        for teacher in spec.teachers.values():
            teacher.disable_batching()  # three answers are not worth a day's wait for a batch
        stats = GenerationStats(questions_total=len(tasks))
        asyncio.run(generate(spec, store, tasks, lambda _, answers: records.extend(answers), stats))
    failed = [f"no answer to {line}" for line in failed_lines(stats)]
    if tasks and not records:
        raise UserError("\n".join(failed) or "no answer came")
    for line in failed:
        console.print(line, markup=False)
    return records


def _chat(messages: list[Message]) -> Text:
    text = Text()
    for index, message in enumerate(messages):
        text.append(("\n\n" if index else "") + message["role"], style="bold cyan")
        text.append("\n" + message["content"])
    return text


def _panel(console: Console, text: Text, title: str) -> None:
    console.print(Panel(text, title=Text(title, style="bold"), title_align="left"))


def _show_record(console: Console, run: Run, record: Record) -> None:
    trace = Text()
    if record.reasoning is not None:
        trace.append("reasoning\n", style="bold cyan")
        trace.append(record.reasoning + "\n\n", style="dim")
    trace.append("answer\n", style="bold cyan").append(record.answer)
    for verdict in record.verdicts:
        mark = ("\nkeep ", "green") if verdict.keep else ("\ntag ", "yellow")
        mark = ("\ndrop ", "red") if verdict.drops else mark
        trace.append(*mark).append(f"{verdict.filter} {verdict.reason}")
    _panel(console, trace, f"trace {record.id}")
    if run.student is None:
        return
    from sft.data.encoding import preview_spans
    from synth.stages.build_student import StudentSetup

    messages = StudentSetup(run.student).messages(record.task)
    student = run.student.model_copy(update={"model": run.student_origin})
    colours, mask = console.is_terminal, Text()
    for text, has_loss in preview_spans(student, messages, record.reasoning, record.answer):
        if colours:
            mask.append(text, style="black on green" if has_loss else "dim")
        else:
            mask.append(f"[[{text}]]" if has_loss else text)
    learnt = "green" if colours else "between [[ and ]]"
    _panel(console, mask, f"training text; the student learns what is {learnt}")
