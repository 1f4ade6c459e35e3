"""How much several teachers count: by their accuracy on questions that the student never learns."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from synth.config.evaluate import Evaluate
from synth.config.generate import Samples
from synth.config.plugin_entries import split_plugin
from synth.config.run import ChainStep, Run
from synth.core import plugins
from synth.core.errors import UserError
from synth.core.files import read_json, write_json
from synth.core.models import weights_identity
from synth.core.processes import workers
from synth.core.prompts import load_prompt
from synth.core.record import Record, Task, digest
from synth.core.run_folder import Folder
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.stages.build_teachers import ask_all

Say = Callable[[str], None]


def by_accuracy(step: ChainStep) -> bool:
    """Whether a training weighs its teachers by accuracy."""
    soft = step.train.soft_labels
    return soft is not None and soft.weights == "accuracy"


def held_out(records: Iterable[Record], number: int, seed: int) -> list[Task]:
    """The questions that are set apart, drawn by a hash of their ids.

    Raises:
        UserError: Less than as many would be left to learn from, or one has no answer to check.
    """
    tasks = {record.task.id: record.task for record in records}
    if len(tasks) < 2 * number:
        raise UserError(
            f"train.soft_labels.held_out: {number} questions, but there are only {len(tasks)}; set "
            "it to half of them or less"
        )
    drawn = sorted(tasks, key=lambda id: hashlib.sha256(f"{seed}/{id}".encode()).digest())[:number]
    for id in drawn:
        if tasks[id].answer is None:
            raise UserError(
                f"train.soft_labels.weights: accuracy needs known answers, and question {id} has "
                "none; use weights: given"
            )
    return [tasks[id] for id in sorted(drawn)]


def accuracies(
    run: Run, folder: Folder, step: ChainStep, tasks: list[Task], say: Say, first: bool = True
) -> dict[str, float]:
    """Share of the questions that each of a training's teachers answers rightly.

    Each is asked under the student's prompt, as `evaluate` says. What was measured is kept. Of
    several processes the `first` one measures and the others wait for it.

    Raises:
        UserError: None of them has any right.
    """
    config = run.evaluate or Evaluate()
    inputs = digest(
        {
            "questions": [task.id for task in tasks],
            "teachers": {n: weights_identity(t.model) for n, t in step.train.teachers.items()},
            "prompt": [load_prompt(step.student.prompt.template).hash, step.student.prompt.values],
            "sampling": config.sampling.parameters(0),
            "verifier": config.verifier,
        }
    )
    kept = folder.path / "teacher-accuracy" / f"{inputs[:16]}.json"
    found: dict[str, float] = read_json(kept) or {}
    while not first and len(found) < len(step.train.teachers):
        time.sleep(1)
        found = read_json(kept) or {}
    for name, teacher in step.train.teachers.items():
        if name not in found:
            found[name] = _accuracy(run, config, step, name, teacher.model, tasks)
            write_json(kept, found)
    shown = ", ".join(f"{name} {share:.1%}" for name, share in found.items())
    say(f"  right on {len(tasks)} questions held out of the training: {shown}")
    if not any(found.values()):
        raise UserError(
            "train.soft_labels.weights: accuracy: no teacher has a single question right under the "
            "student's prompt, so there is nothing to weigh by; use weights: given"
        )
    return found


def _accuracy(
    run: Run, config: Evaluate, step: ChainStep, name: str, model: str, tasks: list[Task]
) -> float:
    from filters.base import Context
    from filters.engine.chain import build_chain
    from filters.engine.filter import FilterSpec
    from sft.data.chat_template import choose
    from synth.core.models import load_tokenizer

    tokenizer = load_tokenizer(model, step.train.teachers[name].trust_remote_code)
    options: Any
    kind, options = config.engine_for(
        model,
        dtype=step.train.teachers[name].dtype,
        batch_size=config.batch_size,
        trust_remote_code=step.train.teachers[name].trust_remote_code,
        chat_template=choose(tokenizer, step.student.chat_template),
    )
    right = 0

    def take(_: Task, records: list[Record]) -> None:
        nonlocal right
        right += any(verdict.keep is True for record in records for verdict in record.verdicts)

    verifier = FilterSpec(*split_plugin("filter", config.verifier))
    with build_chain([verifier], Context(workers=workers())) as chain:
        ask = GenerationSpec(
            teachers={name: plugins.load("teacher", kind).build(options, name)},
            prices={},
            prompt=load_prompt(step.student.prompt.template),
            values=step.student.prompt.values,
            sampling=config.sampling,
            samples=Samples(max=1),
            check=chain.check_trace,
            concurrency=2 * config.batch_size,
            options={name: options},
        )
        counts = GenerationStats(questions_total=len(tasks))
        ask_all(run, ask, tasks, take, counts, f"accuracy of {name}")
    return right / len(tasks)


def without(records: Iterable[Record], tasks: Iterable[Task]) -> Iterable[Record]:
    """The traces of all other questions."""
    apart = {task.id for task in tasks}
    return (record for record in records if record.task.id not in apart)


def manifest_of(found: dict[str, float] | None) -> dict[str, Any]:
    """What the training's manifest says of it."""
    return {} if found is None else {"teacher_accuracy": found}
