"""What the terminal shows of a stage that is done, and of an estimate."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from synth.config.run import Run
from synth.core.files import read_json
from synth.core.progress import duration
from synth.core.run_folder import RunFolder
from synth.core.text.display import disk_size
from synth.report.evaluation import evaluation_summary
from synth.report.tables import console, percent, table
from synth.store.usage import bought


def stage_summary(name: str, run: Run) -> None:
    """Prints what a finished stage came to."""
    manifest = RunFolder(run.folder).manifest(name)
    if manifest is None:
        return
    if name == "generate":
        _estimate_beside_truth(run, manifest)
    show = {"filter": _funnel, "train": _training, "evaluate": evaluation_summary}
    if (kind := name.partition("-")[0]) in show:
        show[kind](manifest)


def _funnel(manifest: dict[str, Any]) -> None:
    funnel = manifest["funnel"]
    tags = any(stage.get("tagged") for stage in funnel["filters"])
    columns = ("dropped", "tagged", "alone") if tags else ("dropped", "alone")
    rows = table("filter", "in", *columns, "reasons")
    for stage in funnel["filters"]:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in stage["reasons"].items())
        figures = (f"{stage[key]:,}" for key in ("seen", *columns))
        rows.add_row(stage["name"], *figures, Text(reasons))
    screen = console()
    screen.print(rows)
    kept, total = funnel["kept"], funnel["total"]
    size = f"; {funnel['tokens_kept']:,} of {funnel['tokens']:,} {funnel['unit']}"
    screen.print(f"kept {kept:,} of {total:,} traces{size}")


def explain_funnel(run: Run) -> None:
    """Prints what the filters took in tokens, time, sources and difficulty."""
    manifest = RunFolder(run.folder).need("filter")
    funnel, screen = manifest["funnel"], console()
    unit, total = funnel["unit"], max(1, funnel["tokens"])
    whole = sum(stage["seconds"] for stage in funnel["filters"]) or 1.0
    rows = table("filter", f"{unit} dropped", "share", "us a trace", "share of the time", "")
    for stage in funnel["filters"]:
        rows.add_row(
            stage["name"],
            f"{stage['tokens']:,}",
            percent(stage["tokens"] / total),
            f"{1e6 * stage['seconds'] / max(1, funnel['total']):,.0f}",
            percent(stage["seconds"] / whole),
            "",
        )
    screen.print("\ntokens and time" if unit == "tokens" else "\nwords and time")
    screen.print(rows)
    for kind, title in (("sources", "source"), ("difficulties", "difficulty")):
        sorts = funnel[kind]
        if set(sorts) <= {""}:
            continue
        droppers = [stage for stage in funnel["filters"] if stage[kind]]
        rows = table(title, "in", *(stage["name"] for stage in droppers), "kept", "")
        for sort, count in sorted(sorts.items()):
            kept = funnel[f"{kind}_kept"].get(sort, 0)
            rows.add_row(
                Text(sort or "(none)"),
                f"{count:,}",
                *(f"-{stage[kind].get(sort, 0):,}" for stage in droppers),
                f"{kept:,}",
                percent(kept / count),
            )
        screen.print(f"\nby {title}")
        screen.print(rows)
    for name, notes in manifest["notes"].items():
        for line in notes:
            screen.print(Text(f"{name}: {line}"))


def calibration_summary(calibration: dict[str, Any]) -> None:
    """Prints what a dedup filter found of the edits that were planted."""
    screen = console()
    screen.print(
        f"\n{calibration['filter']} at {calibration['threshold']:g}: {calibration['planted']:,} "
        f"edited copies planted among {calibration['records']:,} traces"
    )
    rows = table("planted pairs", "duplicates", "found", "recall", "")
    for row in (*calibration["bands"], *calibration["kinds"]):
        if row["pairs"]:
            recall = percent(row["found"] / row["pairs"])
            rows.add_row(Text(row["name"]), f"{row['pairs']:,}", f"{row['found']:,}", recall, "")
    screen.print(rows)
    recall = "-" if calibration["recall"] is None else percent(calibration["recall"])
    precision = "nothing was dropped"
    if calibration["precision"] is not None:
        share, drops = percent(calibration["precision"]), f"{calibration['dropped']:,}"
        precision = f"{share} of {drops} drops are as near to the record that they name as said"
    screen.print(f"recall {recall}; precision: {precision}")
    for id, partner, similarity in calibration["wrong"][:5]:
        screen.print(Text(f"  wrong: {id} of {partner} ({similarity:.3f})"))


_PARTS = {
    "calls": "calls",
    "prompt_tokens": "prompt tokens",
    "completion_tokens": "answer tokens",
    "usd": "dollars",
    "seconds": "time",
    "bytes": "disk",
}


def estimate_summary(estimate: dict[str, Any]) -> None:
    """Prints an estimate as `synth.estimate.estimator.make_estimate` gives it."""
    screen = console()
    questions, pilot = estimate["questions"], estimate["pilot"]
    if pilot is not None:
        cost = "no price" if pilot["unpriced"] else f"${pilot['cost_usd']:,.4f}"
        screen.print(
            f"pilot: {pilot['questions']} questions, {pilot['bought']} answers bought"
            + (f" ({pilot['reused']} more were in the store)" if pilot["reused"] else "")
            + f", {pilot['kept']} kept, {pilot['prompt_tokens'] + pilot['completion_tokens']:,} "
            f"tokens, {cost}"
            + (f"; failed for good: {sum(pilot['failed'].values())}" if pilot["failed"] else "")
        )
    screen.print(
        f"still to buy: the answers to {questions['open']:,} of {questions['total']:,} questions"
    )
    if not questions["open"]:
        return
    teachers = estimate["teachers"]
    shown = {**(teachers if len(teachers) > 1 else {}), "": estimate["total"]}
    rows = table("", "low", "expected", "high", "")
    for name, parts in shown.items():
        if len(shown) > 1:
            rows.add_row(Text(name or "all together", style="bold"))
        for part, title in _PARTS.items():
            figure = parts[part]
            values = [_amount(part, figure[at]) for at in ("low", "expected", "high")]
            rows.add_row(title, *values, figure["basis"])
    screen.print(rows)
    for line in (*estimate["budget"], *estimate["notes"]):
        screen.print(line, markup=False)


def _estimate_beside_truth(run: Run, manifest: dict[str, Any]) -> None:
    """Prints what was estimated and what was bought since, where there was an estimate."""
    estimate = read_json(run.folder / "estimate.json")
    if estimate is None:
        return
    sums = list(bought(run.store_path, run.name, estimate["created"]).values())
    truth: dict[str, float | None] = {
        "calls": sum(totals.responses for totals in sums),
        "prompt_tokens": sum(totals.prompt_tokens for totals in sums),
        "completion_tokens": sum(totals.completion_tokens for totals in sums),
        "usd": None if any(t.unpriced for t in sums) else sum(t.usd for t in sums),
        "seconds": manifest["counts"]["seconds"],
        "bytes": sum(totals.size for totals in sums),
    }
    rows = table("estimated, and bought since", "low", "expected", "high", "truth", "")
    for part, title in _PARTS.items():
        figure, true = estimate["total"][part], truth[part]
        values = [_amount(part, figure[at]) for at in ("low", "expected", "high")]
        low, high = figure["low"], figure["high"]
        outside = true is not None and (
            (low is not None and true < low) or (high is not None and true > high)
        )
        rows.add_row(title, *values, _amount(part, true), "outside" if outside else "")
    console().print(rows)


def _amount(part: str, value: float | None) -> str:
    if value is None:
        return "?"
    if part == "usd":
        return f"${value:,.2f}" if value >= 1 else f"${value:.4f}"
    if part == "seconds":
        return duration(value)
    return disk_size(value) if part == "bytes" else f"{value:,.0f}"


def _training(manifest: dict[str, Any]) -> None:
    console().print(
        f"  {manifest['examples']:,} traces, {manifest['steps']} steps, "
        f"{manifest['tokens']:,} tokens ({manifest['loss_tokens']:,} with loss), "
        f"{manifest['tokens_per_second']:.0f} tokens/s, "
        f"last loss {manifest['final_loss']:.3f}"
    )
