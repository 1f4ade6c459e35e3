"""The stage `generate`: asks the teachers and writes every trace that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from synth.config.generate import Generate
from synth.config.run import Run, questions_of
from synth.core.dataset import read_split, writing
from synth.core.errors import Unfinished, UserError
from synth.core.prompts import load_prompt
from synth.core.record import Record, Task
from synth.stages.build_filters import FilterSet
from synth.stages.build_student import student_counter
from synth.stages.build_teachers import (
    ask_all,
    build_teachers,
    estimated_of,
    failed_lines,
    open_store,
    single_prompt_spec,
    teacher_names,
    teacher_options,
    top_reasons,
)
from synth.stages.context import Say, StageContext

if TYPE_CHECKING:
    from filters.engine.chain import Chain
    from synth.core.logprobs import TopLogprobs
    from synth.generate.spec import GenerationSpec, VoteResult
    from synth.generate.stats import GenerationStats
    from synth.store.responses import ResponseStore


_ALARM_SHARE = 0.5  # of the questions, without a reference answer


def generate_inputs(section: Generate, context: StageContext) -> dict[str, Any]:
    """Returns questions, prompt, sampling, teachers, and the filters on which sampling stops."""
    run = context.run
    shares = {name: [opts.weight, opts.samples] for name, opts in teacher_options(run).items()}
    stops_on = context.filters.at("trace").options if section.samples.until_verified else []
    return {
        "tasks": context.folder.content(questions_of(run)),
        "generate": section.decisive(),
        "prompt": load_prompt(section.prompt.template).hash,
        "teachers": {name: teacher.identity for name, teacher in build_teachers(run).items()},
        "shares": shares if section.route in ("weights", "cascade") else None,
        "stops_on": stops_on,
    }


def generate_traces(
    section: Generate, context: StageContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Asks the teachers and writes every trace, good or bad, and what became of each question.

    Where a cap or the last teacher's end stops it, what came so far is written all the same.
    """
    from synth.core.logprobs import LabelWriter
    from synth.generate.question_stats import QuestionWriter
    from synth.generate.stats import GenerationStats
    from synth.teachers import default_lines

    run, folder, say = context.run, context.folder, context.say
    for line in default_lines(teacher_options(run)):
        say(f"  {line}")
    stats = GenerationStats(questions_total=folder.need(questions_of(run))["rows"]["train"])
    names = ("train", "cut") if section.truncation.policy == "drop" else ("train",)
    stopped: Unfinished | None = None
    with (
        context.filters.chain("trace") as chain,
        writing(context.path, names) as (splits, manifest),
    ):
        check_references(run, chain, _questions(context), say)
        partial = folder.stage("generate.partial")
        labels, questions = LabelWriter(partial / "labels"), QuestionWriter(partial)
        with open_store(run) as store:

            def emit(task: Task, records: list[Record]) -> None:
                questions.write(task, records)
                for record in records:
                    cut = any(verdict.filter == "truncation" for verdict in record.verdicts)
                    record.verdicts = []  # the filter stage has the last word
                    splits["cut" if cut else "train"].write(record)
                    if section.sampling.top_logprobs:
                        labels.write(record.id, _logprobs(record, store))

            spec = generation_spec(run, context.filters, chain.check_trace)
            try:
                ask_all(run, spec, _questions(context), emit, stats, "generate", store)
            except Unfinished as error:
                stopped = error
        labels.close()
        questions.close()
        complete = not stats.failed and stopped is None
        manifest |= {"inputs": inputs, "counts": stats.to_dict(), "complete": complete}
        if stopped is not None:
            manifest["stopped"] = str(stopped)
    _say_teachers(stats, say)
    rows = manifest["rows"]["train"]
    if stopped is not None:
        so_far = f"{rows:,} traces so far are in {context.path}; " if rows else ""
        raise Unfinished(f"{stopped}\n{so_far}a rerun goes on from here")
    if not rows:
        raise UserError(
            "\n".join([f"no answer came: {top_reasons(stats.failed)}", *failed_lines(stats)])
        )
    if stats.failed:
        say(f"  failed for good: {top_reasons(stats.failed)}; a rerun asks these again")
        for line in failed_lines(stats):
            say(f"    {line}")
    return manifest


def _questions(context: StageContext) -> Iterator[Task]:
    """Yields the questions that are answered."""
    folder = context.folder.stage(questions_of(context.run))
    return (record.task for record in read_split(folder, "train"))


def check_references(run: Run, chain: Chain, tasks: Iterable[Task], say: Say) -> None:
    """Says how many questions have nothing that their verifier could compare an answer with.

    Every answer to them would be paid for and dropped. Raises UserError where they are half of all
    or more, unless `generate.alarm` only warns.
    """
    from filters.engine.references import cannot_pass

    assert run.generate is not None
    if (
        run.generate.alarm_action == "off" or run.generate.vote is not None
    ):  # a vote gives the references
        return
    without, total, first = 0, 0, None
    for task in tasks:
        total += 1
        if found := cannot_pass(chain.checks, task):
            without += 1
            first = first or (task, *found)
    if first is None:
        return
    task, verifier, why = first
    text = (
        f"{without:,} of {total:,} questions can never pass the filter {verifier} ({why}), the "
        f"first is {task.id}: every answer to them would be dropped"
    )
    if run.generate.alarm_action == "warn" or without < _ALARM_SHARE * total:
        say(f"  warning: {text}")
        return
    raise UserError(
        f"{text}. Name the column of the reference answers in the task source (answer:), let "
        f"agreement give them (generate.vote), set cannot_tell: tag for {verifier} or take it out; "
        "generate.alarm: warn goes on"
    )


def _say_teachers(stats: GenerationStats, say: Say) -> None:
    """Says what was set aside, who was given up, and which teachers are several models."""
    if stats.set_aside:
        number, reasons = stats.set_aside.total(), top_reasons(stats.set_aside)
        say(f"  {number} stored responses hold no answer ({reasons}): set aside, and asked again")
    if stats.estimated:
        say(
            f"  {stats.estimated} of {stats.bought} answers came without a count of their tokens: "
            f"about {estimated_of(stats)}, estimated from the length of the texts"
        )
    if stats.odd_usage:
        say(f"  figures of usage that cannot be were set aside: {top_reasons(stats.odd_usage)}")
    if stats.no_answers:
        say(
            f"  {stats.no_answers} responses that were paid for hold no answer; they count as spent"
        )
    for name, reason in stats.out.items():
        say(f"  teacher {name} was given up: {reason}")
    for name in stats.by_teacher:
        models = [model for model in stats.models if model.startswith(f"{name}: ")]
        if len(models) > 1:
            say(f"  teacher {name} answered as {len(models)} models: {', '.join(models[:5])}")


def _logprobs(record: Record, store: ResponseStore) -> TopLogprobs:
    """Returns the logprobs of an answer, joined where it came in several responses."""
    from synth.core.logprobs import joined, unpack

    assert record.generation is not None
    keys = [*record.generation.earlier_keys, record.generation.key]
    return joined([unpack(packed) for key in keys if (packed := store.labels(key)) is not None])


def generation_spec(
    run: Run, filters: FilterSet, check: Callable[[Record], list[Any]]
) -> GenerationSpec:
    """Returns the generation that the config describes.

    `check` gives the verdicts of the trace filters on an answer as it arrives.
    """
    generate = run.generate
    assert generate is not None
    spec = single_prompt_spec(
        run,
        teacher_names(run),
        load_prompt(generate.prompt.template),
        generate.prompt.values,
        generate.sampling,
        check=check if filters.at("trace").filters else None,
    )
    return replace(
        spec,
        samples=generate.samples,
        route=generate.route,
        truncation=generate.truncation,
        alarm=generate.alarm_action,
        vote=_vote if generate.vote else None,
        agree=generate.vote.agree if generate.vote else 0,
        count_tokens=student_counter(run),
        check_threads=filters.check_threads,
    )


def _vote(answers: Sequence[str]) -> VoteResult | None:
    """Returns the final answer on which some answers agree, equal as mathematics."""
    from filters.answers.voting import agree
    from synth.generate.spec import VoteResult

    vote = agree(answers)
    return None if vote is None else VoteResult(vote.answer, vote.votes, vote.total)
