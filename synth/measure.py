"""The evaluation stage: the student before and after, and the teacher, on the same questions.

All of them are asked through the generation's own machinery, so an evaluation that was killed goes
on where it was, and every answer is kept.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from synth.ask import Ask
from synth.config import Run, split_plugin
from synth.counts import Counts
from synth.filtering import resolved, workers
from synth.folder import Folder
from synth.io import SplitWriter, read_split, writing
from synth.models import weights_identity
from synth.progress import Clock
from synth.prompts import load_prompt
from synth.record import Record, Task
from synth.run_teachers import ask_all, build_teachers, prices_of, teacher_options
from synth.stages import Say
from synth.teachers.contract import Teacher


@dataclass(frozen=True)
class _Asked:
    """Someone who is evaluated: under which prompt, and as which model."""

    title: str
    teachers: dict[str, Teacher]
    prompt: str
    values: dict[str, Any]


def evaluate_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """All that the evaluation's figures depend on."""
    assert run.evaluate is not None
    assert run.student is not None
    trained = folder.manifest("train")
    teachers = build_teachers(run) if run.evaluate.teacher and run.generate else {}
    return {
        "questions": folder.content("tasks"),
        "evaluate": run.evaluate.model_dump(mode="json", exclude={"batch_size"}),
        "verifier": resolved("filter", run.evaluate.verifier),
        "student": run.student.model_dump(mode="json"),
        "before": weights_identity(run.student.model),
        "after": trained["content"] if trained else None,
        "teachers": {name: teacher.identity for name, teacher in teachers.items()},
        "teacher_prompt": run.generate.prompt.model_dump() if run.generate else None,
    }


def evaluate(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Asks everyone, verifies, and writes every answer and the figures."""
    from filters.chain import FilterSpec, build_chain
    from filters.contract import Context

    assert run.evaluate is not None
    tasks = [record.task for record in read_split(folder.stage("tasks"), "eval")]
    tasks = tasks[: run.evaluate.limit]
    asked = _everyone(run, folder)
    verifier = FilterSpec(*split_plugin("filter", run.evaluate.verifier))
    results: dict[str, Any] = {}
    complete = True
    with (
        build_chain([verifier], Context(workers=workers())) as chain,
        writing(folder.stage("evaluate"), asked) as (splits, manifest),
    ):
        for who, one in asked.items():
            counts = Counts(questions_total=len(tasks))
            scores = _Scores(tasks)
            ask = Ask(
                teachers=one.teachers,
                prices=prices_of(run, one.teachers) if who == "teacher" else {},
                prompt=load_prompt(one.prompt),
                values=one.values,
                sampling=run.evaluate.sampling,
                samples=_samples(run, one),
                check=chain.check_trace,
                concurrency=_concurrency(run, who),
                **(_limits(run, one) if who == "teacher" else {}),
            )
            clock = Clock()
            ask_all(
                run,
                ask,
                tasks,
                lambda _, records, s=scores, w=splits[who]: s.take(records, w),  # type: ignore[misc]
                counts,
                f"evaluate {one.title}",
            )
            complete = complete and not counts.failed
            results[who] = {
                "title": one.title,
                "prompt": one.prompt,
                "seconds": clock.seconds,
                "bought": counts.bought,
                **scores.figures(),
            }
        manifest |= {
            "inputs": inputs,
            "complete": complete,
            "questions": len(tasks),
            "samples": run.evaluate.samples,
            "sampling": run.evaluate.sampling.parameters(0),
            "verifier": verifier.name,
            "results": results,
            "difference": _difference(results, run.evaluate.samples),
        }
    return manifest


def _everyone(run: Run, folder: Folder) -> dict[str, _Asked]:
    """Who is evaluated: the student before; after, where it was trained; the teachers."""
    assert run.student is not None
    assert run.evaluate is not None
    prompt, values = run.student.prompt.template, run.student.prompt.values
    everyone = {
        "before": _Asked("student before", {"student": _student(run, None)}, prompt, values)
    }
    if trained := folder.manifest("train"):
        student = _student(run, str(folder.stage("train") / trained["student"]))
        everyone["after"] = _Asked("student after", {"student": student}, prompt, values)
    if run.evaluate.teacher and run.generate is not None:
        everyone["teacher"] = _Asked(
            "teacher",
            build_teachers(run),
            run.generate.prompt.template,
            run.generate.prompt.values,
        )
    return everyone


def _student(run: Run, trained: str | None) -> Teacher:
    """The student as an embedded teacher.

    Before training it is asked through the chat template that it will be trained with, so that
    training is the only difference.
    """
    from sft.chat import choose
    from synth.models import load_tokenizer
    from synth.teachers import transformers

    assert run.student is not None
    assert run.evaluate is not None
    student = run.student
    template = None
    if trained is None:
        tokenizer = load_tokenizer(student.model, student.trust_remote_code)
        template = choose(tokenizer, student.chat_template)
    config = transformers.Config(
        model=trained or student.model,
        dtype=student.dtype,
        batch_size=run.evaluate.batch_size,
        trust_remote_code=student.trust_remote_code,
        chat_template=template,
    )
    teacher: Teacher = transformers.build(config, "student")
    return teacher


def _samples(run: Run, one: _Asked) -> Any:
    from synth.generate_config import Samples

    assert run.evaluate is not None
    return Samples(max=run.evaluate.samples * len(one.teachers))


def _limits(run: Run, one: _Asked) -> dict[str, Any]:
    """What holds for the teachers in the evaluation as in the generation: it is the same money."""
    assert run.generate is not None
    return {
        "options": teacher_options(run, one.teachers),
        "budget": run.budget,
        "patience_s": run.generate.patience_s,
        "run": run.name,
    }


def _concurrency(run: Run, who: str) -> int:
    assert run.evaluate is not None
    if who == "teacher" and run.generate is not None:
        return run.generate.concurrency
    return 2 * run.evaluate.batch_size


class _Scores:
    """Right or wrong, question by question; a question that got no answer counts as wrong."""

    def __init__(self, tasks: list[Task]) -> None:
        self.right: dict[str, list[float]] = {task.id: [] for task in tasks}
        self.finish: dict[str, int] = defaultdict(int)
        self.reasons: dict[str, int] = defaultdict(int)
        self.tokens: list[int] = []
        self.costs: list[float | None] = []

    def take(self, records: list[Record], writer: SplitWriter) -> None:
        """Counts the answers to one question and keeps them."""
        for record in records:
            writer.write(record)
            rejected = record.rejected_by
            self.right[record.task.id].append(float(rejected is None))
            self.reasons["right" if rejected is None else rejected.kind] += 1
            assert record.generation is not None
            self.finish[record.generation.finish_reason] += 1
            self.costs.append(record.generation.cost_usd)
            if record.generation.completion_tokens is not None:
                self.tokens.append(record.generation.completion_tokens)

    def figures(self) -> dict[str, Any]:
        """Accuracy with its interval, and what else the answers were like."""
        from sft.stats import mean_interval, wilson

        means = [statistics.fmean(values) if values else 0.0 for values in self.right.values()]
        single = all(len(values) <= 1 for values in self.right.values())
        low, high = wilson(round(sum(means)), len(means)) if single else mean_interval(means)
        costs = [cost for cost in self.costs if cost is not None]
        return {
            "cost_usd": sum(costs) if costs and len(costs) == len(self.costs) else None,
            "accuracy": statistics.fmean(means),
            "low": low,
            "high": high,
            "per_question": means,
            "reasons": dict(self.reasons),
            "truncated": self.finish["length"],
            "answers": sum(self.finish.values()),
            "mean_tokens": statistics.fmean(self.tokens) if self.tokens else None,
        }


def _difference(results: dict[str, Any], samples: int) -> dict[str, float] | None:
    """After minus before, on the same questions, with its interval."""
    from sft.stats import paired_difference

    if "after" not in results:
        return None
    before, after = results["before"]["per_question"], results["after"]["per_question"]
    difference, low, high = paired_difference(before, after)
    return {"difference": difference, "low": low, "high": high}
