"""The teachers of a run, and how they are asked over its response store."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from synth.config.generate import Generate, PromptChoice, Samples, Sampling, Truncation
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
    """Returns the teachers of the config that answer, in the order in which they take turns."""
    return {name: build_teacher(run, name) for name in _answering(run)}


def teacher_options(run: Run, names: Iterable[str] | None = None) -> dict[str, TeacherConfig]:
    """Returns the options of the teachers of the config that answer, or of some others."""
    names = _answering(run) if names is None else names
    return {
        name: cast("TeacherConfig", plugin_config("teacher", run.teachers[name])) for name in names
    }


def _answering(run: Run) -> list[str]:
    assert run.generate is not None
    return run.generate.teachers or list(run.teachers)


def teacher_identities(run: Run, names: Iterable[str]) -> dict[str, Any]:
    """Returns what makes each of some teachers answer as it does."""
    return {name: build_teacher(run, name).identity for name in sorted(names)}


def prices_of(run: Run, names: Iterable[str]) -> dict[str, Price | None]:
    """Returns what the tokens of some teachers cost by the config or the shipped list, else None.

    Raises:
        UserError: A cap in dollars, and a teacher whose price is not known.
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
        if prices[name] is None and capped:
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
    """Returns a generation outside the stage `generate`, at the run's pace and under its budget.

    The alarm on cut answers is off: its message speaks of the section generate.

    Args:
        run: The config.
        names: The teachers that are asked.
        prompt: What they are asked under.
        values: Of the prompt's variables.
        sampling: How each answer is sampled.
        samples: Answers to each question.
        check: Gives the verdicts on an answer as it arrives.
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

    Args:
        run: The config.
        spec: Who is asked, and how.
        questions: What is asked.
        emit: Takes a question and its answers when all of these are there.
        stats: Counts what comes of it.
        title: Of the progress line.
        store: The response store, where it is open already.
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
    errors: list[BaseException] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)

    def work() -> None:
        try:
            loop.run_until_complete(task)
        except BaseException as error:
            errors.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=work, name="generate")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if errors:
        raise errors[0]


def _progress_line(title: str, stats: GenerationStats, clock: Clock) -> str:
    bought, tokens = stats.bought, stats.completion_tokens
    shares = f" ({top_reasons(stats.by_teacher)})" if len(stats.by_teacher) > 1 else ""
    parts = [
        f"{title}: {stats.questions}/{stats.questions_total} questions",
        f"{bought} answers bought"
        + shares
        + (f", {stats.reused} from the store" if stats.reused else ""),
        f"{bought / clock.seconds:.1f}/s, {tokens / clock.seconds:.0f} tokens/s",
        f"{tokens:,} tokens" + (f", ${stats.cost_usd:.4f}" if bought > stats.unpriced else ""),
        f"kept {stats.kept}",
    ]
    if stats.rejected:
        parts.append(f"rejected {stats.rejected.total()} ({top_reasons(stats.rejected)})")
    if stats.retried:
        parts.append(f"tried again {stats.retried.total()} ({top_reasons(stats.retried)})")
    if stats.voted:
        parts.append(f"voted on {stats.voted}")
    if stats.gave_up:
        parts.append(f"gave up {stats.gave_up}")
    if stats.failed:
        parts.append(f"failed {stats.failed.total()}")
    if stats.cut:
        parts.append(f"cut off {stats.cut}")
    if lengths := stats.lengths():
        parts.append(f"student tokens {lengths['median']} (p95 {lengths['p95']})")
    return " · ".join(parts) + clock.eta(stats.questions, stats.questions_total)


def top_reasons(counter: Counter[str], limit: int = 4) -> str:
    """Returns the commonest reasons of a counter, on one line."""
    return ", ".join(f"{reason} {count}" for reason, count in counter.most_common(limit))
