"""One self-contained HTML page for a run: what was asked, what came of it, and traces to read.

The page holds no script, asks nothing of the network, and escapes all text: what models and data
say is shown, never obeyed. No figure is shown that was not measured; what is missing is a dash.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from synth import __version__
from synth.config.plugin_entries import split_plugin
from synth.config.run import Run, questions_of, stages_of, traces_of
from synth.core.dataset import read_split
from synth.core.files import atomic_write
from synth.core.progress import duration
from synth.core.record import Record
from synth.core.run_folder import Folder, differences
from synth.report import charts
from synth.report.evaluation import benchmark_rows
from synth.report.trace_stats import TraceStats, gather

REPORT = "report.html"
STAGES = (
    "tasks", "import", "augment", "generate", "rewrite", "filter", "label", "train", "evaluate",
)  # fmt: skip
# Of one text; a model that runs wild writes megabytes.
MOST_CHARACTERS = 20_000
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
    with atomic_write(path, "w") as file:
        file.write(page)
    return path


def _contents(run: Run, folder: Folder) -> dict[str, Any]:
    """What the template shows, a key a section. A stage that is not done is None."""
    done = {stage: folder.manifest(stage) for stage in STAGES}
    stale = _stale(run, done)
    chain = {f"train-{name}": folder.manifest(f"train-{name}") for name in run.chain}
    # Traces of filters that are out of date would be counted beside a newer generation.
    filtered = done["filter"] is not None and "filter" not in stale
    if filtered:
        piles = {
            split: gather(folder.stage("filter"), split, done["filter"])
            for split in ("kept", "rejected")
        }
    else:
        piles = (
            {"traces": gather(folder.stage(traces_of(run)), "train", done[traces_of(run)])}
            if done[traces_of(run)]
            else {}
        )
    return {
        **done,
        "imported": done["import"],
        "run": run,
        "version": __version__,
        "stages": {
            stage: (done | chain)[stage]
            for stage in (*STAGES[:6], *chain, *STAGES[6:])
            if stage in stages_of(run) or stage not in _optional(run)
        },
        "chain": {name.partition("-")[2]: manifest for name, manifest in chain.items()},
        "asked": stages_of(run),
        "stale": stale,
        "changes": list(_changes(run, done)),
        "config": _yaml(run),
        "teachers": [_teacher(run, name) for name in _teacher_names(run)],
        "headline": headline(run, done),
        "skipped": _grouped(done["tasks"]["skipped"]) if done["tasks"] else [],
        "unasked": _reasons(folder.stage("tasks"), "rejected") if done["tasks"] else Counter(),
        "piles": piles,
        "all": sum(piles.values(), TraceStats()),
        "log": list(_log(folder.stage("train") / "log.jsonl")) if done["train"] else [],
        "accuracy": _accuracy(done["evaluate"]),
        "subsets": _subsets(done["evaluate"]),
        "parts": _parts(done["evaluate"]),
        "benchmarks": _benchmarks(done["evaluate"]),
        "turned": _turned(done["evaluate"]),
        "pairs": _pairs(folder.stage("evaluate"), done["evaluate"]),
    }


def _optional(run: Run) -> tuple[str, ...]:
    """The stages that are not shown where the config does not ask for them."""
    others = ("tasks", "generate") if run.traces is not None else ("import",)
    return ("augment", "rewrite", "label", *others)


# --- state of the run -----------------------------------------------------------------------------


def _stale(run: Run, done: Mapping[str, Any]) -> set[str]:
    """The stages whose result was made from something that has been made anew since."""
    stale: set[str] = set()
    made_from = {
        "augment": {"tasks": "tasks"},
        "generate": {"tasks": questions_of(run)},
        "rewrite": {"generate": "generate"},
        "filter": {"generate": traces_of(run), "eval": "tasks"},
        "label": {"filter": "filter"},
        "train": {"filter": "filter", "labels": "label"},
        "evaluate": {"questions": "tasks", "after": "train"},
    }
    for stage, sources in made_from.items():
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
        if run.generate is not None and "generate" in now:
            now["generate"] = run.generate.decisive()
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
    if imported := done["import"]:
        return f"{imported['rows']['train']:,} traces were read; they have not been filtered."
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
        (visible(one["title"]), _kind(who), one["accuracy"], one["low"], one["high"])
        for who, one in results.items()
    ]


def _kind(who: str) -> str:
    """The class of a bar: the models of a chain look alike."""
    return who.partition("_")[0]


def _subsets(evaluated: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """pass@k and majority@k as the names and rows of a table, and pass@k as bars of a chart."""
    results = (evaluated or {}).get("results", {})
    cells = {
        who: {
            f"{name}@{row['k']}": row
            for name in ("pass", "majority")
            for row in one.get(f"{name}_at_k", [])
            if row["k"] > 1
        }
        for who, one in results.items()
    }
    names = list(dict.fromkeys(name for row in cells.values() for name in row))
    return {
        "names": names,
        "rows": [
            (results[who]["title"], [row.get(name) for name in names]) for who, row in cells.items()
        ],
        "bars": [
            (
                f"{visible(results[who]['title'])}, {name}",
                _kind(who),
                cell["share"],
                cell["low"],
                cell["high"],
            )
            for who, row in cells.items()
            for name, cell in row.items()
            if name.startswith("pass")
        ],
    }


def _parts(evaluated: Mapping[str, Any] | None) -> dict[str, list[tuple[str, int, list[Any]]]]:
    """Accuracy by difficulty and by source, where there are several.

    Returns:
        For each way to sort the questions its rows: the group, its number of questions, and for
        each who was evaluated the share right with its interval.
    """
    results = list((evaluated or {}).get("results", {}).values())
    found = {}
    for sort in ("difficulty", "source"):
        columns = [one.get("by", {}).get(sort, []) for one in results]
        # All were asked the same questions, so their groups are the same.
        rows = [
            (cells[0]["group"], cells[0]["questions"], list(cells))
            for cells in zip(*columns, strict=True)
        ]
        if rows:
            found[sort] = rows
    return found


def _benchmarks(evaluated: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The benchmarks of lm-eval as the titles and rows of a table, where any were run."""
    measured = [one for one in (evaluated or {}).get("results", {}).values() if one.get("lm_eval")]
    if not measured:
        return None
    return {
        "version": measured[0]["lm_eval"].get("version"),
        "titles": [one["title"] for one in measured],
        "rows": list(benchmark_rows(measured)),
    }


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


def plain(value: Any) -> str:
    """A setting in the words of a config, without the braces and what is not set."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    if not isinstance(value, dict):
        return str(value)
    inside = (
        f"{name} ({plain(one)})" if isinstance(one, dict) else f"{name} {plain(one)}"
        for name, one in value.items()
        if one is not None
    )
    return ", ".join(inside)


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
        "plain": plain,
        "clipped": clipped,
        "count": _shown_as("{:,.0f}".format),
        "figure": _shown_as("{:,.4g}".format),
        "percent": _shown_as("{:.1%}".format),
        "signed": _shown_as(_signed),
        "duration": _shown_as(duration),
        "dollars": _shown_as(_dollars),
    }
    return environment.get_template("report.html.jinja")
