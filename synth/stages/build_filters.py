"""Placeholder."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.plugin_entries import split_plugin
from synth.config.run import Run
from synth.core.errors import UserError
from synth.core.models import weights_identity
from synth.core.processes import workers
from synth.core.prompts import load_prompt
from synth.core.record import Task
from synth.core.run_folder import Folder
from synth.stages.build_teachers import asker, build_teacher

if TYPE_CHECKING:
    from filters.base import Context
    from filters.engine.chain import Chain
    from filters.engine.filter import Filter, FilterSpec


_WAITING = 64  # records that wait for a teacher at a time


def build_chain_of(run: Run, eval_tasks: list[Task], levels: Iterable[str]) -> Chain:
    """The filters of some levels, ready to judge one record after the other."""
    from filters.engine.chain import Chain

    filters = [one for one in load(run) if one.level in levels]
    _refuse_unmet(run, filters)
    return Chain(filters, context_of(run, filters, eval_tasks))


def load(run: Run) -> list[Filter]:
    """The filters of the config that are on."""
    from filters.engine.filter import load_filters

    return load_filters(_specs(run))


def _specs(run: Run) -> list[FilterSpec]:
    from filters.engine.filter import FilterSpec

    return [FilterSpec(*split_plugin("filter", entry)) for entry in run.filters]


def context_of(run: Run, filters: list[Filter], eval_tasks: list[Task]) -> Context:
    """What filters in this process are handed."""
    from filters.base import Context

    context = Context(eval_tasks=eval_tasks, workers=workers(), seed=run.seed, run=run.name)
    if asked := sorted({teacher for one in filters for teacher, _ in _asked(one)}):
        context.ask = asker(run, asked)
    if run.student is not None:
        name, trust = run.student_origin, run.student.trust_remote_code
        context.count_tokens = lambda text: student_counter(name, trust)(text)
        context.student = functools.partial(_student, name, run.student.dtype, trust)
    return context


def _context(
    tokenizer: tuple[str, bool] | Path | None, eval_tasks: list[Task], seed: int
) -> Context:
    """What filters in a process of their own are handed; see `_tokenizer_of`."""
    from filters.base import Context

    context = Context(eval_tasks=eval_tasks, seed=seed)
    if isinstance(tokenizer, Path):
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(tokenizer))
        context.count_tokens = lambda text: len(fast.encode(text, add_special_tokens=False).ids)
    elif tokenizer is not None:
        context.count_tokens = student_counter(*tokenizer)
    return context


def _tokenizer_of(
    run: Run, folder: Folder, filters: list[Filter]
) -> tuple[str, bool] | Path | None:
    """The student's tokenizer for other processes: a file where it is a fast one.

    Such a file loads in a tenth of a second, and without transformers, which takes seconds.
    """
    if run.student is None or not any(one.needs("student_tokens") for one in filters):
        return None
    from synth.core.models import load_tokenizer

    own = load_tokenizer(run.student_origin, run.student.trust_remote_code)
    fast = getattr(own, "backend_tokenizer", None)
    if fast is None:
        return run.student_origin, run.student.trust_remote_code
    fast.no_truncation()
    fast.no_padding()
    path = folder.path / "tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fast.save(str(path))
    return path


@functools.lru_cache(maxsize=2)
def student_counter(model: str, trust_remote_code: bool) -> Callable[[str], int]:
    """Counts the tokens of a text as the student will see them."""
    from synth.core.models import load_tokenizer

    tokenizer = load_tokenizer(model, trust_remote_code)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


@functools.lru_cache(maxsize=1)
def _student(model: str, dtype: str, trust_remote_code: bool) -> tuple[Any, Any]:
    from synth.core.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(model, trust_remote_code)
    return load_model(model, dtype, trust_remote_code=trust_remote_code), tokenizer


def counter_of(run: Run) -> Callable[[str], int] | None:
    """Counts the student's tokens, where a student is named whose tokenizer can be had."""
    if run.student is None or importlib.util.find_spec("transformers") is None:
        return None
    try:
        return student_counter(run.student_origin, run.student.trust_remote_code)
    except UserError:  # a hub that cannot be reached: no filter has asked for it
        return None


def _asked(one: Filter) -> list[tuple[str, str | None]]:
    """The teachers that a filter asks, each with the prompt template where it has one."""
    inside = [asked for part in one.parts for asked in _asked(part)]
    if "teacher" not in one.config.needs:
        return inside
    teacher = getattr(one.config, "teacher", None)
    return (
        inside if teacher is None else [(teacher, getattr(one.config, "template", None)), *inside]
    )


def _judges(run: Run, one: Filter) -> list[Any]:
    return [
        [build_teacher(run, teacher).identity, template and load_prompt(template).hash]
        for teacher, template in _asked(one)
    ]


def _around(run: Run, folder: Folder, filters: list[Filter]) -> dict[str, Any]:
    """What else than the record and its options the filters' judgements depend on."""
    found: dict[str, dict[str, Any]] = {}
    for one in filters:
        own: dict[str, Any] = {}
        if asked := _judges(run, one):
            own["judges"] = asked
        if run.student and (one.needs("student_tokens") or one.needs("student")):
            own["student"] = run.student_origin
        if isinstance(model := getattr(one.config, "model", None), str):
            own["weights"] = weights_identity(model)
        if run.tasks is not None and one.needs("eval_tasks"):
            own["eval"] = folder.content("tasks")
        if one.level == "set":
            own["seed"] = run.seed
        if own:
            found[one.name] = own
    return found


def _refuse_unmet(run: Run, filters: list[Filter]) -> None:
    for one in filters:
        if run.student is None and (one.needs("student_tokens") or one.needs("student")):
            raise UserError(
                f"the filter {one.name} measures by the student and needs the section student"
            )


def filters_at(run: Run, levels: Iterable[str]) -> list[Any]:
    """The config's filters of some levels with all their options: other filters, other results."""
    return [
        [one.name, one.config.version, one.config.model_dump(mode="json")]
        for one in load(run)
        if one.level in levels
    ]


def check_threads(run: Run) -> int:
    """How many records are checked at a time as they arrive: more where a filter waits."""
    return _WAITING if any(one.needs("teacher") for one in load(run)) else 2 * workers()
