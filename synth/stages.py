"""The stages of a run, each a function from the folder's state to new files and a manifest.

Here the data's way, the filters and the student meet. Heavy libraries are imported inside the
stage that uses them. For each stage, `X_inputs` gives all that its result depends on.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from synth import plugins
from synth.config import (
    Run,
    plugin_config,
    plugin_entries,
    questions_of,
    split_plugin,
    traces_of,
)
from synth.errors import Unfinished, UserError
from synth.folder import Folder
from synth.io import MANIFEST, read_split, write_json, writing
from synth.progress import Clock, shown
from synth.prompts import load_prompt
from synth.record import Message, Record, Task
from synth.run_teachers import (
    ask_all,
    asker,
    build_teacher,
    build_teachers,
    open_store,
    prices_of,
    reasons,
    teacher_options,
)

if TYPE_CHECKING:
    from filters.chain import Chain, FilterSpec
    from synth.ask import Agreed, Ask
    from synth.labels import Labels
    from synth.store import Store
    from synth.teachers.contract import Teacher

Say = Callable[[str], None]


# --- tasks ----------------------------------------------------------------------------------------


def tasks_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Sources, split, local files and question filters."""
    entries = plugin_entries(run.model_dump())
    files = {}
    for kind, _, entry in entries:
        if kind == "task source" and isinstance(path := entry.get("path"), str):
            stat = Path(path).stat()
            files[path] = [stat.st_size, stat.st_mtime_ns]
    return {
        "tasks": run.tasks.model_dump(),
        "seed": run.seed,
        "files": files,
        "filters": _filters_at(run, "question"),
    }


def make_tasks(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Reads and splits the questions; those that no filter would keep are never asked."""
    from synth.tasks.load import load_tasks

    sets = load_tasks(run.tasks, run.seed)
    by_reason: dict[str, list[str]] = {}
    for skipped in sets.skipped:
        by_reason.setdefault(skipped.reason, []).append(skipped.place)
    for reason, places in list(by_reason.items())[:8]:
        say(f"  skipped {len(places)} rows, the first {places[0]}: {reason}")
    with (
        build_chain_of(run, sets.eval, levels={"question"}) as chain,
        writing(folder.stage("tasks"), ("train", "eval", "rejected")) as (splits, manifest),
    ):
        for task in sets.eval:
            splits["eval"].write(_unasked(task))
        for task in sets.train:
            record = _unasked(task)
            record.verdicts = chain.check_question(task)
            splits["train" if record.rejected_by is None else "rejected"].write(record)
        manifest |= {
            "inputs": inputs,
            "skipped": [{"place": s.place, "reason": s.reason} for s in sets.skipped],
        }
    rows = manifest["rows"]
    say(
        f"  {rows['train']} questions to train on, {rows['eval']} kept back for the evaluation, "
        f"{rows['rejected']} rejected, {len(sets.skipped)} rows skipped"
    )
    return manifest


def _unasked(task: Task) -> Record:
    return Record(id=task.id, task=task, messages=[], reasoning=None, answer="")


def _questions(folder: Folder, split: str) -> list[Task]:
    return [record.task for record in read_split(folder.stage("tasks"), split)]


# --- generate -------------------------------------------------------------------------------------


def generate_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Questions, prompt, sampling, teachers, and the filters on which sampling stops."""
    assert run.generate is not None
    stops_on = _filters_at(run, "trace") if run.generate.samples.until_verified else []
    options = teacher_options(run)
    shares = {name: [own.weight, own.samples] for name, own in options.items()}
    return {
        "tasks": folder.content(questions_of(run)),
        "generate": run.generate.decisive(),
        "prompt": load_prompt(run.generate.prompt.template).hash,
        "teachers": {name: teacher.identity for name, teacher in build_teachers(run).items()},
        "shares": shares if run.generate.route in ("weights", "cascade") else None,
        "stops_on": stops_on,
    }


def generate_traces(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Asks the teachers and writes every trace, good or bad, and what became of each question.

    Where a cap or the last teacher's end stops it, what came so far is written all the same.
    """
    from synth.counts import Counts
    from synth.labels import LabelWriter
    from synth.prices import default_lines
    from synth.questions import QuestionWriter

    assert run.generate is not None
    for line in default_lines(teacher_options(run)):
        say(f"  {line}")
    asked = questions_of(run)
    questions = read_split(folder.stage(asked), "train")
    counts = Counts(questions_total=folder.need(asked)["rows"]["train"])
    drop = run.generate.truncation.policy == "drop"
    stopped: Unfinished | None = None
    with (
        build_chain_of(run, [], levels={"trace"}) as chain,
        writing(folder.stage("generate"), ("train", *(("cut",) if drop else ()))) as (
            splits,
            manifest,
        ),
    ):
        partial = folder.stage("generate.partial")
        labels, outcomes = LabelWriter(partial / "labels"), QuestionWriter(partial)
        with open_store(run) as store:

            def emit(task: Task, records: list[Record]) -> None:
                outcomes.write(task, records)
                for record in records:
                    cut = any(verdict.filter == "truncation" for verdict in record.verdicts)
                    record.verdicts = []  # the filter stage has the last word
                    splits["cut" if cut else "train"].write(record)
                    if run.generate and run.generate.sampling.top_logprobs:
                        labels.write(record.id, _labels_of(record, store))

            ask = build_ask(run, build_teachers(run), chain.check_trace)
            try:
                tasks = (record.task for record in questions)
                ask_all(run, ask, tasks, emit, counts, "generate", store)
            except Unfinished as error:
                stopped = error
        labels.close()
        outcomes.close()
        complete = not counts.failed and stopped is None
        manifest |= {"inputs": inputs, "counts": counts.to_dict(), "complete": complete}
        if stopped is not None:
            manifest["stopped"] = str(stopped)
    for name, why in counts.out.items():
        say(f"  teacher {name} was given up: {why}")
    for name in counts.by_teacher:
        said = [model for model in counts.models if model.startswith(f"{name}: ")]
        if len(said) > 1:
            say(f"  teacher {name} answered as {len(said)} models: {', '.join(said[:5])}")
    if stopped is not None:
        rows = manifest["rows"]["train"]
        have = f"{rows:,} traces so far are in {folder.stage('generate')}; " if rows else ""
        raise Unfinished(f"{stopped}\n{have}a rerun goes on from here")
    if not manifest["rows"]["train"]:
        raise UserError(f"no answer came: {reasons(counts.failed)}")
    if counts.failed:
        say(f"  failed for good: {reasons(counts.failed)}; a rerun asks these again")
    return manifest


def _labels_of(record: Record, store: Store) -> Labels:
    from synth.labels import joined, unpack

    assert record.generation is not None
    keys = [*record.generation.earlier_keys, record.generation.key]
    return joined([unpack(packed) for key in keys if (packed := store.labels(key)) is not None])


# --- filter ---------------------------------------------------------------------------------------


def filter_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Traces, filters with their options, and the questions that they must not touch."""
    return {
        "generate": folder.content(traces_of(run)),
        "judges": judges(run),
        "filters": [resolved("filter", entry) for entry in run.filters],
        "eval": folder.content("tasks"),
        "student": run.student.model if run.student and _needs_student(run) else None,
    }


def filter_traces(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Gives every trace its verdicts and parts the kept from the rejected."""
    from filters.chain import Funnel

    funnel = Funnel()
    total = folder.need(traces_of(run))["rows"]["train"]
    clock = Clock()

    def line() -> str:
        done, rate = funnel.total, funnel.total / clock.seconds
        left = clock.eta(done, total)
        return f"filter: {done}/{total} traces · kept {funnel.kept} · {rate:.0f}/s{left}"

    with (
        build_chain_of(run, _questions(folder, "eval")) as chain,
        writing(folder.stage("filter"), ("kept", "rejected")) as (splits, manifest),
        shown(line),
    ):
        traces = read_split(folder.stage(traces_of(run)), "train")
        for record in chain.apply(traces, check_threads(run)):
            funnel.add(record)
            splits["kept" if record.rejected_by is None else "rejected"].write(record)
        manifest |= {"inputs": inputs, "funnel": funnel.to_dict()}
    return manifest


def build_chain_of(run: Run, eval_tasks: list[Task], levels: set[str] | None = None) -> Chain:
    """The filters of the config (or those of some levels), with what they need handed to them."""
    from filters.chain import FilterSpec, build_chain
    from filters.contract import Context

    specs = []
    for entry in run.filters:
        name, options = split_plugin("filter", entry)
        if levels is None or _level(name) in levels:
            specs.append(FilterSpec(name, options))
    context = Context(eval_tasks=eval_tasks, workers=workers())
    if judged := _judged(specs):
        context.ask = asker(run, sorted({teacher for _, teacher, _ in judged}))
    if _needs_student(run) and any(_uses_student(spec.name) for spec in specs):
        assert run.student is not None
        context.count_tokens = student_counter(run.student.model, run.student.trust_remote_code)
    return build_chain(specs, context)


def _judged(specs: Iterable[FilterSpec]) -> list[tuple[str, str, str]]:
    """Of the filters that ask a teacher: their name, the teacher's, and their template's."""
    made = [
        (spec.name, cast("Any", plugin_config("filter", {spec.name: spec.options})))
        for spec in specs
        if getattr(plugins.load("filter", spec.name), "ASKS_TEACHER", False)
    ]
    return [(name, str(config.teacher), str(config.template)) for name, config in made]


def judges(run: Run) -> list[Any]:
    """Who the filters ask, and under which prompt: another judge is another verdict."""
    from filters.chain import FilterSpec

    specs = [FilterSpec(*split_plugin("filter", entry)) for entry in run.filters]
    return [
        [name, build_teacher(run, teacher).identity, load_prompt(template).hash]
        for name, teacher, template in _judged(specs)
    ]


@functools.lru_cache(maxsize=2)
def student_counter(model: str, trust_remote_code: bool) -> Callable[[str], int]:
    """Counts the tokens of a text as the student will see them."""
    from synth.models import load_tokenizer

    tokenizer = load_tokenizer(model, trust_remote_code)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _needs_student(run: Run) -> bool:
    needs = [n for entry in run.filters if _uses_student(n := split_plugin("filter", entry)[0])]
    if needs and run.student is None:
        raise UserError(
            f"the filter {needs[0]} counts the student's tokens and needs the section student"
        )
    return bool(needs)


def _uses_student(name: str) -> bool:
    return bool(getattr(plugins.load("filter", name), "USES_STUDENT_TOKENS", False))


def _level(name: str) -> str:
    return str(getattr(plugins.load("filter", name), "LEVEL", "trace"))


def _filters_at(run: Run, level: str) -> list[Any]:
    names = [(split_plugin("filter", entry)[0], entry) for entry in run.filters]
    return [resolved("filter", entry) for name, entry in names if _level(name) == level]


def resolved(kind: str, entry: str | dict[str, Any]) -> Any:
    """A plug-in's entry with its defaults filled in: a changed default is a changed input."""
    name, _ = split_plugin(kind, entry)
    return {name: plugin_config(kind, entry).model_dump(mode="json")}


def workers() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- teachers -------------------------------------------------------------------------------------


def build_ask(run: Run, teachers: dict[str, Teacher], check: Callable[[Record], list[Any]]) -> Ask:
    """The generation that the config describes, checked by `check`."""
    from synth.ask import Ask

    assert run.generate is not None
    generate = run.generate
    return Ask(
        teachers=teachers,
        prices=prices_of(run, teachers),
        prompt=load_prompt(generate.prompt.template),
        values=generate.prompt.values,
        sampling=generate.sampling,
        samples=generate.samples,
        check=check if _filters_at(run, "trace") else None,
        concurrency=generate.concurrency,
        retries=generate.retries,
        options=teacher_options(run, teachers),
        route=generate.route,
        truncation=generate.truncation,
        vote=_vote() if generate.vote else None,
        agree=generate.vote.agree if generate.vote else 0,
        budget=run.budget,
        patience_s=generate.patience_s,
        count_tokens=counter_of(run),
        run=run.name,
        check_threads=check_threads(run),
    )


def _vote() -> Callable[[Sequence[str]], Agreed | None]:
    """Finds the final answer on which some answers agree, equal as mathematics."""
    from filters._agreement import agree
    from synth.ask import Agreed

    def vote(answers: Sequence[str]) -> Agreed | None:
        found = agree(answers)
        return None if found is None else Agreed(found.answer, found.votes, found.total)

    return vote


def counter_of(run: Run) -> Callable[[str], int] | None:
    """Counts the student's tokens, where a student is named whose tokenizer can be had."""
    if run.student is None or importlib.util.find_spec("transformers") is None:
        return None
    try:
        return student_counter(run.student.model, run.student.trust_remote_code)
    except UserError:  # a hub that cannot be reached: no filter has asked for it
        return None


def check_threads(run: Run) -> int:
    """How many records are checked at a time: more where a filter waits for a teacher."""
    names = [split_plugin("filter", entry)[0] for entry in run.filters]
    waits = any(getattr(plugins.load("filter", name), "ASKS_TEACHER", False) for name in names)
    return 64 if waits else 2 * workers()


# --- train ----------------------------------------------------------------------------------------


def train_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Kept traces, student, its prompt, and the settings of the training."""
    from synth.models import weights_identity

    assert run.student is not None
    assert run.train is not None
    return {
        "filter": folder.content("filter"),
        "student": run.student.model_dump(mode="json"),
        "weights": weights_identity(run.student.model),
        "prompt": load_prompt(run.student.prompt.template).hash,
        "train": run.train.model_dump(mode="json"),
        "seed": run.seed,
    }


def student_prompt(run: Run) -> Callable[[Task], list[Message]]:
    """What the student sees before it answers a task."""
    assert run.student is not None
    prompt, values = load_prompt(run.student.prompt.template), run.student.prompt.values
    return lambda task: prompt.messages(task, values)


def train_student(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Fine-tunes the student; a run that was stopped goes on from its last checkpoint."""
    import shutil

    from sft.train import train
    from synth.io import read_json
    from synth.record import digest

    assert run.student is not None
    assert run.train is not None
    place = folder.stage("train")
    if read_json(place / "inputs.json") != inputs:
        # Checkpoints of other data or settings are not ours to resume from.
        shutil.rmtree(place, ignore_errors=True)
        write_json(place / "inputs.json", inputs)
    (place / MANIFEST).unlink(missing_ok=True)
    latest: dict[str, Any] = {}
    clock = Clock()

    def line() -> str:
        if not latest:
            return "train: loading the student, checking the mask"
        step, steps = latest["step"], latest["max_steps"]
        return (
            f"train: step {step}/{steps} · loss {latest['loss']:.3f} · "
            f"{latest['tokens_per_second']:.0f} tokens/s{clock.eta(step, steps)}"
        )

    records = read_split(folder.stage("filter"), "kept")
    with shown(line):
        result = train(
            records, student_prompt(run), run.student, run.train, place, run.seed, latest.update
        )
    manifest = {"inputs": inputs, "content": digest(inputs), **_plain(result)}
    write_json(place / MANIFEST, manifest)
    return manifest


def _plain(result: Any) -> dict[str, Any]:
    """A result dataclass as JSON values."""
    from dataclasses import asdict

    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(result).items()}
