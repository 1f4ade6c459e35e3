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
from synth.report.evaluation import benchmark_rows
from synth.report.page_format import escape_control

# Kinds of change from before to after training, and how many questions of each are shown.
PAIRS_SHOWN = {(False, True): 3, (True, False): 2, (False, False): 1, (True, True): 1}


def teacher_names(run: Run) -> Iterable[str]:
    """Returns the names of the teachers that the run asks."""
    return (run.generate and run.generate.teachers) or run.teachers


def teacher_row(run: Run, name: str) -> dict[str, Any]:
    """Returns what the page shows of a teacher."""
    kind, options = split_plugin("teacher", run.teachers[name])
    return {
        "name": name,
        "kind": kind,
        "model": options.get("model"),
        "price": options.get("price"),
    }


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


def training_losses(path: Path) -> Iterator[tuple[int, float]]:
    """Yields step and loss of each step in the training log; a resumed training repeats some."""
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


def accuracy_bars(
    evaluated: Mapping[str, Any] | None,
) -> list[tuple[str, str, float, float, float]]:
    """Returns the bars of the chart of accuracy: title, class, share right and its interval."""
    results = (evaluated or {}).get("results", {})
    return [
        (escape_control(row["title"]), _kind(who), row["accuracy"], row["low"], row["high"])
        for who, row in results.items()
    ]


def _kind(who: str) -> str:
    """The class of a bar: the models of a chain look alike."""
    return who.partition("_")[0]


def subset_scores(evaluated: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """Returns pass@k and majority@k as names and rows of a table, and pass@k as bars of a chart."""
    results = (evaluated or {}).get("results", {})
    cells = {
        who: {
            f"{name}@{row['k']}": row
            for name in ("pass", "majority")
            for row in result.get(f"{name}_at_k", [])
            if row["k"] > 1
        }
        for who, result in results.items()
    }
    names = list(dict.fromkeys(name for row in cells.values() for name in row))
    return {
        "names": names,
        "rows": [
            (results[who]["title"], [row.get(name) for name in names]) for who, row in cells.items()
        ],
        "bars": [
            (
                f"{escape_control(results[who]['title'])}, {name}",
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


def group_scores(
    evaluated: Mapping[str, Any] | None,
) -> dict[str, list[tuple[str, int, list[Any]]]]:
    """Returns accuracy by difficulty and by source, where there are several.

    Returns:
        For each way to sort the questions its rows: the group, its number of questions, and for
        each who was evaluated the share right with its interval.
    """
    results = list((evaluated or {}).get("results", {}).values())
    tables = {}
    for sort in ("difficulty", "source"):
        columns = [result.get("by", {}).get(sort, []) for result in results]
        # All were asked the same questions, so their groups are the same.
        rows = [
            (cells[0]["group"], cells[0]["questions"], list(cells))
            for cells in zip(*columns, strict=True)
        ]
        if rows:
            tables[sort] = rows
    return tables


def benchmark_table(evaluated: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the benchmarks of lm-eval as the titles and rows of a table, where any were run."""
    results = (evaluated or {}).get("results", {}).values()
    measured = [result for result in results if result.get("lm_eval")]
    if not measured:
        return None
    return {
        "version": measured[0]["lm_eval"].get("version"),
        "titles": [result["title"] for result in measured],
        "rows": list(benchmark_rows(measured)),
    }


def answer_changes(evaluated: Mapping[str, Any] | None) -> dict[str, int] | None:
    """Returns how many questions are answered better, worse and as before after training."""
    results = (evaluated or {}).get("results", {})
    if not {"before", "after"} <= set(results):
        return None
    both = list(
        zip(results["before"]["per_question"], results["after"]["per_question"], strict=True)
    )
    better, worse = sum(b < a for b, a in both), sum(b > a for b, a in both)
    return {"better": better, "worse": worse, "same": len(both) - better - worse}


def answer_pairs(stage: Path, evaluated: Mapping[str, Any] | None) -> list[tuple[Record, Record]]:
    """Returns a few questions with the answers before and after, of each kind of change some."""
    if not {"before", "after"} <= set((evaluated or {}).get("results", {})):
        return []
    after = {
        record.task.id: record.rejected_by is None for record in _first_answers(stage, "after")
    }
    room = dict(PAIRS_SHOWN)
    chosen: dict[str, Record] = {}
    for record in _first_answers(stage, "before"):
        kind = (record.rejected_by is None, after.get(record.task.id, False))
        if record.task.id in after and room[kind]:
            room[kind] -= 1
            chosen[record.task.id] = record
    pairs = [
        (chosen[record.task.id], record)
        for record in _first_answers(stage, "after")
        if record.task.id in chosen
    ]
    order = list(PAIRS_SHOWN)
    return sorted(
        pairs,
        key=lambda pair: order.index((pair[0].rejected_by is None, pair[1].rejected_by is None)),
    )


def _first_answers(stage: Path, split: str) -> Iterator[Record]:
    """Yields the first answer to each question; further samples are passed over."""
    return (r for r in read_split(stage, split) if r.generation is None or r.generation.sample == 0)
