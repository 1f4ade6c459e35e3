"""Teacher weights: the accuracy of each teacher on questions that the student never learns."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from synth.config.evaluate import Evaluate
from synth.config.generate import Samples
from synth.config.run import ChainStep
from synth.core.errors import UserError
from synth.core.files import read_json, write_json
from synth.core.models import load_tokenizer, weights_identity
from synth.core.process.environment import first_process
from synth.core.record import Record, Task, digest
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.stages._evaluate.models import build_engine
from synth.stages.build_filters import verifier_chain
from synth.stages.build_student import StudentSetup
from synth.stages.build_teachers import ask_all
from synth.stages.context import StageContext


def hold_out(records: Iterable[Record], count: int, seed: int) -> list[Task]:
    """Returns `count` questions of the traces that are set apart, drawn by a hash of their ids.

    Raises UserError where less than as many would be left to learn from, or one has no answer.
    """
    tasks = {record.task.id: record.task for record in records}
    if len(tasks) < 2 * count:
        raise UserError(
            f"train.soft_labels.held_out: {count} questions, but there are only {len(tasks)}; set "
            "it to half of them or less"
        )
    drawn = sorted(tasks, key=lambda id: hashlib.sha256(f"{seed}/{id}".encode()).digest())[:count]
    for id in drawn:
        if tasks[id].answer is None:
            raise UserError(
                f"train.soft_labels.weights: accuracy needs known answers, and question {id} has "
                "none; use weights: given"
            )
    return [tasks[id] for id in sorted(drawn)]


def measure_teacher_accuracy(
    context: StageContext, step: ChainStep, tasks: list[Task]
) -> dict[str, float]:
    """Returns the share of the questions that each of a training's teachers answers rightly.

    Each is asked under the student's prompt, as `evaluate` says. What was measured is kept. Of
    several processes the first measures and the others wait for it. Raises UserError where no
    teacher has any right.
    """
    config = context.run.evaluate or Evaluate()
    inputs = digest(
        {
            "questions": [task.id for task in tasks],
            "teachers": {n: weights_identity(t.model) for n, t in step.train.teachers.items()},
            "prompt": StudentSetup(step.student).prompt_identity,
            "sampling": config.sampling.parameters(0),
            "verifier": config.verifier,
        }
    )
    path = context.folder.path / "teacher-accuracy" / f"{inputs[:16]}.json"
    accuracy: dict[str, float] = read_json(path) or {}
    while not first_process() and len(accuracy) < len(step.train.teachers):
        time.sleep(1)
        accuracy = read_json(path) or {}
    for name in step.train.teachers:
        if name not in accuracy:
            accuracy[name] = _accuracy(context, config, step, name, tasks)
            write_json(path, accuracy)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in accuracy.items())
    context.say(f"  right on {len(tasks)} questions held out of the training: {shares}")
    if not any(accuracy.values()):
        raise UserError(
            "train.soft_labels.weights: accuracy: no teacher has a single question right under the "
            "student's prompt, so there is nothing to weigh by; use weights: given"
        )
    return accuracy


def _accuracy(
    context: StageContext, config: Evaluate, step: ChainStep, name: str, tasks: list[Task]
) -> float:
    """Returns the share of the questions that one teacher answers rightly."""
    from sft.data.chat_template import select_template

    model, student = step.train.teachers[name], StudentSetup(step.student)
    tokenizer = load_tokenizer(model.model, model.trust_remote_code)
    template = select_template(tokenizer, step.student.chat_template)
    _, options, teacher = build_engine(config, name, model.model, model, template)
    right = 0

    def take(_: Task, records: list[Record]) -> None:
        nonlocal right
        right += any(verdict.keep is True for record in records for verdict in record.verdicts)

    with verifier_chain(config.verifier) as chain:
        spec = GenerationSpec(
            teachers={name: teacher},
            prices={},
            prompt=student.prompt,
            values=step.student.prompt.values,
            sampling=config.sampling,
            samples=Samples(max=1),
            check=chain.check_trace,
            concurrency=2 * config.batch_size,
            options={name: options},
        )
        stats = GenerationStats(questions_total=len(tasks))
        ask_all(context.run, spec, tasks, take, stats, f"accuracy of {name}")
    return right / len(tasks)
