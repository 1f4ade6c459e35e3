"""The filters of a run, loaded once, with all that they need: teachers, student, evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.plugin_entries import split_plugin
from synth.config.run import Run, traces_of
from synth.core.dataset import read_split
from synth.core.errors import UserError
from synth.core.models import load_tokenizer, weights_identity
from synth.core.process.environment import workers
from synth.core.prompts import load_prompt
from synth.core.record import Task
from synth.core.run_folder import RunFolder
from synth.stages.build_student import token_counter, untrained_model
from synth.stages.build_teachers import build_teacher, filter_client

if TYPE_CHECKING:
    from filters.base import Context
    from filters.engine.chain import Chain
    from filters.engine.executor import Executor
    from filters.engine.filter import Filter
    from filters.engine.outcome_store import OutcomeStore

WAITING_RECORDS = 64  # records that wait for a teacher at a time


@dataclass(frozen=True)
class FilterSet:
    """The filters of a config that are on, in its order, loaded.

    Example:
        >>> filters = FilterSet.from_config(run)
        >>> with filters.chain("trace") as chain:
        ...     verdicts = chain.check_trace(record)
    """

    run: Run
    filters: tuple[Filter, ...]

    @classmethod
    def from_config(cls, run: Run) -> FilterSet:
        """Loads the filters. Raises UserError where one is unknown or its options do not fit it."""
        from filters.engine.filter import FilterSpec, load_filters

        specs = [FilterSpec(*split_plugin("filter", entry)) for entry in run.filters]
        return cls(run, tuple(load_filters(specs)))

    def at(self, *levels: str) -> FilterSet:
        """Returns the filters of some levels: `question`, `trace`, `set`."""
        return replace(self, filters=tuple(f for f in self.filters if f.level in levels))

    def chain(self, *levels: str, eval_tasks: Sequence[Task] = ()) -> Chain:
        """Returns the filters of some levels, ready to judge; raises as `check_needs`."""
        from filters.engine.chain import Chain

        chosen = self.at(*levels)
        chosen.check_needs()
        return Chain(chosen.filters, chosen.context(eval_tasks))

    def check_needs(self) -> None:
        """Raises UserError where a filter measures by the student, and the config names none."""
        for loaded in self.filters if self.run.student is None else ():
            if _uses_student(loaded):
                raise UserError(
                    f"the filter {loaded.name} measures by the student and needs the section "
                    "student"
                )

    @cached_property
    def options(self) -> list[Any]:
        """Name, version and options of each: with others a result is another one.

        Those of users' own modules have the hash of their code as an option more.
        """
        return [
            [f.name, f.config.version, {**f.config.model_dump(mode="json"), **_code(f)}]
            for f in self.filters
        ]

    @cached_property
    def judges(self) -> dict[str, list[tuple[str, str | None]]]:
        """By filter: the teachers that it asks, each with its prompt template where it has one."""
        return {loaded.name: _judges(loaded) for loaded in self.filters}

    @property
    def check_threads(self) -> int:
        """How many records are checked at a time as they arrive: more where a filter waits."""
        waits = any(loaded.needs("teacher") for loaded in self.filters)
        return WAITING_RECORDS if waits else 2 * workers()

    def context(self, eval_tasks: Sequence[Task]) -> Context:
        """Returns what filters in this process are handed."""
        from filters.base import Context

        run = self.run
        context = Context(
            eval_tasks=list(eval_tasks), workers=workers(), seed=run.seed, run=run.name
        )
        if teachers := sorted({name for judges in self.judges.values() for name, _ in judges}):
            context.ask = filter_client(run, teachers)
        if run.student is not None:
            model, trust = run.student_origin, run.student.trust_remote_code
            context.count_tokens = lambda text: token_counter(model, trust)(text)
            context.student = functools.partial(untrained_model, model, run.student.dtype, trust)
        return context

    def dependencies(self, folder: RunFolder) -> dict[str, dict[str, Any]]:
        """Returns by filter what its judgements depend on besides the record and its options."""
        run = self.run
        dependencies: dict[str, dict[str, Any]] = {}
        for loaded in self.filters:
            needs: dict[str, Any] = {}
            if judges := self.judges[loaded.name]:
                needs["judges"] = [
                    [build_teacher(run, teacher).identity, template and load_prompt(template).hash]
                    for teacher, template in judges
                ]
            if run.student and _uses_student(loaded):
                needs["student"] = run.student_origin
            if isinstance(model := getattr(loaded.config, "model", None), str):
                needs["weights"] = weights_identity(model)
            if run.tasks is not None and loaded.needs("eval_tasks"):
                needs["eval"] = folder.content("tasks")
            if loaded.level == "set":
                needs["seed"] = run.seed
            if loaded.needs("sandbox") and loaded.module.warn(loaded.config):
                needs["sandbox"] = "missing"  # what it could not tell is judged where there is one
            if needs:
                dependencies[loaded.name] = needs
        return dependencies

    def executor(
        self, folder: RunFolder, outcomes: OutcomeStore, say: Callable[[str], None]
    ) -> Executor:
        """Returns the filters over the run's traces; raises as `check_needs`."""
        from filters.engine.executor import Executor

        self.check_needs()
        run, stage = self.run, traces_of(self.run)
        tasks = [] if run.tasks is None else eval_tasks(folder)
        return Executor(
            folder.stage(stage),
            "train",
            folder.content(stage),
            self.filters,
            outcomes,
            make_context=functools.partial(
                process_context, self._process_tokenizer(folder), tasks, run.seed
            ),
            context=self.context(tasks),
            dependencies=self.dependencies(folder),
            workers=workers(),
            threads=WAITING_RECORDS,
            say=say,
        )

    def _process_tokenizer(self, folder: RunFolder) -> tuple[str, bool] | Path | None:
        """Returns the student's tokenizer for other processes: the file of a fast one, or its name.

        Such a file loads in a tenth of a second, and without transformers, which takes seconds.
        """
        student = self.run.student
        if student is None or not any(f.needs("student_tokens") for f in self.filters):
            return None
        model, trust = self.run.student_origin, student.trust_remote_code
        fast = getattr(load_tokenizer(model, trust), "backend_tokenizer", None)
        if fast is None:
            return model, trust
        fast.no_truncation()
        fast.no_padding()
        path = folder.path / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        fast.save(str(path))
        return path


def process_context(
    tokenizer: tuple[str, bool] | Path | None, eval_tasks: list[Task], seed: int
) -> Context:
    """Returns what filters in a process of their own are handed."""
    from filters.base import Context

    context = Context(eval_tasks=eval_tasks, seed=seed)
    if isinstance(tokenizer, Path):
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(tokenizer))
        context.count_tokens = lambda text: len(fast.encode(text, add_special_tokens=False).ids)
    elif tokenizer is not None:
        context.count_tokens = token_counter(*tokenizer)
    return context


def verifier_chain(verifier: str | dict[str, Any]) -> Chain:
    """Returns the verifier of an evaluation, ready to judge answers."""
    from filters.base import Context
    from filters.engine.chain import Chain
    from filters.engine.filter import FilterSpec, load_filters

    return Chain(
        load_filters([FilterSpec(*split_plugin("filter", verifier))]), Context(workers=workers())
    )


def verifier_code(verifier: str | dict[str, Any]) -> dict[str, Any]:
    """Returns the hash of a verifier's code where it is a user's own; of ours, nothing."""
    from filters.engine.filter import FilterSpec, load_filters

    return _code(load_filters([FilterSpec(*split_plugin("filter", verifier))])[0])


def eval_tasks(folder: RunFolder) -> list[Task]:
    """Returns the questions of the evaluation, which no trace may touch."""
    return [record.task for record in read_split(folder.stage("tasks"), "eval")]


def _code(loaded: Filter) -> dict[str, Any]:
    return {"code": code} if (code := loaded.foreign_code) else {}


def _uses_student(loaded: Filter) -> bool:
    return loaded.needs("student_tokens") or loaded.needs("student")


def _judges(loaded: Filter) -> list[tuple[str, str | None]]:
    inner = [judge for part in loaded.parts for judge in _judges(part)]
    teacher = getattr(loaded.config, "teacher", None)
    if teacher is None or "teacher" not in loaded.config.needs:
        return inner
    return [(teacher, getattr(loaded.config, "template", None)), *inner]
