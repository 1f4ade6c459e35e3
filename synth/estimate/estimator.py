"""`distill estimate`: what a run still has to buy, before it is bought.

Nothing is spent without a pilot: the questions are read, the prompts rendered, and the response
store says what is there already. What it cannot say is given as bounds. With a pilot some
questions, drawn at random, are asked in full by the run's own generation, so nothing of it is
bought twice; what they came to is carried over to the rest.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.config.run import Run
from synth.core.dataset import read_split
from synth.core.errors import UserError
from synth.core.files import write_json
from synth.core.record import Task
from synth.core.run_folder import RunFolder
from synth.estimate.bounds import CostBounds
from synth.estimate.inventory import COUNTED, KEPT, Question, StoreInventory, shuffled
from synth.estimate.ranges import MIN_SAMPLE, Basis, Range, exactly, interval, loosest, sums_of_more
from synth.generate.stats import GenerationStats
from synth.stages import build_teachers as run_teachers
from synth.stages.build_filters import FilterSet
from synth.stages.build_student import student_counter, token_counter
from synth.stages.generate import check_references, generation_spec
from synth.stages.pipeline import do_stage, refuse_if_lacking
from synth.store import usage as ledger
from synth.teachers import default_lines

FILE = "estimate.json"
# What is estimated, and the counted columns on which each depends.
PARTS = {
    "calls": ("calls",),
    "prompt_tokens": ("prompt_tokens",),
    "completion_tokens": ("completion_tokens",),
    "usd": ("prompt_tokens", "completion_tokens"),
    "seconds": ("latency",),
    "bytes": ("bytes",),
}


def make_estimate(
    run: Run, pilot: int | None, tokenizer: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Estimates what is still to be bought, and writes `estimate.json` into the run's folder.

    Returns what the file holds: `questions`, `pilot`, `teachers` (name to part to figure), `total`,
    `budget` and `notes`, lines to read.

    Args:
        run: The checked config.
        pilot: So many questions, drawn by the run's seed, are asked first; None asks none.
        tokenizer: Hub id or folder of a tokenizer to count prompts by; the student's by default.
        say: Prints a line for the user.

    Raises:
        UserError: The config generates nothing, or the pilot met with a mistake.
        Unfinished: The pilot reached a cap or an obstacle.
    """
    if run.generate is None:
        raise UserError("nothing to estimate: the config has no section generate")
    if pilot is not None:
        refuse_if_lacking(run, "generate")
    do_stage("tasks", run, say)
    source, uncounted = _question_stage(run)
    tasks = [record.task for record in read_split(RunFolder(run.folder).stage(source), "train")]
    bought = _ask_pilot(run, shuffled(tasks, run.seed)[:pilot], say) if pilot else None
    inventory = StoreInventory(run, tasks)
    unfinished = inventory.unfinished_questions()
    # The questions stand in random order: those at the beginning that are done are a sample.
    done = next(
        (i for i, question in enumerate(inventory.questions) if question.task.id in unfinished),
        len(inventory.questions),
    )
    sample = inventory.questions[: max(pilot or 0, done)]
    open_ = [q for q in inventory.questions[len(sample) :] if q.task.id in unfinished]
    counter = token_counter(tokenizer, False) if tokenizer else student_counter(run)
    estimator = _Estimator(run, inventory, counter)
    figures = estimator.figures(sample[:KEPT], open_)
    notes = uncounted
    if open_:
        counted = estimator.bounds.notes if len(sample) < MIN_SAMPLE else []
        notes += [*inventory.notes, *counted, *_notes(run, inventory, len(sample))]
    parts = {
        name: {part: asdict(figure) for part, figure in ranges.items()}
        for name, ranges in figures.items()
    }
    result = {
        "created": time.time(),
        "questions": {"total": len(tasks), "open": len(open_), "sampled": len(sample)},
        "pilot": bought,
        "total": parts.pop(""),
        "teachers": parts,
        "budget": list(_budget(run, figures)),
        "notes": notes,
    }
    write_json(run.folder / FILE, result)
    return result


def _question_stage(run: Run) -> tuple[str, list[str]]:
    """Return the stage whose questions are counted, and notes on what else is asked."""
    folder, notes = RunFolder(run.folder), []
    augmented = folder.manifest("augment") if run.augment else None
    current = augmented is not None and augmented["inputs"]["tasks"] == folder.content("tasks")
    if run.augment and not current:
        notes.append("augment is not done: what it asks, and answers to its questions, not counted")
    if run.rewrite:
        notes.append("what rewrite asks is not counted")
    return ("augment" if current else "tasks"), notes


def _ask_pilot(run: Run, tasks: Sequence[Task], say: Callable[[str], None]) -> dict[str, Any]:
    """Ask some questions as the run would, and return what that came to."""
    stats = GenerationStats(questions_total=len(tasks))
    filters = FilterSet.from_config(run)
    with filters.chain("trace") as chain:
        check_references(run, chain, tasks, say)
        spec = generation_spec(run, filters, chain.check_trace)
        run_teachers.ask_all(run, spec, tasks, lambda task, records: None, stats, "pilot")
    for name, why in stats.out.items():
        say(f"  teacher {name} was given up: {why}")
    failed = run_teachers.failed_lines(stats)
    if tasks and not stats.bought + stats.reused:
        raise UserError("\n".join(["no question of the pilot was answered", *failed]))
    if failed:
        say(f"  failed: {run_teachers.top_reasons(stats.failed)}")
        for line in failed:
            say(f"    {line}")
    counts = stats.to_dict()
    names = ("questions", "bought", "reused", "kept", "prompt_tokens", "completion_tokens")
    return {name: counts[name] for name in (*names, "cost_usd", "unpriced", "failed", "seconds")}


class _Estimator:
    """From counted columns to what is asked for: money by the prices, time by the limits."""

    def __init__(
        self, run: Run, inventory: StoreInventory, count_tokens: Callable[[str], int] | None
    ) -> None:
        assert run.generate is not None
        self._seed, self._names = run.seed, inventory.names
        self._options = run_teachers.teacher_options(run)
        self._prices = run_teachers.prices_of(run, inventory.names)
        self._concurrency = run.generate.concurrency
        self.bounds = CostBounds(run, self._options, inventory, count_tokens)

    def figures(
        self, sample: Sequence[Question], open_: Sequence[Question]
    ) -> dict[str, dict[str, Range]]:
        """Return part to figure for each teacher, and for all together under an empty name."""
        bounds = {name: self.bounds.of(name, open_) for name in self._names}
        limits = np.asarray(  # (3, teachers, columns); None becomes not-a-number
            [
                [[getattr(bounds[name][column], at) for column in COUNTED] for name in self._names]
                for at in ("low", "expected", "high")
            ],
            float,
        )
        figures: dict[str, dict[str, Range]] = {}
        for name, parts in self._parts(limits).items():
            chosen = [bounds[name]] if name else list(bounds.values())
            figures[name] = {
                part: _range(
                    parts[part], loosest(b[column].basis for b in chosen for column in columns)
                )
                for part, columns in PARTS.items()
            }
            if len(sample) < MIN_SAMPLE:
                figures[name]["seconds"] = self._with_the_last(name, figures[name]["seconds"])
        if not open_ or len(sample) < MIN_SAMPLE:
            return figures
        table = self._table(sample)
        draws, mean = sums_of_more(
            table.reshape(len(sample), -1),
            len(open_),
            np.nan_to_num(limits[0]).ravel(),
            np.nan_to_num(limits[2], nan=math.inf).ravel(),
            self._seed,
        )
        have = self._table(open_).sum(axis=0)  # of questions that a run was stopped in
        drawn = self._parts(np.maximum(draws.reshape(-1, *have.shape) - have, 0))
        expected = self._parts(np.maximum(mean.reshape(have.shape) - have, 0))
        last = table[:, :, -1].sum(axis=1)
        for name, ranges in figures.items():
            for part in PARTS:
                middle = float(expected[name][part])
                if ranges[part].basis != "exact" and not math.isnan(middle):
                    ranges[part] = interval(drawn[name][part], middle, len(sample))
            ranges["seconds"] += Range(0.0, float(last.mean()), float(last.max()), "95%")
        return figures

    def _with_the_last(self, name: str, seconds: Range) -> Range:
        """Add the time in which the last question may still run when all the others are done."""
        for teacher in [name] if name else self._names:
            longest = self.bounds.longest(teacher)
            seconds += Range(0.0, longest and longest / 2, longest)
        return seconds

    def _table(self, questions: Sequence[Question]) -> NDArray[np.float64]:
        """Return what the store has of each question: (questions, teachers, columns)."""
        none: Counter[str] = Counter()
        return np.asarray(
            [[[q.has.get(n, none)[c] for c in COUNTED] for n in self._names] for q in questions],
            float,
        )

    def _parts(self, columns: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
        """Return the parts of each teacher and, under an empty name, in total; keep first axes.

        Time: all latencies over the requests in flight at once, or what the limits of rate allow.
        While the last question runs, places stay empty: to that comes at most the time of one
        question (Graham 1969, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17).
        """
        parts = {}
        for i, name in enumerate(self._names):
            calls, prompt, completion, size, latency = np.moveaxis(columns[..., i, :], -1, 0)
            options, price = self._options[name], self._prices[name]
            paces = [latency / (options.concurrency or self._concurrency)]
            paces += [calls * 60 / options.rpm] if options.rpm else []
            paces += [(prompt + completion) * 60 / options.tpm] if options.tpm else []
            rates = (price.input, price.output) if price else (math.nan, math.nan)
            parts[name] = {
                "calls": calls,
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "usd": (prompt * rates[0] + completion * rates[1]) / 1e6,
                "seconds": np.max(paces, axis=0),
                "bytes": size,
            }
        total = {part: np.sum([parts[n][part] for n in self._names], axis=0) for part in PARTS}
        # The teachers answer at the same time.
        total["seconds"] = np.max([parts[n]["seconds"] for n in self._names], axis=0)
        return {**parts, "": total}


def _range(limits: Iterable[float], basis: Basis) -> Range:
    """Return a figure of low, expected and high, of which not-a-number stands for none."""
    low, expected, high = (None if math.isnan(limit) else float(limit) for limit in limits)
    return Range(low, expected, high, basis)


def _notes(run: Run, inventory: StoreInventory, sampled: int) -> Iterator[str]:
    if sampled >= MIN_SAMPLE:
        yield (
            f"95%: a prediction for the open questions from {sampled} drawn at random, by bootstrap"
        )
        yield "time: of the answers alone, at the latency measured; more in flight may slow it"
        if run.generate and run.generate.samples.give_up is not None:
            yield "give_up is learned in the run itself, which will buy less than this"
    else:
        yield "bounds: less and more cannot be; --pilot 30 buys 30 questions and measures"
    yield from default_lines(run_teachers.teacher_options(run))
    for name, price in run_teachers.prices_of(run, inventory.names).items():
        history = inventory.history[name]
        untold = sum(e.prompt_tokens is None or e.completion_tokens is None for e in history)
        if untold:
            yield (
                f"{untold} of {len(history)} answers of {name} came without token counts: tokens "
                "and money are reckoned too low"
            )
        if price is None:
            yield f"{name} has no price: set teachers.{name}.price to reckon money"


def _budget(run: Run, figures: dict[str, dict[str, Range]]) -> Iterator[str]:
    """Yield a line for each cap: whether it will be reached."""
    spent = ledger.bought(run.store_path, run.name, 0.0)
    caps: list[tuple[str, Any, str]] = [("budget", run.budget, "")]
    for name, options in run_teachers.teacher_options(run).items():
        caps.append((f"teachers.{name}.budget", options.budget, name))
    for key, cap, name in caps:
        totals, parts = [s for who, s in spent.items() if name in ("", who)], figures[name]
        usd = sum(total.usd for total in totals)
        tokens = sum(total.prompt_tokens + total.completion_tokens for total in totals)
        for unit, form, used, more in (
            ("usd", "${:,.2f}", usd, parts["usd"]),
            ("tokens", "{:,.0f}", tokens, parts["prompt_tokens"] + parts["completion_tokens"]),
            # They are counted anew at each start.
            ("hours", "{:,.2f}", 0.0, parts["seconds"] * exactly(1 / 3600)),
        ):
            limit = getattr(cap, unit, None)
            if limit is None:
                continue
            if used + (more.low or 0.0) > limit:
                verdict = "will be reached; a run stops there, a higher cap goes on"
            elif more.high is None or used + more.high > limit:
                verdict = "may be reached"
            else:
                verdict = "will not be reached"
            before = f", {form.format(used)} of it spent" if used else ""
            yield f"{key}.{unit} {form.format(limit)}{before}: {verdict}"
