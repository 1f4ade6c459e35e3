"""What the terminal shows of an evaluation, and of two that are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from synth.report.tables import change, console, interval, percent, table


def evaluation_summary(manifest: dict[str, Any]) -> None:
    """Prints what an evaluation came to. What an older manifest lacks is left out."""
    sampling = ", ".join(f"{key} {value}" for key, value in manifest["sampling"].items())
    results = list(manifest["results"].values())
    screen = console()
    screen.print(
        f"{manifest['questions']} questions, {manifest['samples']} answer(s) each; {sampling}; "
        f"right as {manifest['verifier']} says",
        markup=False,
    )
    rows = table("", "right", "95% interval", "cut off", "in form", "tokens", "prompt")
    for one in results:
        form, cut = one.get("format"), one.get("truncation")
        rows.add_row(
            Text(one["title"]),
            percent(one["accuracy"]),
            f"{percent(one['low'])} to {percent(one['high'])}",
            f"{one['truncated']:,} ({percent(cut['share'])})" if cut else str(one["truncated"]),
            percent(form["share"]) if form else "-",
            "-" if one["mean_tokens"] is None else f"{one['mean_tokens']:.0f}",
            Text(one["prompt"]),
        )
    screen.print(rows)
    _several(results)
    _groups(results)
    _benchmarks(results)
    if difference := manifest["difference"]:
        screen.print(f"after - before, paired: {change(difference)}")
    if closed := manifest.get("gap_closed"):
        gap = f"teacher - before: {100 * closed['gap']:+.1f} points"
        share = f"{closed['why']}, so no share of the gap is given"
        if closed["share"] is not None:
            share = f"{interval(closed)} of it was closed"
        screen.print(f"{gap}; {share}")


def _several(results: list[dict[str, Any]]) -> None:
    """pass@k and majority@k."""
    cells = [
        {
            f"{name}@{row['k']}": interval(row)
            for name in ("pass", "majority")
            for row in one.get(f"{name}_at_k", [])
            if row["k"] > 1
        }
        for one in results
    ]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    if columns:
        rows = table("", *columns, "")
        for one, row in zip(results, cells, strict=True):
            rows.add_row(Text(one["title"]), *(row.get(column, "-") for column in columns), "")
        console().print(rows)


def _groups(results: list[dict[str, Any]]) -> None:
    """Right by difficulty and by source, where there are several."""
    for sort in ("difficulty", "source"):
        groups = list(zip(*(one.get("by", {}).get(sort, []) for one in results), strict=True))
        if groups:
            rows = table(sort, "questions", *(one["title"] for one in results), "")
            for row in groups:
                title = Text(row[0]["group"] or "(none)")
                rows.add_row(title, f"{row[0]['questions']:,}", *map(interval, row), "")
            console().print(rows)


def _benchmarks(results: list[dict[str, Any]]) -> None:
    measured = [one for one in results if one.get("lm_eval")]
    if not measured:
        return
    rows = table("lm-eval, ± standard error", "questions", *(one["title"] for one in measured), "")
    for title, questions, cells in benchmark_rows(measured):
        rows.add_row(
            Text(title),
            "-" if questions is None else f"{questions:,}",
            *(_with_error(cell) for cell in cells),
            "",
        )
    console().print(rows)


def _with_error(metric: dict[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "-"
    error = metric["stderr"]
    return f"{metric['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def benchmark_rows(
    results: list[dict[str, Any]],
) -> Iterator[tuple[str, int | None, list[dict[str, Any] | None]]]:
    """For each task and metric of lm-eval its title, its questions, and what each result has."""
    tables: list[dict[tuple[str, str, str], dict[str, Any]]] = [
        {
            (name, metric["metric"], metric["filter"]): metric
            for name, task in one["lm_eval"]["tasks"].items()
            for metric in task["metrics"]
        }
        for one in results
    ]
    tasks = {name: t for one in results for name, t in one["lm_eval"]["tasks"].items()}
    for key in dict.fromkeys(key for one in tables for key in one):
        name, metric, chosen = key
        title = f"{name} {metric}" + ("" if chosen == "none" else f" ({chosen})")
        yield title, tasks[name]["questions"], [one.get(key) for one in tables]


def comparison_summary(found: dict[str, Any]) -> None:
    """Prints how two runs differ, as `synth.stages.compare.compare_runs` gives it."""
    screen = console()
    for name, run in zip(("A", "B"), found["runs"], strict=True):
        screen.print(f"{name}: {run}", markup=False)
    screen.print(f"{found['who']}, {found['questions']:,} questions", markup=False)
    rows = table("", "questions", "A", "B", "B - A, paired")
    named = [("all", found)] + [
        (f"{sort} {row['group'] or '(none)'}", row)
        for sort, groups in found["by"].items()
        for row in groups
    ]
    for title, row in named:
        rows.add_row(
            Text(title),
            f"{row['questions']:,}",
            percent(row["one"]),
            percent(row["other"]),
            change(row),
        )
    screen.print(rows)
    screen.print(f"p: {found['test']}", markup=False)
    if len(named) > 1:
        screen.print(
            "Groups are many looks at the same answers: some will seem to differ by chance."
        )
    for line in found["notes"]:
        screen.print(f"measured differently: {line}", markup=False)
