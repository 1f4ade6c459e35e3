"""What the report page shows of the config, the questions, training and evaluation."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from synth.config.plugin_entries import split_plugin
from synth.config.run import Run
from synth.core.dataset import read_split
from synth.core.record import Record
from synth.report.evaluation import Scores, benchmark_rows, subset_rows
from synth.report.page_format import escape_control

Results = Mapping[str, Scores]  # of the evaluation, by who was asked
Bar = tuple[str, str, float, float, float]  # title, class, share right and its interval

# Kinds of change from before to after training, and how many questions of each are shown.
PAIRS_SHOWN = {(False, True): 3, (True, False): 2, (False, False): 1, (True, True): 1}


def teacher_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Yields what the page shows of each teacher that the run asks."""
    for name in (run.generate and run.generate.teachers) or run.teachers:
        kind, options = split_plugin("teacher", run.teachers[name])
        yield {"name": name, "kind": kind} | {key: options.get(key) for key in ("model", "price")}


def config_text(run: Run) -> str:
    """Returns the config with its defaults filled in. A password inside an address is left out."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.dump(run.model_dump(mode="json", exclude_none=True), text)
    return re.sub(r"(?<=://)[^/@\s]+@", "…@", text.getvalue())


def skipped_rows(skipped: Iterable[Mapping[str, str]]) -> list[tuple[str, int, str]]:
    """Returns reasons for skipped rows, most frequent first, each with its count and first place.

    Words with a digit (ids, lines) differ from row to row and would make each a reason of its own.
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for row in skipped:
        reason = re.sub(r"\S*\d\S*", "…", row["reason"])
        counts[reason] += 1
        first.setdefault(reason, row["place"])
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def rejection_reasons(stage: Path) -> Counter[str]:
    """Returns how many records a stage rejected, by filter and kind of reason."""
    verdicts = (record.rejected_by for record in read_split(stage, "rejected"))
    return Counter(f"{verdict.filter}: {verdict.kind}" for verdict in verdicts if verdict)


def training_losses(stage: Path) -> list[tuple[int, float]]:
    """Returns step and loss of each step in the training log; a resumed training repeats some."""
    losses: dict[int, float] = {}
    if (path := stage / "log.jsonl").exists():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    losses[int(entry["step"])] = float(entry["loss"])
                except (ValueError, KeyError, TypeError):
                    continue  # a line without a loss, or the last one of a training that was killed
    return sorted(losses.items())


def accuracy_bars(results: Results) -> list[Bar]:
    """Returns the bars of the chart of accuracy."""
    return [_bar(who, row, "", row["accuracy"], row) for who, row in results.items()]


def _bar(who: str, result: Scores, suffix: str, share: float, ends: Scores) -> Bar:
    """Returns a bar; its class is such that the models of a chain look alike."""
    title = escape_control(result["title"]) + suffix
    return title, who.partition("_")[0], share, ends["low"], ends["high"]


def subset_scores(results: Results) -> dict[str, list[Any]]:
    """Returns pass@k and majority@k as names and rows of a table, and pass@k as bars of a chart."""
    names, rows = subset_rows(results.values())
    return {
        "names": names,
        "rows": [(r["title"], cells) for r, cells in zip(results.values(), rows, strict=True)],
        "bars": [
            _bar(who, result, f", {name}", cell["share"], cell)
            for (who, result), cells in zip(results.items(), rows, strict=True)
            for name, cell in zip(names, cells, strict=True)
            if cell and name.startswith("pass")
        ],
    }


def benchmark_table(results: Results) -> dict[str, Any] | None:
    """Returns the benchmarks of lm-eval as the titles and rows of a table, where any were run."""
    measured = [result for result in results.values() if result.get("lm_eval")]
    if not measured:
        return None
    return {
        "version": measured[0]["lm_eval"].get("version"),
        "titles": [result["title"] for result in measured],
        "rows": list(benchmark_rows(measured)),
    }


def answer_changes(results: Results) -> dict[str, int] | None:
    """Returns how many questions are answered better, worse and as before after training."""
    if not {"before", "after"} <= set(results):
        return None
    before, after = (results[who]["per_question"] for who in ("before", "after"))
    gains = [b - a for a, b in zip(before, after, strict=True)]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return {"better": better, "worse": worse, "same": len(gains) - better - worse}


def answer_pairs(stage: Path, results: Results) -> list[tuple[Record, Record]]:
    """Returns a few questions with the answers before and after, of each kind of change some."""
    if not {"before", "after"} <= set(results):
        return []
    right_after = {r.task.id: r.rejected_by is None for r in _first_answers(stage, "after")}
    room = dict(PAIRS_SHOWN)
    chosen: dict[str, tuple[tuple[bool, bool], Record]] = {}
    for record in _first_answers(stage, "before"):
        kind = (record.rejected_by is None, right_after.get(record.task.id, False))
        if record.task.id in right_after and room[kind]:
            room[kind] -= 1
            chosen[record.task.id] = (kind, record)
    pairs = [
        (*chosen[record.task.id], record)
        for record in _first_answers(stage, "after")
        if record.task.id in chosen
    ]
    order = list(PAIRS_SHOWN)
    pairs.sort(key=lambda pair: order.index(pair[0]))
    return [(before, after) for _, before, after in pairs]


def _first_answers(stage: Path, split: str) -> Iterator[Record]:
    """Yields the first answer to each question; further samples are passed over."""
    return (r for r in read_split(stage, split) if r.generation is None or r.generation.sample == 0)
