"""The evaluation stage: the student before and after, and the teacher, on the same questions.

All of them are asked through the generation's own machinery, so an evaluation that was killed goes
on where it was, and every answer is kept. How the figures are made is in docs/evaluation.md.
"""

from __future__ import annotations

import operator
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.ask import Ask
from synth.config import Run, split_plugin
from synth.counts import Counts
from synth.errors import UserError, nearest
from synth.filtering import resolved, workers
from synth.folder import Folder
from synth.io import SplitWriter, read_split, writing
from synth.models import weights_identity
from synth.progress import Clock
from synth.prompts import Prompt, load_prompt
from synth.record import Record, Task
from synth.run_teachers import ask_all, build_teachers, prices_of, teacher_options
from synth.stages import Say
from synth.teachers.contract import Teacher

# Comparing all answers of one who is evaluated may take so long; the rest is compared as text.
_COMPARING_S = 300.0
# More groups than that are a list to scroll, with too few questions in each to say anything.
_GROUPS_MAX = 12


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
            prompt = load_prompt(one.prompt)
            scores = _Scores(tasks, prompt, one.values)
            ask = Ask(
                teachers=one.teachers,
                prices=prices_of(run, one.teachers) if who == "teacher" else {},
                prompt=prompt,
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
                **scores.figures(_subset_sizes(run), getattr(run.evaluate, "majority", True)),
            }
        manifest |= {
            "inputs": inputs,
            "complete": complete,
            "questions": len(tasks),
            "samples": run.evaluate.samples,
            "sampling": run.evaluate.sampling.parameters(0),
            "verifier": verifier.name,
            "results": results,
            "difference": _difference(results),
            "gap_closed": _gap_closed(results),
        }
    return manifest


def compare_checkpoints(one: Path, other: Path, who: str = "after") -> dict[str, Any]:
    """How the student of another run differs from this run's, over the questions both were asked.

    Args:
        one: Folder of a run that was evaluated.
        other: Folder of the other.
        who: Whose answers are compared: `before`, `after` or `teacher`.

    Returns:
        The fields of `sft.stats.Comparison` (other minus one), and the number of `questions`.

    Raises:
        UserError: One of them was not evaluated, or they share no question.
    """
    from sft.stats import compare

    means: list[dict[str, float]] = []
    for place in (one, other):
        manifest = Folder(place).need("evaluate")
        if who not in manifest["results"]:
            raise UserError(
                f"{place}: nobody was evaluated as {who}{nearest(who, manifest['results'])}"
            )
        right: dict[str, list[float]] = defaultdict(list)
        for record in read_split(Folder(place).stage("evaluate"), who):
            right[record.task.id].append(float(record.rejected_by is None))
        means.append({id: statistics.fmean(values) for id, values in right.items()})
    shared = sorted(means[0].keys() & means[1].keys())
    if not shared:
        raise UserError(f"{one} and {other} share no question, so they cannot be compared")
    found = compare(*([mean[id] for id in shared] for mean in means))
    return {**found._asdict(), "questions": len(shared)}


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


def _subset_sizes(run: Run) -> list[int]:
    """The k of pass@k and majority@k: the config's, else the powers of two up to the samples."""
    assert run.evaluate is not None
    samples = run.evaluate.samples
    powers = {2**power for power in range(samples.bit_length())} | {samples}
    chosen = getattr(run.evaluate, "k", None) or powers
    return sorted({1, *(k for k in chosen if k <= samples)})


class _Scores:
    """Right or wrong, question by question; a question that got no answer counts as wrong."""

    def __init__(self, tasks: list[Task], prompt: Prompt, values: Mapping[str, Any]) -> None:
        self.tasks = tasks
        self.in_form = _form(prompt, values)
        self.right: dict[str, list[float]] = {task.id: [] for task in tasks}
        self.formed: dict[str, list[float]] = {task.id: [] for task in tasks}
        self.cut: dict[str, list[float]] = {task.id: [] for task in tasks}
        self.finals: dict[str, list[tuple[str | None, bool]]] = {task.id: [] for task in tasks}
        self.finish: dict[str, int] = defaultdict(int)
        self.reasons: dict[str, int] = defaultdict(int)
        self.tokens: list[int] = []
        self.costs: list[float | None] = []

    def take(self, records: list[Record], writer: SplitWriter) -> None:
        """Counts the answers to one question and keeps them."""
        from filters._agreement import final_answer

        for record in records:
            writer.write(record)
            rejected, id = record.rejected_by, record.task.id
            self.right[id].append(float(rejected is None))
            self.formed[id].append(float(self.in_form(record)))
            self.finals[id].append((final_answer(record.answer), rejected is None))
            self.reasons["right" if rejected is None else rejected.kind] += 1
            assert record.generation is not None
            self.finish[record.generation.finish_reason] += 1
            self.cut[id].append(float(record.generation.finish_reason == "length"))
            self.costs.append(record.generation.cost_usd)
            if record.generation.completion_tokens is not None:
                self.tokens.append(record.generation.completion_tokens)

    def figures(self, sizes: Sequence[int] = (1,), majority: bool = True) -> dict[str, Any]:
        """Accuracy with its interval, and what else the answers were like.

        Args:
            sizes: The k of pass@k and majority@k.
            majority: Whether the majority is counted: comparing answers takes time.
        """
        means = [statistics.fmean(values) if values else 0.0 for values in self.right.values()]
        costs = [cost for cost in self.costs if cost is not None]
        accuracy, low, high = _mean(means).values()
        return {
            "cost_usd": sum(costs) if costs and len(costs) == len(self.costs) else None,
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "per_question": means,
            "pass_at_k": [{"k": k, **_mean(self._passes(k))} for k in sizes],
            "majority_at_k": self._majorities(sizes) if majority else [],
            "by": {
                "difficulty": _by(_difficulties(self.tasks), means),
                "source": _by([task.source for task in self.tasks], means),
            },
            "reasons": dict(self.reasons),
            "truncated": self.finish["length"],
            "truncation": _answered(self.cut),
            "format": _answered(self.formed),
            "answers": sum(self.finish.values()),
            "mean_tokens": statistics.fmean(self.tokens) if self.tokens else None,
        }

    def _passes(self, k: int) -> list[float]:
        """pass@k of each question; answers that are missing for a subset count as wrong."""
        from sft.stats import pass_at_k

        return [
            pass_at_k(max(k, len(values)), round(sum(values)), k) for values in self.right.values()
        ]

    def _majorities(self, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """majority@k with intervals; none where no answer has a box to be compared by.

        Of two answers the majority is either one by lot, which is pass@1 again, so it starts at 3.
        """
        from sft.stats import majority_at_k

        sizes = [k for k in sizes if k > 2]
        if not sizes or not any(final for finals in self.finals.values() for final, _ in finals):
            return []
        end, groups, as_text = time.monotonic() + _COMPARING_S, [], 0
        for finals in self.finals.values():
            late = time.monotonic() > end
            as_text += late
            groups.append(_groups(finals, late))
        found = []
        for k in sizes:
            chances, errors = [], []
            for grouped, finals in zip(groups, self.finals.values(), strict=True):
                silent = max(k, len(finals)) - sum(votes for votes, _ in grouped)
                chance, error = majority_at_k(grouped, silent, k)
                chances.append(chance)
                errors.append(error)
            drawn = sum(error**2 for error in errors) ** 0.5 / len(errors)
            found.append({"k": k, **_mean(chances), "drawing_error": drawn, "as_text": as_text})
        return found


def _groups(finals: Sequence[tuple[str | None, bool]], as_text: bool) -> list[tuple[int, float]]:
    """The different final answers to a question: how many give each, and which share is right.

    Equal ones are found as the filters' vote finds them; whether one is right is the verifier's.
    Where all or none that vote are right, it does not matter which are equal.
    """
    from filters._agreement import tally_weighted

    written = Counter(final for final, _ in finals if final)
    right = Counter(final for final, good in finals if final and good)
    mixed = 0 < right.total() < written.total()
    same = None if mixed and not as_text else operator.eq
    return [
        (votes, sum(right[form] for form in forms) / votes)
        for forms, weight in tally_weighted(list(written.items()), same)
        for votes in [round(weight)]
    ]


def _form(prompt: Prompt, values: Mapping[str, Any]) -> Callable[[Record], bool]:
    """Whether an answer has the form that its prompt asks for, as `think_format` has it.

    The prompt asks for what its text and the config's values name: a box, and a think block. What
    the question says does not count.
    """
    from filters.contract import Context
    from filters.think_format import Config, build

    asked = prompt.source.split("\n", prompt.body_line - 1)[-1] + str(dict(values))
    final = "boxed" if "\\boxed" in asked else "text"
    config = Config.model_validate({"require_reasoning": "<think>" in asked, "final_answer": final})
    check: Any = build(config, Context())
    return lambda record: check(record).keep is True


def _difficulties(tasks: Sequence[Task]) -> list[str]:
    from filters.funnel import difficulty_of

    return [difficulty_of(Record("", task, [], None, "")) for task in tasks]


def _by(sorts: Sequence[str], means: Sequence[float]) -> list[dict[str, Any]]:
    """Accuracy for each sort of questions; none where there is one sort alone, or too many."""
    groups: dict[str, list[float]] = defaultdict(list)
    for sort, mean in zip(sorts, means, strict=True):
        groups[sort].append(mean)
    if not 2 <= len(groups) <= _GROUPS_MAX:
        return []
    return [
        {"group": sort, "questions": len(groups[sort]), **_mean(groups[sort])}
        for sort in sorted(groups, key=_by_number)
    ]


def _by_number(sort: str) -> tuple[bool, float, str]:
    try:
        return False, float(sort), sort
    except ValueError:
        return True, 0.0, sort


def _mean(values: Sequence[float]) -> dict[str, float]:
    """The mean over questions with its 95% interval."""
    from sft.stats import mean_interval

    low, high = mean_interval(values)
    return {"share": statistics.fmean(values), "low": low, "high": high}


def _answered(values: Mapping[str, Sequence[float]]) -> dict[str, float] | None:
    """A share of the answers, with questions as clusters; None where nothing was answered."""
    means = [statistics.fmean(one) for one in values.values() if one]
    return _mean(means) if means else None


def _difference(results: dict[str, Any]) -> dict[str, Any] | None:
    """After minus before, on the same questions, with its interval and a test."""
    from sft.stats import compare

    if "after" not in results:
        return None
    found = compare(results["before"]["per_question"], results["after"]["per_question"])
    return found._asdict()


def _gap_closed(results: dict[str, Any]) -> dict[str, Any] | None:
    """Which share of the way from the student before to the teacher the training went."""
    from sft.stats import gap_closed

    if not {"after", "teacher"} <= set(results):
        return None
    scores = (results[who]["per_question"] for who in ("before", "after", "teacher"))
    return gap_closed(*scores)._asdict()
