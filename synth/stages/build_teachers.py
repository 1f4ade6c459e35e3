"""The teachers of a run, and how they are asked over its response store."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from synth.config.generate import Generate, PromptChoice, Samples, Sampling
from synth.config.plugin_entries import plugin_config, split_plugin
from synth.config.run import Run
from synth.core import plugins
from synth.core.errors import UserError
from synth.core.progress import Clock, shown
from synth.core.prompts import Prompt, load_prompt
from synth.core.record import Record, Task, Verdict

if TYPE_CHECKING:
    from synth.core.usage import Price
    from synth.generate.spec import GenerationSpec
    from synth.generate.stats import GenerationStats
    from synth.generate.sync_client import SyncClient
    from synth.store.responses import ResponseStore
    from synth.teachers.base import Teacher, TeacherConfig


def build_teacher(run: Run, name: str) -> Teacher:
    """Returns one of the teachers of the config."""
    kind, _ = split_plugin("teacher", run.teachers[name])
    config = plugin_config("teacher", run.teachers[name])
    teacher: Teacher = plugins.load("teacher", kind).build(config, name)
    return teacher


def build_teachers(run: Run) -> dict[str, Teacher]:
    """Returns the teachers of the config that answer, in the order of `teacher_names`."""
    return {name: build_teacher(run, name) for name in teacher_names(run)}


def teacher_options(run: Run, names: Iterable[str] | None = None) -> dict[str, TeacherConfig]:
    """Returns the options of the teachers of the config that answer, or of some others."""
    names = teacher_names(run) if names is None else names
    entries = {name: plugin_config("teacher", run.teachers[name]) for name in names}
    return cast("dict[str, TeacherConfig]", entries)


def teacher_names(run: Run) -> list[str]:
    """Returns the teachers of the config that answer, in the order in which they take turns."""
    assert run.generate is not None
    return run.generate.teachers or list(run.teachers)


def prices_of(run: Run, names: Iterable[str]) -> dict[str, Price | None]:
    """Returns what the tokens of some teachers cost by the config or the shipped list, else None.

    Raises UserError where a cap in dollars meets a teacher whose price is not known.
    """
    from synth.teachers import price_of

    prices = {}
    for name, options in teacher_options(run, names).items():
        caps = {
            "budget.usd": run.budget and run.budget.usd,
            f"teachers.{name}.budget.usd": options.budget and options.budget.usd,
        }
        prices[name] = price_of(options)
        capped = [key for key, cap in caps.items() if cap]
        free = run.teachers[name].get("kind") == "fake"  # made-up answers
        if prices[name] is None and capped and not free:
            raise UserError(
                f"{capped[0]} needs the price of teacher {name}: set teachers.{name}.price to "
                "{input: ..., output: ...} in dollars a million tokens"
            )
    return prices


def single_prompt_spec(
    run: Run,
    names: Sequence[str],
    prompt: Prompt,
    values: Mapping[str, Any],
    sampling: Sampling,
    samples: int = 1,
    check: Callable[[Record], list[Verdict]] | None = None,
) -> GenerationSpec:
    """Returns a generation under one prompt, at the run's pace and under its budget.

    The alarm on cut answers is off, as by default: its message speaks of the section generate.
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
        budget=run.budget,
        patience_s=pace.patience_s,
        run=run.name,
    )


def filter_client(run: Run, names: Sequence[str]) -> SyncClient:
    """Returns what asks teachers for the filters; it starts with the first question."""
    from synth.generate.sync_client import SyncClient

    spec = single_prompt_spec(run, names, load_prompt("plain"), {}, Sampling())
    return SyncClient(run.store_path, spec)


def open_store(run: Run) -> ResponseStore:
    """Opens the run's response store."""
    from synth.store.responses import ResponseStore

    return ResponseStore(run.store_path)


def ask_all(
    run: Run,
    spec: GenerationSpec,
    questions: Iterable[Task],
    emit: Callable[[Task, list[Record]], None],
    stats: GenerationStats,
    title: str,
    store: ResponseStore | None = None,
) -> None:
    """Asks every question over the run's response store, with progress.

    `emit` takes a question and its answers when all of these are there, `stats` counts what comes
    of it, and `store` is the response store where it is open already.
    """
    from synth.generate.runner import generate

    clock = Clock()
    with contextlib.ExitStack() as stack:
        store = store or stack.enter_context(open_store(run))
        stack.enter_context(shown(lambda: _progress_line(title, stats, clock)))
        _run_coroutine(generate(spec, store, questions, emit, stats))


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Runs a coroutine to its end; in a thread where this one has a loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(coroutine)
        return
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    with contextlib.closing(loop), ThreadPoolExecutor(1, "generate") as pool:
        future = pool.submit(loop.run_until_complete, task)
        try:
            future.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)  # the pool waits until it has ended
            raise


def _progress_line(title: str, stats: GenerationStats, clock: Clock) -> str:
    bought, tokens = stats.bought, stats.completion_tokens
    shares = f" ({top_reasons(stats.by_teacher)})" if len(stats.by_teacher) > 1 else ""
    parts = [
        f"{title}: {stats.questions}/{stats.questions_total} questions",
        f"{bought} answers bought"
        + shares
        + (f", {stats.reused} from the store" if stats.reused else ""),
        f"{bought / clock.seconds:.1f}/s, {tokens / clock.seconds:.0f} tokens/s",
        f"{tokens:,} tokens"
        + (f", ${stats.cost_usd:.4f}" if bought > stats.unpriced else "")
        + (f" and about {estimated_of(stats)} not counted" if stats.estimated else ""),
        f"kept {stats.kept}",
    ]
    parts += [f"{stats.in_flight} in flight"] if stats.in_flight else []
    reasons = {"rejected": stats.rejected, "tried again": stats.retried}
    parts += [counted(title, counter) for title, counter in reasons.items() if counter]
    counts = {
        "voted on": stats.voted,
        "gave up": stats.gave_up,
        "failed": stats.failed.total(),
        "cut off": stats.cut,
    }
    parts += [f"{title} {count}" for title, count in counts.items() if count]
    if lengths := stats.lengths():
        parts.append(f"student tokens {lengths['median']} (p95 {lengths['p95']})")
    left = clock.eta(stats.questions, stats.questions_total)
    return " · ".join(parts) + (" · stopping" if stats.stopping else left)


def estimated_of(stats: GenerationStats) -> str:
    """Returns what endpoints did not count, as it was estimated from the length of the texts."""
    dollars = f" (${stats.estimated_usd:.4f})" if stats.estimated_usd else ""
    return f"{stats.estimated_tokens:,} tokens{dollars}"


def counted(title: str, counter: Counter[str]) -> str:
    """Returns how many a counter has in all, and its commonest reasons."""
    return f"{title} {counter.total()} ({top_reasons(counter)})"


def failed_lines(stats: GenerationStats) -> list[str]:
    """Returns a line for each of the four commonest failures: the first question, and the words."""
    kinds = [kind for kind, _ in stats.failed.most_common(4)]
    return [stats.failed_examples[kind] for kind in kinds if kind in stats.failed_examples]


def top_reasons(counter: Counter[str]) -> str:
    """Returns the four commonest reasons of a counter, on one line."""
    return ", ".join(f"{reason} {count}" for reason, count in counter.most_common(4))
