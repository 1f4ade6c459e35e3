"""The evaluation stage: the student before and after, and the teacher, on the same questions.

All of them are asked through the generation's own machinery, so an evaluation that was killed goes
on where it was, and every answer is kept. How the figures are made is in docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from synth.config.plugin_entries import resolved, split_plugin
from synth.config.run import Run
from synth.core.dataset import SplitWriter, read_split, writing
from synth.core.models import weights_identity
from synth.core.processes import workers
from synth.core.progress import Clock
from synth.core.prompts import Prompt, load_prompt
from synth.core.record import Record, Task
from synth.core.run_folder import Folder
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.stages._evaluate.benchmarks import FIGURES, _benchmark_files, _benchmarks
from synth.stages._evaluate.models import _Asked, _chain, _everyone
from synth.stages.build_student import model_path
from synth.stages.build_teachers import ask_all, build_teachers, prices_of
from synth.stages.generate import Say
from synth.teachers.base import TeacherConfig

if TYPE_CHECKING:
    from sft.evaluation.scores import Reader, Scores


# --- what it depends on ---------------------------------------------------------------------------


def evaluate_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """All that the evaluation's figures depend on."""
    assert run.evaluate is not None
    assert run.student is not None
    after = folder.manifest("train")
    teachers, templates = {}, [run.student.prompt.template]
    if run.evaluate.teacher and run.generate:
        teachers = build_teachers(run)
        templates.append(run.generate.prompt.template)
    return {
        "version": FIGURES,
        "questions": folder.content("tasks"),
        "evaluate": run.evaluate.model_dump(mode="json", exclude={"batch_size", "engine"}),
        "engine": _decisive(run),
        "verifier": resolved("filter", run.evaluate.verifier),
        "student": run.student.model_dump(mode="json"),
        "before": weights_identity(model_path(run, run.student.model)),
        "after": after["content"] if after else None,
        "chain": {name: manifest["content"] for name, manifest in _chain(run, folder).items()},
        "teachers": {name: teacher.identity for name, teacher in teachers.items()},
        "teacher_prompt": run.generate.prompt.model_dump() if run.generate else None,
        "prompts": [load_prompt(name).hash for name in templates],
        "benchmarks": _benchmark_files(run),
    }


def _decisive(run: Run) -> dict[str, Any]:
    """The engine and those of its options that can change an answer."""
    assert run.evaluate is not None
    kind, options = run.evaluate.engine_for("student")
    without = {"batch_size", "model", "chat_template"} | TeacherConfig.shared()
    return {"kind": kind, **options.model_dump(mode="json", exclude=without)}


# --- the stage ------------------------------------------------------------------------------------


def evaluate(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Asks everyone, verifies, and writes every answer and the figures."""
    from filters.base import Context
    from filters.engine.chain import build_chain
    from filters.engine.filter import FilterSpec
    from filters.engine.funnel import difficulty_of
    from sft.evaluation import scores

    assert run.evaluate is not None
    benchmarks = _benchmarks(run)
    tasks = [record.task for record in read_split(folder.stage("tasks"), "eval")]
    tasks = tasks[: run.evaluate.limit]
    sorts = {
        "difficulty": [difficulty_of(Record("", task, [], None, "")) for task in tasks],
        "source": [task.source for task in tasks],
    }
    asked = _everyone(run, folder)
    verifier = FilterSpec(*split_plugin("filter", run.evaluate.verifier))
    results: dict[str, Any] = {}
    complete = True
    with (
        build_chain([verifier], Context(workers=workers())) as chain,
        writing(folder.stage("evaluate"), asked) as (splits, manifest),
    ):
        for who, one in asked.items():
            counts = GenerationStats(questions_total=len(tasks))
            prompt = load_prompt(one.prompt)
            counted = scores.Scores(tasks, reader(prompt, one.values))
            ask = GenerationSpec(
                teachers=one.teachers,
                prices=prices_of(run, one.teachers) if who == "teacher" else {},
                prompt=prompt,
                values=one.values,
                sampling=run.evaluate.sampling,
                samples=_samples(run, one),
                check=chain.check_trace,
                **one.how,
            )
            clock = Clock()
            take = _taking(counted, splits[who])
            ask_all(run, ask, tasks, take, counts, f"evaluate {one.title}")
            complete = complete and not counts.failed
            results[who] = {
                "title": one.title,
                "prompt": one.prompt,
                "seconds": clock.seconds,
                "bought": counts.bought,
                **counted.figures(sorts, _subset_sizes(run), run.evaluate.majority),
            }
            if one.weights is not None and benchmarks is not None:
                results[who]["lm_eval"] = benchmarks(folder, who, one, say)
        manifest |= {
            "inputs": inputs,
            "complete": complete,
            "questions": len(tasks),
            "asked": {"ids": [task.id for task in tasks], **sorts},
            "samples": run.evaluate.samples,
            "sampling": run.evaluate.sampling.parameters(0),
            "verifier": verifier.name,
            "results": results,
            "difference": scores.difference(results),
            "gap_closed": scores.gap(results),
        }
    return manifest


def _taking(counted: Scores, writer: SplitWriter) -> Callable[[Task, list[Record]], None]:
    def take(_: Task, records: list[Record]) -> None:
        counted.take(records)
        for record in records:
            writer.write(record)

    return take


def _samples(run: Run, one: _Asked) -> Any:
    from synth.config.generate import Samples

    assert run.evaluate is not None
    return Samples(max=run.evaluate.samples * len(one.teachers))


def _subset_sizes(run: Run) -> list[int]:
    """The k of pass@k and majority@k: the config's, else the powers of two up to the samples."""
    assert run.evaluate is not None
    samples = run.evaluate.samples
    powers = {2**power for power in range(samples.bit_length())} | {samples}
    return sorted({1, *(k for k in run.evaluate.k or powers if k <= samples)})


def reader(prompt: Prompt, values: Mapping[str, Any]) -> Reader:
    """How the answers to a prompt are read: by the filters' own rules.

    Whether one is in form is what `think_format` says of the form that the prompt asks for: what
    its text and the config's values name, a box and a think block. What the question says does not
    count.
    """
    from filters.answers.voting import final_answer, tally_weighted
    from filters.base import Context
    from filters.think_format import Config, build
    from sft.evaluation.scores import Reader

    asked = prompt.source.split("\n", prompt.body_line - 1)[-1] + str(dict(values))
    final = "boxed" if "\\boxed" in asked else "text"
    config = Config.model_validate({"require_reasoning": "<think>" in asked, "final_answer": final})
    check: Any = build(config, Context())
    return Reader(lambda record: check(record).keep is True, final_answer, tally_weighted)


# --- who is evaluated -----------------------------------------------------------------------------


# --- benchmarks -----------------------------------------------------------------------------------


# --- two runs -------------------------------------------------------------------------------------
