"""`distill estimate`: what a run still has to buy, before it is bought.

Nothing is spent without a pilot: the questions are read, the prompts rendered, and the response
store says what is there already. What it cannot say is given as bounds. With a pilot some
questions, drawn at random, are asked in full by the run's own generation, so nothing of it is
bought twice; what they came to is carried over to the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth import ledger, plugins, stages
from synth.ask import Ask
from synth.config import Run, split_plugin
from synth.counts import Counts
from synth.errors import UserError
from synth.folder import Folder
from synth.forecast import LEAST_SAMPLE, Figure, exactly, interval, mean_of, ratio_of, sums_of_more
from synth.generate import generate
from synth.generate_config import Samples
from synth.io import read_split, write_json
from synth.pipeline import do_stage, refuse_if_lacking
from synth.record import Message, Record, Task, digest
from synth.store import Keyed, Store, keyed
from synth.teachers.contract import Refused, Request, TeacherConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "estimate.json"
PARTS = ("calls", "prompt_tokens", "completion_tokens", "usd", "seconds", "bytes")
_COUNTED = ("calls", "prompt_tokens", "completion_tokens", "bytes", "latency")
RENDERED = 500  # prompts whose length is taken
_KEPT = 2000  # stored answers, or questions, that a figure is measured on
# Tokens of a text where no tokenizer and no answer of the teacher's says: by its characters.
_OF_ASCII = Figure(1 / 7, 1 / 4, 1 / 2)
_OF_OTHER = Figure(1 / 3, 1.0, 3.0)
# Another tokenizer than the teacher's, and the chat template around the messages.
_OF_OTHER_TOKENIZER = Figure(0.7, 1.0, 1.6)
# Bytes in the store: of an answer's token, of a character of the request, and of one soft label.
_OF_TOKEN, _OF_CHARACTER, _OF_LABEL = Figure(0.5, None, 8), Figure(0.1, None, 3), Figure(4, None, 9)


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
    folder = Folder(run.folder)
    tasks = [record.task for record in read_split(folder.stage("tasks"), "train")]
    known = _identities(run)
    bought = _ask_pilot(run, _shuffled(tasks, run.seed)[:pilot], say) if pilot else None
    view = _View(run, tasks, known.identities, tokenizer)
    made = view.estimate(pilot)
    notes = [*known.notes, *made.pop("notes")]
    result = {"created": time.time(), "pilot": bought, **made, "notes": notes}
    write_json(run.folder / FILE, result)
    return result


# --- the pilot ------------------------------------------------------------------------------------


def _shuffled(tasks: Sequence[Task], seed: int) -> list[Task]:
    """The questions in an order that the seed and each question alone decide.

    Its beginning is a random sample, and stays one when questions are appended.
    """
    return sorted(tasks, key=lambda task: hashlib.sha256(f"{seed}:{task.id}".encode()).digest())


def _ask_pilot(run: Run, drawn: Sequence[Task], say: Callable[[str], None]) -> dict[str, Any]:
    """Asks some questions as the run would, and says what that came to."""
    counts = Counts(questions_total=len(drawn))
    with stages.build_chain_of(run, [], levels={"trace"}) as chain:
        ask = stages.build_ask(run, stages.build_teachers(run), chain.check_trace)
        stages.ask_all(run, ask, drawn, lambda task, records: None, counts, "pilot")
    for name, why in counts.out.items():
        say(f"  teacher {name} was given up: {why}")
    said = counts.to_dict()
    names = ("questions", "bought", "reused", "kept", "prompt_tokens", "completion_tokens")
    return {name: said[name] for name in (*names, "cost_usd", "unpriced", "failed", "seconds")}


@dataclass
class _Known:
    """What each teacher is in the store's keys, where that can be told here."""

    identities: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _identities(run: Run) -> _Known:
    try:
        teachers = stages.build_teachers(run)
    except UserError as error:  # no key yet: an estimate needs none
        assert run.generate is not None
        names = run.generate.teachers or list(run.teachers)
        note = f"the store was not looked at, all is counted as still to buy: {error}"
        return _Known(dict.fromkeys(names, None), [note])
    return _Known({name: teacher.identity for name, teacher in teachers.items()})


# --- what the store has ---------------------------------------------------------------------------


class _Shelf:
    """Stands in for a teacher: has what the store has, and notes which questions want more."""

    def __init__(self, identity: dict[str, Any], failed: set[str], wanting: set[str]) -> None:
        self.identity = identity
        self._failed, self._wanting = failed, wanting

    async def complete(self, request: Request) -> dict[str, Any]:
        """Sells nothing."""
        if keyed(request, self.identity).key not in self._failed:
            assert request.task is not None
            self._wanting.add(request.task.id)
        raise Refused("not for sale")

    async def close(self) -> None:
        """Nothing to give back."""


class _Unchanged(Store):
    """The store as it is: a replay writes nothing into it."""

    async def put_failure(self, *_: Any, **__: Any) -> None:
        """Nothing failed: nothing was asked."""

    async def put_stand_in(self, *_: Any) -> None:
        """Nobody answered."""


def _still_wanting(run: Run, ask: Ask, tasks: Sequence[Task]) -> set[str]:
    """The questions for which a rerun would buy something, by replaying it over the store."""
    wanting: set[str] = set()
    with _Unchanged(run.store_path) as store:
        failed = {key for key, _ in store.failures()}
        shelves = {name: _Shelf(t.identity, failed, wanting) for name, t in ask.teachers.items()}
        uncapped = {n: own.model_copy(update={"budget": None}) for n, own in ask.options.items()}
        replay = replace(ask, teachers=shelves, options=uncapped, budget=None, count_tokens=None)
        asyncio.run(generate(replay, store, tasks, lambda task, records: None, Counts()))
    return wanting


# --- the estimate ---------------------------------------------------------------------------------


@dataclass
class _Question:
    """What is known of a question: its prompt, and what the store has of it, by teacher."""

    task: Task
    prompt: str  # digest of its messages
    has: dict[str, Counter[str]] = field(default_factory=dict)


class _View:
    """The questions of a run beside what the store holds."""

    def __init__(
        self, run: Run, tasks: Sequence[Task], identities: dict[str, Any], tokenizer: str | None
    ) -> None:
        assert run.generate is not None
        self.run, self.generate, self.tokenizer = run, run.generate, tokenizer
        self.identities = identities
        self.notes: list[str] = []
        asking = [e for e in run.filters if _asks_teacher(e)]
        if asking:
            names = ", ".join(split_plugin("filter", entry)[0] for entry in asking)
            self.notes.append(f"what filters ask of teachers is not counted: {names}")
        self._quiet = run.model_copy(
            update={"filters": [e for e in run.filters if not _asks_teacher(e)]}
        )
        self.options = stages.teacher_options(run)
        self.prices = stages.prices_of(run, identities)
        prompt = stages.load_prompt(run.generate.prompt.template)
        values = run.generate.prompt.values
        self.questions: list[_Question] = []
        draw, self.rendered = random.Random(run.seed), []
        sampled = set(draw.sample(range(len(tasks)), min(RENDERED, len(tasks))))
        for i, task in enumerate(_shuffled(tasks, run.seed)):
            messages = prompt.messages(task, values)
            self.questions.append(_Question(task, digest(messages)))
            if i in sampled:
                self.rendered.append((task, messages))
        self.history: dict[str, list[ledger.Entry]] = {name: [] for name in identities}
        self._read_store()

    def _read_store(self) -> None:
        """Parts the store's entries among this run's questions, and its other answers."""
        by_prompt: dict[str, list[_Question]] = {}
        for question in self.questions:
            by_prompt.setdefault(question.prompt, []).append(question)
        names = {digest(identity): name for name, identity in self.identities.items() if identity}
        own = _comparable(self.generate.sampling.parameters(0))
        frame = _frame_of(self.rendered)
        for entry in ledger.entries(self.run.store_path) if names else ():
            name = names.get(digest(entry.request["teacher"]))
            if name is None or _comparable(entry.request["sampling"]) != own:
                continue
            messages = entry.request["messages"]
            if entry.request["sampling"].get("continue_final_message"):
                messages = messages[:-1]
            limit, limits = entry.request["sampling"].get("max_tokens"), self._limits()
            if limit not in limits:
                continue
            ours = by_prompt.get(digest(messages), [])
            for question in ours[:1]:  # two questions with one prompt share what was bought
                question.has.setdefault(name, Counter()).update(_counted(entry))
            if (ours or frame.fits(messages)) and len(self.history[name]) < _KEPT:
                self.history[name].append(entry)

    def _limits(self) -> set[int]:
        """Values of max_tokens that this run may send."""
        policy, limit = self.generate.truncation, self.generate.sampling.max_tokens
        limits = [limit]
        if policy.policy == "raise_max_tokens":
            for _ in range(policy.times):
                limits.append(int(limits[-1] * policy.factor))
        return set(limits)

    def estimate(self, pilot: int | None) -> dict[str, Any]:
        """The figures, and how they came about."""
        touched = [question for question in self.questions if question.has]
        wanting = {question.task.id for question in self.questions if not question.has}
        if touched:
            with stages.build_chain_of(self._quiet, [], levels={"trace"}) as chain:
                ask = stages.build_ask(
                    self._quiet, stages.build_teachers(self.run), chain.check_trace
                )
                wanting |= _still_wanting(self.run, ask, [q.task for q in touched])
        # The questions stand in random order: those at the beginning that are done are a sample.
        done = (i for i, question in enumerate(self.questions) if question.task.id in wanting)
        sample = self.questions[: max(pilot or 0, next(done, len(self.questions)))]
        open_ = [q for q in self.questions[len(sample) :] if q.task.id in wanting]
        bounds = self._bounds(open_)
        if open_ and len(sample) >= LEAST_SAMPLE:
            teachers, total = self._carried_over(sample[:_KEPT], open_, bounds)
        else:
            teachers, total = bounds, _in_all(bounds)
        self._note_what_is_missing(len(sample), bool(open_))
        return {
            "questions": {
                "total": len(self.questions),
                "open": len(open_),
                "sampled": len(sample),
            },
            "teachers": {name: _as_json(parts) for name, parts in teachers.items()},
            "total": _as_json(total),
            "budget": list(self._budget(teachers, total)),
            "notes": self.notes,
        }

    # Without a sample: bounds.

    def _bounds(self, open_: Sequence[_Question]) -> dict[str, dict[str, Figure]]:
        return {name: self._bounds_of(name, open_) for name in self.identities}

    def _bounds_of(self, name: str, open_: Sequence[_Question]) -> dict[str, Figure]:
        calls = self._calls(name, open_)
        prompt = self._prompt_tokens(name)
        completion = self._mean(name, "completion_tokens") or Figure(
            0, None, max(self._limits()), "bounds"
        )
        latency = self._mean(name, "latency") or Figure(None, None, None, "bounds")
        parts = {
            "calls": calls,
            "prompt_tokens": calls * prompt,
            "completion_tokens": calls * completion,
            "bytes": calls * self._size(name, completion),
        }
        parts["usd"] = self._usd(name, parts)
        parts["seconds"] = self._seconds(name, parts, calls * latency)
        return parts

    def _calls(self, name: str, open_: Sequence[_Question]) -> Figure:
        """Least and most calls of a teacher for some questions."""
        samples, route = self.generate.samples, self._ask_plan()
        low = high = 0
        for question in open_:
            slots = list(route.order(question.task.question, samples.max))
            first = self._first_wave(samples, question.task)
            have = question.has.get(name, Counter())["calls"]
            least = sum(slot.teacher == name for slot in slots[:first])
            most = (
                len(slots)
                if self.generate.route == "fallback"
                else sum(slot.teacher == name for slot in slots)
            )
            low, high = low + max(0, least - have), high + max(0, most - have)
        if self.generate.truncation.policy in ("raise_max_tokens", "continue"):
            high *= 1 + self.generate.truncation.times
        return exactly(low) if low == high else Figure(low, None, high)

    def _first_wave(self, samples: Samples, task: Task) -> int:
        if samples.until_verified is None:
            return samples.max
        wanted = max(samples.until_verified, samples.start or 0)
        voting = self.generate.vote is not None and task.answer is None
        return max(wanted, self.generate.vote.agree) if voting and self.generate.vote else wanted

    def _ask_plan(self) -> Any:
        from synth.plan import Route

        own = self.options
        return Route(
            self.generate.route,
            list(self.identities),
            {name: options.weight for name, options in own.items()},
            {name: options.samples for name, options in own.items() if options.samples},
        )

    def _mean(self, name: str, what: str) -> Figure | None:
        """The mean over the teacher's stored answers to such prompts, if there are enough."""
        values = [getattr(entry, what) for entry in self.history[name]]
        values = [float(value) for value in values if value is not None]
        return mean_of(values, self.run.seed) if len(values) >= LEAST_SAMPLE else None

    def _prompt_tokens(self, name: str) -> Figure:
        """Tokens of a prompt: by the teacher's own counts, by a tokenizer, or by characters."""
        known = [e for e in self.history[name] if e.prompt_tokens is not None]
        letters = [float(_letters(messages)) for _, messages in self.rendered]
        few = len(letters) < LEAST_SAMPLE
        whole = len(self.rendered) == len(self.questions)
        mean = sum(letters) / len(letters)
        length = exactly(mean) if whole or few else mean_of(letters, self.run.seed)
        if len(known) >= LEAST_SAMPLE:
            tokens = [float(e.prompt_tokens or 0) for e in known]
            spread = [float(max(1, _letters(e.request["messages"]))) for e in known]
            return length * ratio_of(tokens, spread, self.run.seed)
        if (count := self._counter()) is not None:
            counts = [float(sum(count(m["content"]) for m in ms)) for _, ms in self.rendered]
            mean = sum(counts) / len(counts)
            length = exactly(mean) if whole or few else mean_of(counts, self.run.seed)
            self._note("prompts are counted by another tokenizer than the teacher's: 0.7 to 1.6")
            return length * _OF_OTHER_TOKENIZER
        text = "".join(m["content"] for _, messages in self.rendered for m in messages)
        ascii_ = sum(letter.isascii() for letter in text)
        share = ascii_ / max(1, len(text))
        self._note(
            "prompts are counted by their characters: 2 to 7 of them a token, 4 expected; of a "
            "script other than Latin 1/3 to 3, 1 expected"
        )
        return length * (exactly(share) * _OF_ASCII + exactly(1 - share) * _OF_OTHER)

    def _counter(self) -> Callable[[str], int] | None:
        if self.tokenizer is not None:
            return stages.student_counter(self.tokenizer, False)
        return stages._student_counter(self.run)

    def _size(self, name: str, completion: Figure) -> Figure:
        """Bytes of a response in the store."""
        if (measured := self._mean(name, "size")) is not None:
            return measured
        letters = max(_letters(messages) for _, messages in self.rendered)
        size = completion * _OF_TOKEN + exactly(letters) * _OF_CHARACTER
        if width := self.generate.sampling.top_logprobs:
            size = size + completion * exactly(width + 1) * _OF_LABEL
        return size + exactly(ledger.ROW_BYTES)

    def _usd(self, name: str, parts: dict[str, Figure]) -> Figure:
        price = self.prices[name]
        if price is None:
            return Figure(None, None, None)
        return parts["prompt_tokens"] * exactly(price.input / 1e6) + parts[
            "completion_tokens"
        ] * exactly(price.output / 1e6)

    def _seconds(self, name: str, parts: dict[str, Figure], work: Figure) -> Figure:
        """Time by the latency of all calls over those in flight, and by the limits of rate."""
        own = self.options[name]
        width = own.concurrency or self.generate.concurrency
        tokens = parts["prompt_tokens"] + parts["completion_tokens"]
        paces = [work * exactly(1 / width)]
        if own.rpm:
            paces.append(parts["calls"] * exactly(60 / own.rpm))
        if own.tpm:
            paces.append(tokens * exactly(60 / own.tpm))
        return _slowest(paces)

    # With a sample: carried over to the rest.

    def _carried_over(
        self,
        sample: Sequence[_Question],
        open_: Sequence[_Question],
        bounds: dict[str, dict[str, Figure]],
    ) -> tuple[dict[str, dict[str, Figure]], dict[str, Figure]]:
        import numpy as np

        names, n = list(self.identities), len(sample)

        def table(questions: Sequence[_Question]) -> NDArray[np.float64]:
            none: Counter[str] = Counter()
            rows = [
                [float(q.has.get(name, none)[what]) for name in names for what in _COUNTED]
                for q in questions
            ]
            return np.asarray(rows)

        spread = table(sample)
        have = table(open_).sum(axis=0)  # of a question that was stopped in its middle
        low, high = (
            np.asarray([_limit(bounds[name], what, at) for name in names for what in _COUNTED])
            for at in ("low", "high")
        )
        draws, expected = sums_of_more(spread, len(open_), low, high, self.run.seed)
        draws, expected = np.maximum(draws - have, 0), np.maximum(expected - have, 0)
        teachers: dict[str, dict[str, Figure]] = {}
        drawn: dict[str, list[Any]] = {part: [] for part in PARTS}
        for i, name in enumerate(names):
            columns = slice(len(_COUNTED) * i, len(_COUNTED) * (i + 1))
            one = self._parts(name, draws[:, columns].T)
            mean = self._parts(name, expected[columns])
            teachers[name] = {}
            for part in PARTS:
                if one[part] is None:
                    teachers[name][part] = Figure(None, None, None)
                    continue
                teachers[name][part] = _either(
                    interval(one[part], float(mean[part]), n), bounds[name].get(part)
                )
                drawn[part].append((one[part], float(mean[part])))
        total = {}
        for part in PARTS:
            if len(drawn[part]) < len(names):
                total[part] = Figure(None, None, None)
            elif part == "seconds":  # the teachers answer at the same time
                slowest = np.max([one for one, _ in drawn[part]], axis=0)
                total[part] = interval(slowest, max(mean for _, mean in drawn[part]), n)
            else:
                summed = np.sum([one for one, _ in drawn[part]], axis=0)
                total[part] = interval(summed, sum(mean for _, mean in drawn[part]), n)
            if all(teachers[name][part].basis == "exact" for name in names):
                total[part] = exactly(sum(teachers[name][part].expected or 0 for name in names))
        return teachers, total

    def _parts(self, name: str, columns: Any) -> dict[str, Any]:
        """What drawn or expected columns come to, limits of rate and prices reckoned in."""
        import numpy as np

        calls, prompt, completion, size, latency = columns
        own, price = self.options[name], self.prices[name]
        paces = [latency / (own.concurrency or self.generate.concurrency)]
        if own.rpm:
            paces.append(calls * 60 / own.rpm)
        if own.tpm:
            paces.append((prompt + completion) * 60 / own.tpm)
        usd = None if price is None else (price.input * prompt + price.output * completion) / 1e6
        return {
            "calls": calls,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "usd": usd,
            "seconds": np.max(paces, axis=0),
            "bytes": size,
        }

    # What is said beside the figures.

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _note_what_is_missing(self, sampled: int, any_open: bool) -> None:
        if not any_open:
            return
        if sampled >= LEAST_SAMPLE:
            self._note(
                f"95%: a prediction for the sum over the open questions, from {sampled} that were "
                "drawn at random, by bootstrap (Stine 1985, Hesterberg 2015)"
            )
            self._note("hours are at the latency that was measured; more in flight may slow it")
            if self.generate.samples.give_up is not None:
                self._note("give_up is learned in the run only: it will buy less than this")
        else:
            self._note("bounds: less and more cannot be; --pilot 30 measures what to expect")
        for name, entries in self.history.items():
            untold = sum(e.prompt_tokens is None or e.completion_tokens is None for e in entries)
            if untold:
                self._note(
                    f"{untold} of {len(entries)} answers of {name} came without token counts: "
                    "tokens and money are reckoned too low"
                )
            if self.prices[name] is None:
                self._note(f"{name} has no price: set teachers.{name}.price to count money")

    def _budget(self, teachers: dict[str, dict[str, Figure]], total: dict[str, Figure]) -> Any:
        """A line for each cap: whether it will be reached."""
        caps: list[tuple[str, str, float | None, Figure, float]] = []
        spent = ledger.bought(self.run.store_path, self.run.name, 0.0)
        if budget := self.run.budget:
            usd = sum(one.usd for one in spent.values())
            tokens = sum(one.prompt_tokens + one.completion_tokens for one in spent.values())
            in_all = total["prompt_tokens"] + total["completion_tokens"]
            caps += [
                ("budget.usd", "${:,.2f}", budget.usd, total["usd"], usd),
                ("budget.tokens", "{:,.0f}", budget.tokens, in_all, tokens),
                ("budget.hours", "{:,.2f}", budget.hours, total["seconds"] * exactly(1 / 3600), 0),
            ]
        for name, own in self.options.items():
            if own.budget is None:
                continue
            one, parts = spent.get(name, ledger.Sums()), teachers[name]
            key = f"teachers.{name}.budget"
            in_all = parts["prompt_tokens"] + parts["completion_tokens"]
            tokens = one.prompt_tokens + one.completion_tokens
            caps += [
                (f"{key}.usd", "${:,.2f}", own.budget.usd, parts["usd"], one.usd),
                (f"{key}.tokens", "{:,.0f}", own.budget.tokens, in_all, tokens),
            ]
        for key, form, cap, figure, before in caps:
            if cap is not None:
                yield _cap_line(key, form, cap, figure, before)


def _cap_line(key: str, form: str, cap: float, figure: Figure, before: float) -> str:
    low, high = ((figure.low or 0) + before), figure.high
    if low > cap:
        verdict = "will be reached: the run stops there and goes on with a higher cap"
    elif high is None:
        verdict = "may be reached: nothing bounds it from above"
    elif high + before > cap:
        verdict = "may be reached"
    else:
        verdict = "will not be reached"
    spent = f", {form.format(before)} of it spent" if before else ""
    return f"{key} {form.format(cap)}{spent}: {verdict}"


def _asks_teacher(entry: str | dict[str, Any]) -> bool:
    name, _ = split_plugin("filter", entry)
    return bool(getattr(plugins.load("filter", name), "ASKS_TEACHER", False))


def _letters(messages: Sequence[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


def _comparable(sampling: dict[str, Any]) -> dict[str, Any]:
    """What has to be equal for one answer's length to say something of another's."""
    apart = {"seed", "max_tokens", "continue_final_message", "add_generation_prompt"}
    return {name: value for name, value in sampling.items() if name not in apart}


def _counted(entry: ledger.Entry) -> dict[str, Any]:
    return {
        "calls": 1,
        "prompt_tokens": entry.prompt_tokens or 0,
        "completion_tokens": entry.completion_tokens or 0,
        "bytes": entry.size,
        "latency": entry.latency,
    }


@dataclass(frozen=True)
class _Frame:
    """What a template puts around a question, where that is the same for all of them."""

    others: list[Message] | None
    before: str = ""
    after: str = ""

    def fits(self, messages: Sequence[Message]) -> bool:
        """Whether some stored messages came of the same template."""
        if self.others is None or list(messages[:-1]) != self.others:
            return False
        last = messages[-1]["content"]
        return last.startswith(self.before) and last.endswith(self.after)


def _frame_of(rendered: Sequence[tuple[Task, list[Message]]]) -> _Frame:
    frames = set()
    for task, messages in rendered[:20]:
        before, found, after = messages[-1]["content"].partition(task.question)
        if not found:
            return _Frame(None)
        frames.add((digest(messages[:-1]), before, after))
    if len(frames) != 1:
        return _Frame(None)
    ((_, before, after),) = frames
    return _Frame(rendered[0][1][:-1], before, after)


def _limit(parts: dict[str, Figure], what: str, at: str) -> float:
    """A bound of a counted column; without one, none."""
    value = getattr(parts[what], at) if what in parts else None
    return (0.0 if at == "low" else float("inf")) if value is None else float(value)


def _either(measured: Figure, bound: Figure | None) -> Figure:
    """What was measured, unless the figure is known exactly."""
    return bound if bound is not None and bound.basis == "exact" else measured


def _slowest(figures: Sequence[Figure]) -> Figure:
    """The longest of several times; a limit of one holds for all, even where others are unknown."""
    if len(figures) == 1:
        return figures[0]
    lows = [figure.low for figure in figures if figure.low is not None]
    expected = [figure.expected for figure in figures]
    highs = [figure.high for figure in figures]
    return Figure(
        max(lows) if lows else None,
        None if None in expected else max(e for e in expected if e is not None),
        None if None in highs else max(h for h in highs if h is not None),
        max((figure.basis for figure in figures), key=("exact", "95%", "bounds").index),
    )


def _in_all(teachers: dict[str, dict[str, Figure]]) -> dict[str, Figure]:
    total = {}
    for part in PARTS:
        figures = [parts[part] for parts in teachers.values()]
        total[part] = _slowest(figures) if part == "seconds" else sum(figures[1:], figures[0])
    return total


def _as_json(parts: dict[str, Figure]) -> dict[str, Any]:
    return {part: parts[part].to_dict() for part in PARTS}
