"""What the terminal shows of an evaluation, and of two that are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.text import Text

from synth.report.tables import change, console, interval, percent, table

Scores = dict[str, Any]  # of one who was evaluated, or a row of them


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
    for result in results:
        form, cut = result.get("format"), result.get("truncation")
        rows.add_row(
            Text(result["title"]),
            percent(result["accuracy"]),
            f"{percent(result['low'])} to {percent(result['high'])}",
            f"{result['truncated']:,} ({percent(cut['share'])})"
            if cut
            else str(result["truncated"]),
            percent(form["share"]) if form else "-",
            "-" if result["mean_tokens"] is None else f"{result['mean_tokens']:.0f}",
            Text(result["prompt"]),
        )
    screen.print(rows)
    _print_parts(results)
    if difference := manifest["difference"]:
        screen.print(f"after - before, paired: {change(difference)}")
    if closed := manifest.get("gap_closed"):
        gap = f"teacher - before: {100 * closed['gap']:+.1f} points"
        share = f"{closed['why']}, so no share of the gap is given"
        if closed["share"] is not None:
            share = f"{interval(closed)} of it was closed"
        screen.print(f"{gap}; {share}")


def _print_parts(results: list[Scores]) -> None:
    """Prints pass@k and majority@k, then what is right by group, then lm-eval's benchmarks."""
    names, scores = subset_rows(results)
    if names:
        rows = table("", *names, "")
        for result, row in zip(results, scores, strict=True):
            rows.add_row(Text(result["title"]), *(interval(c) if c else "-" for c in row), "")
        console().print(rows)
    titles = [result["title"] for result in results]
    for sort, groups in group_rows(results).items():
        rows = table(sort, "questions", *titles, "")
        for group, questions, shares in groups:
            rows.add_row(Text(group or "(none)"), f"{questions:,}", *map(interval, shares), "")
        console().print(rows)
    if measured := [result for result in results if result.get("lm_eval")]:
        titles = [result["title"] for result in measured]
        rows = table("lm-eval, ± standard error", "questions", *titles, "")
        for title, count, metrics in benchmark_rows(measured):
            cells = ["-" if count is None else f"{count:,}", *map(_with_error, metrics)]
            rows.add_row(Text(title), *cells, "")
        console().print(rows)


def _with_error(metric: Scores | None) -> str:
    if metric is None or metric["value"] is None:
        return "-"
    error = metric["stderr"]
    return f"{metric['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def subset_rows(results: Iterable[Scores]) -> tuple[list[str], list[list[Scores | None]]]:
    """Returns the names pass@k and majority@k, k above 1, and what each result has under each."""
    by_name: list[dict[str, Scores]] = [
        {
            f"{name}@{row['k']}": row
            for name in ("pass", "majority")
            for row in result.get(f"{name}_at_k", [])
            if row["k"] > 1
        }
        for result in results
    ]
    names = list(dict.fromkeys(name for scores in by_name for name in scores))
    return names, [[scores.get(name) for name in names] for scores in by_name]


def group_rows(results: Iterable[Scores]) -> dict[str, list[tuple[str, int, tuple[Scores, ...]]]]:
    """Returns group, questions and each result's share, by difficulty and by source.

    What has no groups is left out. All were asked the same questions, so their groups are the same.
    """
    columns = {
        sort: [result.get("by", {}).get(sort, []) for result in results]
        for sort in ("difficulty", "source")
    }
    tables = {
        sort: [(row[0]["group"], row[0]["questions"], row) for row in zip(*groups, strict=True)]
        for sort, groups in columns.items()
    }
    return {sort: rows for sort, rows in tables.items() if rows}


def benchmark_rows(
    results: Sequence[Scores],
) -> Iterator[tuple[str, int | None, list[Scores | None]]]:
    """Yields for each task and metric of lm-eval title, questions, and what each result has."""
    by_key: list[dict[tuple[str, str, str], Scores]] = [
        {
            (name, metric["metric"], metric["filter"]): metric
            for name, task in result["lm_eval"]["tasks"].items()
            for metric in task["metrics"]
        }
        for result in results
    ]
    tasks = {name: t for result in results for name, t in result["lm_eval"]["tasks"].items()}
    for key in dict.fromkeys(key for metrics in by_key for key in metrics):
        name, metric, answer_filter = key
        title = f"{name} {metric}" + ("" if answer_filter == "none" else f" ({answer_filter})")
        yield title, tasks[name]["questions"], [metrics.get(key) for metrics in by_key]


def comparison_summary(comparison: dict[str, Any]) -> None:
    """Prints how two runs differ, as `synth.stages.compare.compare_runs` gives it."""
    screen = console()
    for name, run in zip(("A", "B"), comparison["runs"], strict=True):
        screen.print(f"{name}: {run}", markup=False)
    screen.print(f"{comparison['who']}, {comparison['questions']:,} questions", markup=False)
    rows = table("", "questions", "A", "B", "B - A, paired")
    titled = [("all", comparison)] + [
        (f"{sort} {row['group'] or '(none)'}", row)
        for sort, groups in comparison["by"].items()
        for row in groups
    ]
    for title, row in titled:
        shares = percent(row["one"]), percent(row["other"])
        rows.add_row(Text(title), f"{row['questions']:,}", *shares, change(row))
    screen.print(rows)
    screen.print(f"p: {comparison['test']}", markup=False)
    if len(titled) > 1:
        screen.print(
            "Groups are many looks at the same answers: some will seem to differ by chance."
        )
    for line in comparison["notes"]:
        screen.print(f"measured differently: {line}", markup=False)
