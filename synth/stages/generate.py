"""The stages of a run, each a function from the folder's state to new files and a manifest.

Here the data's way, the filters and the student meet. Heavy libraries are imported inside the
stage that uses them. For each stage, `X_inputs` gives all that its result depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from synth.config.run import Run, questions_of
from synth.core.dataset import read_split, writing
from synth.core.errors import Unfinished, UserError
from synth.core.prompts import load_prompt
from synth.core.record import Record, Task
from synth.core.run_folder import Folder
from synth.stages.build_filters import build_chain_of, check_threads, counter_of, filters_at
from synth.stages.build_teachers import (
    ask_all,
    build_teachers,
    open_store,
    prices_of,
    reasons,
    teacher_options,
)

if TYPE_CHECKING:
    from synth.core.logprobs import TopLogprobs
    from synth.generate.spec import GenerationSpec, VoteResult
    from synth.store.responses import Store
    from synth.teachers.base import Teacher

Say = Callable[[str], None]


# --- tasks ----------------------------------------------------------------------------------------


def _questions(folder: Folder, split: str) -> list[Task]:
    return [record.task for record in read_split(folder.stage("tasks"), split)]


# --- generate -------------------------------------------------------------------------------------


def generate_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Questions, prompt, sampling, teachers, and the filters on which sampling stops."""
    assert run.generate is not None
    stops_on = filters_at(run, {"trace"}) if run.generate.samples.until_verified else []
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
    from synth.core.logprobs import LabelWriter
    from synth.generate.question_stats import QuestionWriter
    from synth.generate.stats import GenerationStats
    from synth.teachers._pricing import default_lines

    assert run.generate is not None
    for line in default_lines(teacher_options(run)):
        say(f"  {line}")
    asked = questions_of(run)
    questions = read_split(folder.stage(asked), "train")
    counts = GenerationStats(questions_total=folder.need(asked)["rows"]["train"])
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


def _labels_of(record: Record, store: Store) -> TopLogprobs:
    from synth.core.logprobs import joined, unpack

    assert record.generation is not None
    keys = [*record.generation.earlier_keys, record.generation.key]
    return joined([unpack(packed) for key in keys if (packed := store.labels(key)) is not None])


# --- teachers -------------------------------------------------------------------------------------


def build_ask(
    run: Run, teachers: dict[str, Teacher], check: Callable[[Record], list[Any]]
) -> GenerationSpec:
    """The generation that the config describes, checked by `check`."""
    from synth.generate.spec import GenerationSpec

    assert run.generate is not None
    generate = run.generate
    return GenerationSpec(
        teachers=teachers,
        prices=prices_of(run, teachers),
        prompt=load_prompt(generate.prompt.template),
        values=generate.prompt.values,
        sampling=generate.sampling,
        samples=generate.samples,
        check=check if filters_at(run, {"trace"}) else None,
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


def _vote() -> Callable[[Sequence[str]], VoteResult | None]:
    """Finds the final answer on which some answers agree, equal as mathematics."""
    from filters.answers.voting import agree
    from synth.generate.spec import VoteResult

    def vote(answers: Sequence[str]) -> VoteResult | None:
        found = agree(answers)
        return None if found is None else VoteResult(found.answer, found.votes, found.total)

    return vote
