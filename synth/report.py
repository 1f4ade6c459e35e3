"""One self-contained HTML page for a run: what was asked, what came of it, and traces to read.

The page holds no script, asks nothing of the network, and escapes all text: what models and data
say is shown, never obeyed. No figure is shown that was not measured; what is missing is a dash.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from synth import __version__, charts
from synth.config import Run, split_plugin, stages_of
from synth.folder import Folder, differences
from synth.io import read_split
from synth.progress import duration
from synth.record import Record

REPORT = "report.html"
# Of one text; a model that runs wild writes megabytes.
MOST_CHARACTERS = 20_000
TRACES_SHOWN = 12
# Kinds of change from before to after training, and how many questions of each are shown.
PAIRS_SHOWN = {(False, True): 3, (True, False): 2, (False, False): 1, (True, True): 1}


def write_report(run: Run) -> Path:
    """Writes `report.html` into the run's folder from whatever stages are done.

    Returns:
        Where it lies.

    Raises:
        UserError: A manifest or a shard of the run is damaged.
    """
    page = _template().render(_contents(run, Folder(run.folder)))
    path = run.folder / REPORT
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def _contents(run: Run, folder: Folder) -> dict[str, Any]:
    """What the template shows, a key a section. A stage that is not done is None."""
    done = {
        stage: folder.manifest(stage)
        for stage in ("tasks", "generate", "filter", "train", "evaluate")
    }
    stale = _stale(done)
    # Traces of filters that are out of date would be counted beside a newer generation.
    filtered = done["filter"] is not None and "filter" not in stale
    if filtered:
        piles = {
            split: _pile(folder.stage("filter"), split, done["filter"])
            for split in ("kept", "rejected")
        }
    else:
        piles = (
            {"traces": _pile(folder.stage("generate"), "train", done["generate"])}
            if done["generate"]
            else {}
        )
    return {
        **done,
        "run": run,
        "version": __version__,
        "asked": stages_of(run),
        "stale": stale,
        "changes": list(_changes(run, done)),
        "config": _yaml(run),
        "teachers": [_teacher(run, name) for name in _teacher_names(run)],
        "headline": headline(run, done),
        "skipped": _grouped(done["tasks"]["skipped"]) if done["tasks"] else [],
        "unasked": _reasons(folder.stage("tasks"), "rejected") if done["tasks"] else Counter(),
        "piles": piles,
        "all": sum(piles.values(), Pile()),
        "log": list(_log(folder.stage("train") / "log.jsonl")) if done["train"] else [],
        "accuracy": _accuracy(done["evaluate"]),
        "turned": _turned(done["evaluate"]),
        "pairs": _pairs(folder.stage("evaluate"), done["evaluate"]),
    }


# --- state of the run -----------------------------------------------------------------------------

_MADE_FROM = {
    "generate": {"tasks": "tasks"},
    "filter": {"generate": "generate", "eval": "tasks"},
    "train": {"filter": "filter"},
    "evaluate": {"questions": "tasks", "after": "train"},
}


def _stale(done: Mapping[str, Any]) -> set[str]:
    """The stages whose result was made from something that has been made anew since."""
    stale: set[str] = set()
    for stage, sources in _MADE_FROM.items():
        inputs = (done[stage] or {}).get("inputs", {})
        for key, source in sources.items():
            now = (done[source] or {}).get("content")
            if key in inputs and (inputs[key] != now or (source in stale and now is not None)):
                stale.add(stage)
    return stale


def _changes(run: Run, done: Mapping[str, Any]) -> Iterator[str]:
    """How the config differs from the one that the finished stages ran with."""
    for stage, sections in {
        "tasks": ("tasks", "seed"),
        "generate": ("generate",),
        "train": ("student", "train"),
        "evaluate": ("student", "evaluate"),
    }.items():
        inputs = (done[stage] or {}).get("inputs", {})
        now = run.model_dump(mode="json", include=set(sections))
        for section in sections:
            before, after = inputs.get(section), now[section]
            if isinstance(before, dict) and isinstance(after, dict):
                # What a stage does not depend on, such as a batch size, is not among its inputs.
                after = {key: value for key, value in after.items() if key in before}
            if section in inputs:
                yield from (f"{stage}: {line}" for line in differences(before, after, section))


def headline(run: Run, done: Mapping[str, Any]) -> str:
    """The result in one sentence, as far as there is one."""
    if evaluated := done["evaluate"]:
        return _measured(evaluated)
    if trained := done["train"]:
        return (
            f"The student was trained on {trained['examples']:,} traces; it has not been evaluated."
        )
    if filtered := done["filter"]:
        kept, total = filtered["funnel"]["kept"], filtered["funnel"]["total"]
        return f"{kept:,} of {total:,} traces were kept; no student has been trained."
    if generated := done["generate"]:
        return (
            f"The teachers gave {generated['rows']['train']:,} traces; they have not been filtered."
        )
    if tasks := done["tasks"]:
        return f"{tasks['rows']['train']:,} questions are ready; no teacher has been asked."
    return "Nothing has been done yet."


def _measured(evaluated: Mapping[str, Any]) -> str:
    results, questions = evaluated["results"], evaluated["questions"]
    now = results.get("after") or results["before"]
    interval = f"(95% interval {100 * now['low']:.1f} to {100 * now['high']:.1f})"
    answers = (
        f"The student answers {now['accuracy']:.1%} of {questions:,} held-out questions {interval}"
    )
    difference = evaluated.get("difference")
    if "after" not in results or not difference:
        return f"{answers}; it was not trained." if "after" not in results else f"{answers}."
    points = _signed(100 * difference["difference"])
    low, high = 100 * difference["low"], 100 * difference["high"]
    clear = low > 0 or high < 0
    ends = f"{low:.1f} to {high:.1f}" if low > 0 else f"{_signed(low)} to {_signed(high)}"
    change = f"{points} points ({ends})" + ("" if clear else ", no measurable change")
    return f"{answers}, {results['before']['accuracy']:.1%} before training: {change}."


def _signed(value: float) -> str:
    """With a sign, and a minus that is as wide as the plus."""
    return f"{value:+.1f}".replace("-", "−")


# --- what was asked -------------------------------------------------------------------------------


def _teacher_names(run: Run) -> Iterable[str]:
    return (run.generate and run.generate.teachers) or run.teachers


def _teacher(run: Run, name: str) -> dict[str, Any]:
    kind, options = split_plugin("teacher", run.teachers[name])
    return {
        "name": name,
        "kind": kind,
        "model": options.get("model"),
        "price": options.get("price"),
    }


def _yaml(run: Run) -> str:
    """The config with its defaults filled in. A password inside an address is left out."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.dump(run.model_dump(mode="json", exclude_none=True), text)
    return re.sub(r"(?<=://)[^/@\s]+@", "…@", text.getvalue())


def _grouped(skipped: Iterable[Mapping[str, str]]) -> list[tuple[str, int, str]]:
    """Reasons for skipped rows, most frequent first, each with its count and its first place.

    Words with a digit (ids, lines) differ from row to row and would make each a reason of its own.
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for one in skipped:
        reason = re.sub(r"\S*\d\S*", "…", one["reason"])
        counts[reason] += 1
        first.setdefault(reason, one["place"])
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def _reasons(place: Path, split: str) -> Counter[str]:
    """How many records of a split were rejected by which filter and for which kind of reason."""
    verdicts = (record.rejected_by for record in read_split(place, split))
    return Counter(f"{verdict.filter}: {verdict.kind}" for verdict in verdicts if verdict)


# --- traces ---------------------------------------------------------------------------------------


@dataclass
class Pile:
    """What is known of the traces of one split, gathered in one pass while they stream by.

    Attributes:
        tokens: How many traces have which number of completion tokens; those unknown are not in it.
        prompt_tokens: Of the traces that say it, as is `cost_usd` of the `priced` ones.
        finish: Finish reasons; `models` counts the names that the endpoints gave.
        shown: The traces that the report shows.
    """

    rows: int = 0
    tokens: Counter[int] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cost_usd: float = 0.0
    priced: int = 0
    finish: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    shown: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Counts one trace."""
        self.rows += 1
        if (made := record.generation) is None:
            return
        self.finish[made.finish_reason] += 1
        self.models[made.model] += 1
        self.prompt_tokens += made.prompt_tokens or 0
        if made.completion_tokens is not None:
            self.tokens[made.completion_tokens] += 1
        if made.cost_usd is not None:
            self.cost_usd += made.cost_usd
            self.priced += 1

    def __add__(self, other: Pile) -> Pile:
        return Pile(**{name: getattr(self, name) + getattr(other, name) for name in vars(self)})

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of all traces, or None where not every trace says its own."""
        whole = self.tokens.total() == self.rows
        return sum(value * count for value, count in self.tokens.items()) if whole else None

    @property
    def cost(self) -> float | None:
        """Dollars for all traces, or None where not every one has a price."""
        return self.cost_usd if self.rows and self.priced == self.rows else None

    @property
    def mean(self) -> float | None:
        """Mean number of completion tokens of the traces that say it."""
        total = self.tokens.total()
        return sum(value * count for value, count in self.tokens.items()) / total if total else None

    def quantile(self, share: float) -> int | None:
        """The number of tokens that so many of the traces do not exceed."""
        wanted, seen = max(1, math.ceil(share * self.tokens.total())), 0
        for value in sorted(self.tokens):
            seen += self.tokens[value]
            if seen >= wanted:
                return value
        return None


def _pile(place: Path, split: str, manifest: Mapping[str, Any] | None) -> Pile:
    """One pass over a split."""
    pile = Pile()
    rows = (manifest or {}).get("rows", {}).get(split, 0)

    def counted() -> Iterator[Record]:
        for record in read_split(place, split):
            pile.add(record)
            yield record

    pile.shown = spread(counted(), rows, _sort_of, TRACES_SHOWN)
    return pile


def _sort_of(record: Record) -> Hashable:
    """Traces that differ in this are worth showing side by side."""
    if verdict := record.rejected_by:
        return verdict.filter, verdict.kind
    return record.task.source, record.generation and record.generation.teacher


def spread(
    records: Iterable[Record], rows: int, sort_of: Callable[[Record], Hashable], most: int
) -> list[Record]:
    """The first record of each sort, then others from all over the data: the same ones every time.

    Reads all records, holds few of them.
    """
    first: dict[Hashable, Record] = {}
    others: list[Record] = []
    step = max(1, rows // most)
    for index, record in enumerate(records):
        if len(first) < most and (sort := sort_of(record)) not in first:
            first[sort] = record
        elif index % step == 0 and len(others) < most:
            others.append(record)
    return [*first.values(), *others][:most]


# --- training and evaluation ----------------------------------------------------------------------


def _log(path: Path) -> Iterator[tuple[int, float]]:
    """Step and loss of each line of the training log. A resumed training may repeat a step."""
    losses: dict[int, float] = {}
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    losses[int(entry["step"])] = float(entry["loss"])
                except (ValueError, KeyError, TypeError):
                    continue  # a line without a loss, or the last one of a training that was killed
    yield from sorted(losses.items())


def _accuracy(evaluated: Mapping[str, Any] | None) -> list[tuple[str, str, float, float, float]]:
    results = (evaluated or {}).get("results", {})
    return [
        (visible(one["title"]), who, one["accuracy"], one["low"], one["high"])
        for who, one in results.items()
    ]


def _turned(evaluated: Mapping[str, Any] | None) -> dict[str, int] | None:
    """How many questions are answered better, worse and as before after training."""
    results = (evaluated or {}).get("results", {})
    if not {"before", "after"} <= set(results):
        return None
    both = list(
        zip(results["before"]["per_question"], results["after"]["per_question"], strict=True)
    )
    better, worse = sum(b < a for b, a in both), sum(b > a for b, a in both)
    return {"better": better, "worse": worse, "same": len(both) - better - worse}


def _pairs(place: Path, evaluated: Mapping[str, Any] | None) -> list[tuple[Record, Record]]:
    """A few questions with the answers before and after, of each kind of change some."""
    if not {"before", "after"} <= set((evaluated or {}).get("results", {})):
        return []
    after = {
        record.task.id: record.rejected_by is None for record in _first_answers(place, "after")
    }
    room = dict(PAIRS_SHOWN)
    chosen: dict[str, Record] = {}
    for record in _first_answers(place, "before"):
        kind = (record.rejected_by is None, after.get(record.task.id, False))
        if record.task.id in after and room[kind]:
            room[kind] -= 1
            chosen[record.task.id] = record
    pairs = [
        (chosen[record.task.id], record)
        for record in _first_answers(place, "after")
        if record.task.id in chosen
    ]
    order = list(PAIRS_SHOWN)
    return sorted(
        pairs,
        key=lambda pair: order.index((pair[0].rejected_by is None, pair[1].rejected_by is None)),
    )


def _first_answers(place: Path, split: str) -> Iterator[Record]:
    """The first answer to each question; further samples of it are passed over."""
    return (r for r in read_split(place, split) if r.generation is None or r.generation.sample == 0)


# --- the page -------------------------------------------------------------------------------------

# Characters that a page cannot hold, or that would change how the text around them reads.
_VISIBLE: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    **dict.fromkeys([*range(0x7F, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd"),
    **{code: f"⟨U+{code:04X}⟩" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
_MISSING = Markup('<span class="missing" title="{}">–</span>')


def visible(value: Any) -> Any:
    """Makes any value fit to be shown: every expression of the template passes through here.

    NULs, lone surrogates and marks that turn the direction of writing become visible signs.
    """
    if isinstance(value, Markup):
        return value
    if value is None or isinstance(value, jinja2.Undefined):
        return _MISSING.format("not measured")
    return str(value).replace("\r\n", "\n").translate(_VISIBLE)


def clipped(text: str) -> str:
    """The beginning of a long text, and how much more there is."""
    more = len(text) - MOST_CHARACTERS
    return text if more <= 0 else f"{text[:MOST_CHARACTERS]}\n… {more:,} more characters"


def _shown_as(form: Callable[[Any], str]) -> Callable[..., str]:
    """A template filter that shows a value in a form, or a dash that says why there is none."""

    def show(value: Any, missing: str = "not measured") -> str:
        known = isinstance(value, int | float) and math.isfinite(value)
        return form(value) if known else _MISSING.format(missing)

    return show


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 10 or value == 0 else f"${value:.4f}"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=visible,
        # What an older manifest lacks is a dash, at whatever depth.
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["charts"] = charts
    environment.filters |= {
        "clipped": clipped,
        "count": _shown_as("{:,.0f}".format),
        "figure": _shown_as("{:,.4g}".format),
        "percent": _shown_as("{:.1%}".format),
        "signed": _shown_as(_signed),
        "duration": _shown_as(duration),
        "dollars": _shown_as(_dollars),
    }
    return environment.get_template("report.html.jinja")
