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
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from synth.config.run import Run
from synth.core.dataset import read_split
from synth.core.errors import UserError
from synth.core.files import write_json
from synth.core.record import Task
from synth.core.run_folder import RunFolder
from synth.estimate.bounds import CostBounds
from synth.estimate.inventory import COUNTED, KEPT, Question, StoreInventory, shuffled
from synth.estimate.ranges import MIN_SAMPLE, Range, interval, loosest, sums_of_more
from synth.generate.stats import GenerationStats
from synth.stages import build_teachers as run_teachers
from synth.stages.build_filters import FilterSet
from synth.stages.build_student import student_counter, token_counter
from synth.stages.generate import generation_spec
from synth.stages.pipeline import do_stage, refuse_if_lacking
from synth.store import usage as ledger
from synth.teachers import default_lines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

    Args:
        run: The checked config.
        pilot: So many questions, drawn by the run's seed, are asked first; None asks none.
        tokenizer: Hub id or folder of a tokenizer to count prompts by; the student's by default.
        say: Prints a line for the user.

    Returns:
        What the file holds: `questions`, `pilot`, `teachers` (name to part to figure), `total`,
        `budget` and `notes`, lines to read. Parts are calls, tokens, dollars, seconds and bytes.

    Raises:
        UserError: The config generates nothing, or the pilot met with a mistake.
        Unfinished: The pilot reached a cap or an obstacle.
    """
    if run.generate is None:
        raise UserError("nothing to estimate: the config has no section generate")
    if pilot is not None:
        refuse_if_lacking(run, "generate")
    do_stage("tasks", run, say)
    source, uncounted = _questions(run)
    tasks = [record.task for record in read_split(RunFolder(run.folder).stage(source), "train")]
    bought = _ask_pilot(run, shuffled(tasks, run.seed)[:pilot], say) if pilot else None
    stock = StoreInventory(run, tasks)
    unfinished = stock.unfinished_questions()
    # The questions stand in random order: those at the beginning that are done are a sample.
    done = next(
        (i for i, question in enumerate(stock.questions) if question.task.id in unfinished),
        len(stock.questions),
    )
    sample = stock.questions[: max(pilot or 0, done)]
    open_ = [q for q in stock.questions[len(sample) :] if q.task.id in unfinished]
    counter = token_counter(tokenizer, False) if tokenizer else student_counter(run)
    reckoner = _Estimator(run, stock, counter)
    teachers = reckoner.figures(sample[:KEPT], open_)
    result = {
        "created": time.time(),
        "questions": {"total": len(tasks), "open": len(open_), "sampled": len(sample)},
        "pilot": bought,
        "total": {part: figure.to_dict() for part, figure in teachers.pop("").items()},
        "teachers": {
            name: {part: figure.to_dict() for part, figure in parts.items()}
            for name, parts in teachers.items()
        },
    }
    result["budget"] = list(_budget(run, result))
    notes = uncounted
    if open_:
        counted = reckoner.bounds.notes if len(sample) < MIN_SAMPLE else []
        notes += [*stock.notes, *counted, *_notes(run, stock, len(sample))]
    result["notes"] = notes
    write_json(run.folder / FILE, result)
    return result


def _questions(run: Run) -> tuple[str, list[str]]:
    """The stage whose questions can be reckoned with, and what is asked besides and not counted."""
    folder, notes = RunFolder(run.folder), []
    made = folder.manifest("augment") if run.augment else None
    known = made is not None and made["inputs"]["tasks"] == folder.content("tasks")
    if run.augment and not known:
        notes.append("augment is not done: what it asks, and answers to its questions, not counted")
    if run.rewrite:
        notes.append("what rewrite asks is not counted")
    return ("augment" if known else "tasks"), notes


def _ask_pilot(run: Run, drawn: Sequence[Task], say: Callable[[str], None]) -> dict[str, Any]:
    """Asks some questions as the run would, and says what that came to."""
    counts = GenerationStats(questions_total=len(drawn))
    filters = FilterSet.from_config(run)
    with filters.chain("trace") as chain:
        ask = generation_spec(run, filters, chain.check_trace)
        run_teachers.ask_all(run, ask, drawn, lambda task, records: None, counts, "pilot")
    for name, why in counts.out.items():
        say(f"  teacher {name} was given up: {why}")
    said = counts.to_dict()
    names = ("questions", "bought", "reused", "kept", "prompt_tokens", "completion_tokens")
    return {name: said[name] for name in (*names, "cost_usd", "unpriced", "failed", "seconds")}


class _Estimator:
    """From counted columns to what is asked for: money by the prices, time by the limits."""

    def __init__(
        self, run: Run, stock: StoreInventory, count_tokens: Callable[[str], int] | None
    ) -> None:
        assert run.generate is not None
        self._seed, self._names = run.seed, stock.names
        self._options = run_teachers.teacher_options(run)
        self._prices = run_teachers.prices_of(run, stock.names)
        self._width = run.generate.concurrency
        self.bounds = CostBounds(run, self._options, stock, count_tokens)

    def figures(
        self, sample: Sequence[Question], open_: Sequence[Question]
    ) -> dict[str, dict[str, Range]]:
        """Part to figure for each teacher, and for all of them together under an empty name."""
        import numpy as np

        bounds = {name: self.bounds.of(name, open_) for name in self._names}

        def corner(at: str) -> NDArray[np.float64]:
            values = [[getattr(bounds[n][c], at) for c in COUNTED] for n in self._names]
            return np.asarray(values, float)  # None becomes not-a-number

        low, expected, high = (self._reckon(corner(at)) for at in ("low", "expected", "high"))
        figures: dict[str, dict[str, Range]] = {}
        for name in (*self._names, ""):
            of = [bounds[name]] if name else list(bounds.values())
            figures[name] = {
                part: Range(
                    _known(low[name][part]),
                    _known(expected[name][part]),
                    _known(high[name][part]),
                    loosest(one[column].basis for one in of for column in columns),
                )
                for part, columns in PARTS.items()
            }
            if len(sample) < MIN_SAMPLE:
                figures[name]["seconds"] = self._with_the_last(name, figures[name]["seconds"])
        if not open_ or len(sample) < MIN_SAMPLE:
            return figures
        draws, mean = sums_of_more(
            self._table(sample).reshape(len(sample), -1),
            len(open_),
            np.nan_to_num(corner("low")).ravel(),
            np.nan_to_num(corner("high"), nan=math.inf).ravel(),
            self._seed,
        )
        have = self._table(open_).sum(axis=0)  # of questions that a run was stopped in
        shape = (len(self._names), len(COUNTED))
        drawn = self._reckon(np.maximum(draws.reshape(-1, *shape) - have, 0))
        expected = self._reckon(np.maximum(mean.reshape(shape) - have, 0))
        for name, parts in figures.items():
            for part in PARTS:
                middle = _known(expected[name][part])
                if parts[part].basis != "exact" and middle is not None:
                    parts[part] = interval(drawn[name][part], middle, len(sample))
            last, seconds = self._table(sample)[:, :, -1].sum(axis=1), parts["seconds"]
            parts["seconds"] = seconds + Range(0.0, float(last.mean()), float(last.max()), "95%")
        return figures

    def _with_the_last(self, name: str, seconds: Range) -> Range:
        """Time in which the last question may still run when all the others are done."""
        names = [name] if name else self._names
        longest = [self.bounds.longest(name) for name in names]
        most = None if None in longest else sum(value for value in longest if value is not None)
        return seconds + Range(0.0, most and most / 2, most)

    def _table(self, questions: Sequence[Question]) -> NDArray[np.float64]:
        """(questions, teachers, columns): what the store has of each question."""
        import numpy as np

        none: Counter[str] = Counter()
        return np.asarray(
            [[[q.has.get(n, none)[c] for c in COUNTED] for n in self._names] for q in questions],
            float,
        )

    def _reckon(self, columns: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
        """The parts for each teacher and, under an empty name, in total; the first axes are kept.

        Time: all latencies over the requests in flight at once, or what the limits of rate allow.
        While the last question runs, places stay empty: to that comes at most the time of one
        question (Graham 1969, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17).
        """
        import numpy as np

        parts = {}
        for i, name in enumerate(self._names):
            calls, prompt, completion, size, latency = np.moveaxis(columns[..., i, :], -1, 0)
            own, price = self._options[name], self._prices[name]
            paces = [latency / (own.concurrency or self._width)]
            paces += [calls * 60 / own.rpm] if own.rpm else []
            paces += [(prompt + completion) * 60 / own.tpm] if own.tpm else []
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


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _notes(run: Run, stock: StoreInventory, sampled: int) -> Iterator[str]:
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
    for name, price in run_teachers.prices_of(run, stock.names).items():
        history = stock.history[name]
        untold = sum(e.prompt_tokens is None or e.completion_tokens is None for e in history)
        if untold:
            yield (
                f"{untold} of {len(history)} answers of {name} came without token counts: tokens "
                "and money are reckoned too low"
            )
        if price is None:
            yield f"{name} has no price: set teachers.{name}.price to reckon money"


def _budget(run: Run, result: dict[str, Any]) -> Iterator[str]:
    """A line for each cap: whether it will be reached."""
    spent = ledger.bought(run.store_path, run.name, 0.0)
    caps: list[tuple[str, Any, Any, list[ledger.UsageTotals]]] = [
        ("budget", run.budget, result["total"], list(spent.values()))
    ]
    for name, own in run_teachers.teacher_options(run).items():
        sums = [spent[name]] if name in spent else []
        caps.append((f"teachers.{name}.budget", own.budget, result["teachers"][name], sums))
    for key, cap, parts, sums in caps:
        if cap is None:
            continue
        used = {
            "usd": sum(one.usd for one in sums),
            "tokens": sum(one.prompt_tokens + one.completion_tokens for one in sums),
            "hours": 0.0,  # anew at each start
        }
        limits = {
            at: {
                "usd": parts["usd"][at],
                "tokens": _added(parts["prompt_tokens"][at], parts["completion_tokens"][at]),
                "hours": None if parts["seconds"][at] is None else parts["seconds"][at] / 3600,
            }
            for at in ("low", "high")
        }
        for unit, form in (("usd", "${:,.2f}"), ("tokens", "{:,.0f}"), ("hours", "{:,.2f}")):
            if (most := getattr(cap, unit, None)) is not None:
                yield _cap_line(
                    f"{key}.{unit}",
                    form,
                    most,
                    used[unit],
                    limits["low"][unit],
                    limits["high"][unit],
                )


def _added(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _cap_line(
    key: str, form: str, cap: float, used: float, low: float | None, high: float | None
) -> str:
    if used + (low or 0.0) > cap:
        verdict = "will be reached; a run stops there, a higher cap goes on"
    elif high is None or used + high > cap:
        verdict = "may be reached"
    else:
        verdict = "will not be reached"
    before = f", {form.format(used)} of it spent" if used else ""
    return f"{key} {form.format(cap)}{before}: {verdict}"
