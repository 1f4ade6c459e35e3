"""The stage `evaluate`: the student before and after, and the teacher, on the same questions.

All of them are asked through the generation's own machinery, so an evaluation that was killed goes
on where it was, and every answer is kept. How the figures are made is in docs/evaluation.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from synth.config.evaluate import Evaluate
from synth.config.generate import Samples
from synth.config.plugin_entries import resolved, split_plugin
from synth.core.dataset import SplitWriter, writing
from synth.core.errors import UserError
from synth.core.models import weights_identity
from synth.core.progress import Clock
from synth.core.prompts import Prompt, load_prompt
from synth.core.record import Record, Task
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.stages._evaluate.benchmarks import FIGURES, benchmark_files, load_benchmarks
from synth.stages._evaluate.models import chain_manifests, participants
from synth.stages.build_filters import eval_tasks, verifier_chain, verifier_code
from synth.stages.build_teachers import ask_all, build_teachers, prices_of
from synth.stages.context import StageContext
from synth.stages.tasks import unanswered
from synth.teachers.base import TeacherConfig

if TYPE_CHECKING:
    from sft.evaluation.scores import Reader, Scores


def evaluate_inputs(section: Evaluate, context: StageContext) -> dict[str, Any]:
    """Returns all that the evaluation's figures depend on."""
    run, folder, student = context.run, context.folder, context.student
    after = folder.manifest("train")
    kind, options = section.engine_for("student")
    indecisive = {"batch_size", "model", "chat_template"} | TeacherConfig.shared()
    teachers, templates = {}, [student.prompt.template]
    if section.teacher and run.generate:
        teachers = build_teachers(run)
        templates.append(run.generate.prompt.template)
    chain = chain_manifests(section, context)
    return {
        "version": FIGURES,
        "questions": folder.content("tasks"),
        "evaluate": section.model_dump(mode="json", exclude={"batch_size", "engine"}),
        "engine": {"kind": kind, **options.model_dump(mode="json", exclude=indecisive)},
        "verifier": {**resolved("filter", section.verifier), **verifier_code(section.verifier)},
        "student": student.model_dump(mode="json"),
        "before": weights_identity(context.student_setup.student.model),
        "after": after["content"] if after else None,
        "chain": {name: manifest["content"] for name, manifest in chain.items()},
        "teachers": {name: teacher.identity for name, teacher in teachers.items()},
        "teacher_prompt": run.generate.prompt.model_dump() if run.generate else None,
        "prompts": [load_prompt(name).hash for name in templates],
        "benchmarks": benchmark_files(section),
    }


def evaluate(section: Evaluate, context: StageContext, inputs: dict[str, Any]) -> dict[str, Any]:
    """Asks everyone, verifies, and writes every answer and the figures."""
    from filters.engine.funnel import difficulty_of
    from sft.evaluation import scores

    run = context.run
    run_benchmarks = load_benchmarks(section)
    tasks = eval_tasks(context.folder)[: section.limit]
    groups = {
        "difficulty": [difficulty_of(unanswered(task)) for task in tasks],
        "source": [task.source for task in tasks],
    }
    everyone = participants(section, context)
    results: dict[str, Any] = {}
    complete = True
    with (
        verifier_chain(section.verifier) as chain,
        writing(context.path, everyone) as (splits, manifest),
    ):
        for who, participant in everyone.items():
            stats = GenerationStats(questions_total=len(tasks))
            prompt = load_prompt(participant.prompt)
            counter = scores.Scores(tasks, reader(prompt, participant.values))
            spec = GenerationSpec(
                teachers=participant.teachers,
                prices=prices_of(run, participant.teachers) if who == "teacher" else {},
                prompt=prompt,
                values=participant.values,
                sampling=section.sampling,
                samples=Samples(max=section.samples * len(participant.teachers)),
                check=chain.check_trace,
                **participant.options,
            )
            clock = Clock()
            take = functools.partial(_take, counter, splits[who])
            ask_all(run, spec, tasks, take, stats, f"evaluate {participant.title}")
            complete = complete and not stats.failed
            results[who] = {
                "title": participant.title,
                "prompt": participant.prompt,
                "seconds": clock.seconds,
                "bought": stats.bought,
                **counter.figures(groups, subset_sizes(section), section.majority),
            }
            if (weights := participant.weights) is not None and run_benchmarks is not None:
                results[who]["lm_eval"] = run_benchmarks(context, who, participant.title, weights)
        manifest |= {
            "inputs": inputs,
            "complete": complete,
            "questions": len(tasks),
            "asked": {"ids": [task.id for task in tasks], **groups},
            "samples": section.samples,
            "sampling": section.sampling.parameters(0),
            "verifier": split_plugin("filter", section.verifier)[0],
            "results": results,
            "difference": scores.difference(results),
            "gap_closed": scores.gap(results),
        }
    return manifest


def _take(counter: Scores, writer: SplitWriter, _: Task, records: list[Record]) -> None:
    from filters.base import NO_SANDBOX

    for record in records:
        if any(verdict.reason == NO_SANDBOX for verdict in record.verdicts):
            raise UserError(
                f"evaluate.verifier: {record.task.id} is code, and there is no sandbox to run it "
                "in; `distill doctor` says how to get one. The answers so far are in the store"
            )
        writer.write(record)
    counter.take(records)


def subset_sizes(section: Evaluate) -> list[int]:
    """Returns the k of pass@k and majority@k; by default powers of two up to the samples."""
    samples = section.samples
    powers = {2**power for power in range(samples.bit_length())} | {samples}
    return sorted({1, *(k for k in section.k or powers if k <= samples)})


def reader(prompt: Prompt, values: Mapping[str, Any]) -> Reader:
    """Returns how the answers to a prompt are read: by the filters' own rules.

    Whether one is in form is what `think_format` says of the form that the prompt asks for: what
    its text and the config's values name, a box and a think block. What the question says does not
    count.
    """
    from filters.answers.boxed import final_answer
    from filters.answers.voting import tally_weighted
    from filters.base import Context
    from filters.think_format import Config, build
    from sft.evaluation.scores import Reader

    wanted = prompt.body + str(dict(values))
    form = "boxed" if "\\boxed" in wanted else "text"
    config = Config.model_validate({"require_reasoning": "<think>" in wanted, "final_answer": form})
    check: Any = build(config, Context())
    return Reader(lambda record: check(record).keep is True, final_answer, tally_weighted)
