"""The teachers of a run, and how they are asked over its response store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synth.config.generate import Sampling
from synth.config.run import Run
from synth.core.prompts import Prompt, load_prompt
from synth.core.record import Record, Task, Verdict
from synth.generate.stats import GenerationStats

if TYPE_CHECKING:
    pass

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from synth.config.generate import Generate, PromptChoice, Samples, Truncation
from synth.config.plugin_entries import plugin_config, split_plugin
from synth.core import plugins
from synth.core.errors import UserError
from synth.core.progress import Clock, shown

if TYPE_CHECKING:
    from synth.core.usage import Price
    from synth.generate.spec import GenerationSpec
    from synth.generate.stats import GenerationStats
    from synth.generate.sync_client import SyncClient
    from synth.store.responses import Store
    from synth.teachers.base import Teacher, TeacherConfig


def build_teacher(run: Run, name: str) -> Teacher:
    """One of the teachers of the config."""
    kind, _ = split_plugin("teacher", run.teachers[name])
    config = plugin_config("teacher", run.teachers[name])
    teacher: Teacher = plugins.load("teacher", kind).build(config, name)
    return teacher


def build_teachers(run: Run) -> dict[str, Teacher]:
    """The teachers of the config that answer, in the order in which they take turns."""
    assert run.generate is not None
    return {name: build_teacher(run, name) for name in run.generate.teachers or run.teachers}


def teacher_options(run: Run, names: Iterable[str] | None = None) -> dict[str, TeacherConfig]:
    """The options of the teachers of the config that answer, or of some others."""
    assert run.generate is not None or names is not None
    if names is None and run.generate is not None:
        names = run.generate.teachers or list(run.teachers)
    configs = {name: plugin_config("teacher", run.teachers[name]) for name in names or ()}
    return {name: cast("TeacherConfig", config) for name, config in configs.items()}


def prices_of(run: Run, names: Iterable[str]) -> dict[str, Price | None]:
    """What the tokens of some teachers cost by the config or by the shipped list, None if neither.

    Raises:
        UserError: A cap in dollars, and a teacher whose price is not known.
    """
    from synth.teachers._pricing import price_of

    options = teacher_options(run, names)
    prices = {name: price_of(own) for name, own in options.items()}
    for name, price in prices.items():
        capped = [key for key, cap in _dollar_caps(run, name, options[name]) if cap]
        if price is None and capped:
            raise UserError(
                f"{capped[0]} needs the price of teacher {name}: set teachers.{name}.price to "
                "{input: ..., output: ...} in dollars a million tokens"
            )
    return prices


def _dollar_caps(run: Run, name: str, own: TeacherConfig) -> list[tuple[str, float | None]]:
    return [
        ("budget.usd", run.budget.usd if run.budget else None),
        (f"teachers.{name}.budget.usd", own.budget.usd if own.budget else None),
    ]


def single_ask(
    run: Run,
    names: Sequence[str],
    prompt: Prompt,
    values: Mapping[str, Any],
    sampling: Sampling,
    samples: int = 1,
    check: Callable[[Record], list[Verdict]] | None = None,
) -> GenerationSpec:
    """Some teachers asked under one prompt, at the pace and under the budget of the run.

    The alarm on cut answers is off: its message speaks of the section generate.
    """
    from synth.generate.spec import GenerationSpec

    pace = run.generate or Generate(prompt=PromptChoice(template=prompt.name))
    return GenerationSpec(
        teachers={name: build_teacher(run, name) for name in names},
        prices=prices_of(run, names),
        prompt=prompt,
        values=values,
        sampling=sampling,
        samples=Samples(max=samples),
        check=check,
        concurrency=pace.concurrency,
        retries=pace.retries,
        options=teacher_options(run, names),
        truncation=Truncation(alarm=None),
        budget=run.budget,
        patience_s=pace.patience_s,
        run=run.name,
    )


def asker(run: Run, names: Sequence[str]) -> SyncClient:
    """What asks for the filters, over the run's store; it starts with the first question."""
    from synth.generate.sync_client import SyncClient

    return SyncClient(run.store_path, single_ask(run, names, load_prompt("plain"), {}, Sampling()))


def open_store(run: Run) -> Store:
    """The run's response store."""
    from synth.store.responses import Store

    return Store(run.store_path)


def ask_all(
    run: Run,
    ask: GenerationSpec,
    questions: Iterable[Task],
    emit: Callable[[Task, list[Record]], None],
    counts: GenerationStats,
    title: str,
    store: Store | None = None,
) -> None:
    """Asks every question over the run's response store, with progress."""
    from synth.generate.runner import generate

    clock = Clock()
    with contextlib.ExitStack() as stack:
        store = store or stack.enter_context(open_store(run))
        stack.enter_context(shown(lambda: _progress_line(title, counts, clock)))
        asyncio.run(generate(ask, store, questions, emit, counts))


def _progress_line(title: str, counts: GenerationStats, clock: Clock) -> str:
    bought, tokens = counts.bought, counts.completion_tokens
    parts = [
        f"{title}: {counts.questions}/{counts.questions_total} questions",
        f"{bought} answers bought"
        + _shares(counts)
        + (f", {counts.reused} from the store" if counts.reused else ""),
        f"{bought / clock.seconds:.1f}/s, {tokens / clock.seconds:.0f} tokens/s",
        f"{tokens:,} tokens" + (f", ${counts.cost_usd:.4f}" if bought > counts.unpriced else ""),
        f"kept {counts.kept}",
    ]
    if counts.rejected:
        parts.append(f"rejected {counts.rejected.total()} ({reasons(counts.rejected)})")
    if counts.retried:
        parts.append(f"tried again {counts.retried.total()} ({reasons(counts.retried)})")
    if counts.voted:
        parts.append(f"voted on {counts.voted}")
    if counts.gave_up:
        parts.append(f"gave up {counts.gave_up}")
    if counts.failed:
        parts.append(f"failed {counts.failed.total()}")
    if counts.cut:
        parts.append(f"cut off {counts.cut}")
    if lengths := counts.lengths():
        parts.append(f"student tokens {lengths['median']} (p95 {lengths['p95']})")
    return " · ".join(parts) + clock.eta(counts.questions, counts.questions_total)


def _shares(counts: GenerationStats) -> str:
    return f" ({reasons(counts.by_teacher)})" if len(counts.by_teacher) > 1 else ""


def reasons(counter: Any, most: int = 4) -> str:
    """The commonest reasons of a counter, on one line."""
    return ", ".join(f"{reason} {count}" for reason, count in counter.most_common(most))


def identities(run: Run, names: Iterable[str]) -> dict[str, Any]:
    """What makes each of some teachers answer as it does."""
    return {name: build_teacher(run, name).identity for name in sorted(names)}
