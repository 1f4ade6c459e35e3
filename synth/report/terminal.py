"""What the terminal shows of a stage that is done, and of an estimate."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from synth.config.run import Run
from synth.core.files import read_json
from synth.core.progress import duration
from synth.core.run_folder import RunFolder
from synth.report.evaluation import evaluation_summary
from synth.report.tables import console as _console
from synth.report.tables import percent as _percent
from synth.report.tables import table as _table
from synth.store.usage import bought


def stage_summary(name: str, run: Run) -> None:
    """Prints what a finished stage came to."""
    manifest = RunFolder(run.folder).manifest(name)
    if name == "generate" and manifest is not None:
        _estimate_beside_truth(run, manifest)
    show = {"filter": _funnel, "train": _training, "evaluate": evaluation_summary}.get(
        name.partition("-")[0]
    )
    if manifest is not None and show is not None:
        show(manifest)


def _funnel(manifest: dict[str, Any]) -> None:
    funnel = manifest["funnel"]
    tags = any(stage.get("tagged") for stage in funnel["filters"])
    table = _table("filter", "in", "dropped", *(("tagged",) if tags else ()), "alone", "reasons")
    for stage in funnel["filters"]:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in stage["reasons"].items())
        table.add_row(
            stage["name"],
            f"{stage['seen']:,}",
            f"{stage['dropped']:,}",
            *((f"{stage['tagged']:,}",) if tags else ()),
            f"{stage['alone']:,}",
            Text(reasons),
        )
    console = _console()
    console.print(table)
    kept, total = funnel["kept"], funnel["total"]
    size = f"; {funnel['tokens_kept']:,} of {funnel['tokens']:,} {funnel['unit']}"
    console.print(f"kept {kept:,} of {total:,} traces{size}")


def explain_funnel(run: Run) -> None:
    """Prints what the filters took in tokens, time, sources and difficulty."""
    manifest = RunFolder(run.folder).need("filter")
    funnel, console = manifest["funnel"], _console()
    unit, total = funnel["unit"], max(1, funnel["tokens"])
    whole = sum(stage["seconds"] for stage in funnel["filters"]) or 1.0
    table = _table("filter", f"{unit} dropped", "share", "us a trace", "share of the time", "")
    for stage in funnel["filters"]:
        table.add_row(
            stage["name"],
            f"{stage['tokens']:,}",
            _percent(stage["tokens"] / total),
            f"{1e6 * stage['seconds'] / max(1, funnel['total']):,.0f}",
            _percent(stage["seconds"] / whole),
            "",
        )
    console.print("\ntokens and time" if unit == "tokens" else "\nwords and time")
    console.print(table)
    for kind, title in (("sources", "source"), ("difficulties", "difficulty")):
        sorts = funnel[kind]
        if set(sorts) <= {""}:
            continue
        droppers = [stage for stage in funnel["filters"] if stage[kind]]
        table = _table(title, "in", *(stage["name"] for stage in droppers), "kept", "")
        for sort, count in sorted(sorts.items()):
            kept = funnel[f"{kind}_kept"].get(sort, 0)
            table.add_row(
                Text(sort or "(none)"),
                f"{count:,}",
                *(f"-{stage[kind].get(sort, 0):,}" for stage in droppers),
                f"{kept:,}",
                _percent(kept / count),
            )
        console.print(f"\nby {title}")
        console.print(table)
    for name, notes in manifest["notes"].items():
        for line in notes:
            console.print(Text(f"{name}: {line}"))


def calibration_summary(found: dict[str, Any]) -> None:
    """Prints what a dedup filter found of the edits that were planted."""
    console = _console()
    planted = f"{found['planted']:,} edited copies planted among {found['records']:,} traces"
    console.print(f"\n{found['filter']} at {found['threshold']:g}: {planted}")
    table = _table("planted pairs", "duplicates", "found", "recall", "")
    for one in (*found["bands"], *found["kinds"]):
        if one["pairs"]:
            recall = _percent(one["found"] / one["pairs"])
            table.add_row(Text(one["name"]), f"{one['pairs']:,}", f"{one['found']:,}", recall, "")
    console.print(table)
    recall = "-" if found["recall"] is None else _percent(found["recall"])
    precision = "nothing was dropped"
    if found["precision"] is not None:
        share, drops = _percent(found["precision"]), f"{found['dropped']:,}"
        precision = f"{share} of {drops} drops are as near to the record that they name as said"
    console.print(f"recall {recall}; precision: {precision}")
    for id, partner, similarity in found["wrong"][:5]:
        console.print(Text(f"  wrong: {id} of {partner} ({similarity:.3f})"))


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
    console = _console()
    questions, pilot = estimate["questions"], estimate["pilot"]
    if pilot is not None:
        cost = "no price" if pilot["unpriced"] else f"${pilot['cost_usd']:,.4f}"
        console.print(
            f"pilot: {pilot['questions']} questions, {pilot['bought']} answers bought"
            + (f" ({pilot['reused']} more were in the store)" if pilot["reused"] else "")
            + f", {pilot['kept']} kept, {pilot['prompt_tokens'] + pilot['completion_tokens']:,} "
            f"tokens, {cost}"
            + (f"; failed for good: {sum(pilot['failed'].values())}" if pilot["failed"] else "")
        )
    console.print(
        f"still to buy: the answers to {questions['open']:,} of {questions['total']:,} questions"
    )
    if not questions["open"]:
        return
    teachers = estimate["teachers"]
    shown = {**(teachers if len(teachers) > 1 else {}), "": estimate["total"]}
    table = _table("", "low", "expected", "high", "")
    for name, parts in shown.items():
        if len(shown) > 1:
            table.add_row(Text(name or "all together", style="bold"))
        for part, title in _PARTS.items():
            figure = parts[part]
            values = [_amount(part, figure[at]) for at in ("low", "expected", "high")]
            table.add_row(title, *values, figure["basis"])
    console.print(table)
    for line in (*estimate["budget"], *estimate["notes"]):
        console.print(line, markup=False)


def _estimate_beside_truth(run: Run, manifest: dict[str, Any]) -> None:
    """What was estimated and what was bought since, where there was an estimate."""
    estimate = read_json(run.folder / "estimate.json")
    if estimate is None:
        return
    sums = list(bought(run.store_path, run.name, estimate["created"]).values())
    truth: dict[str, float | None] = {
        "calls": sum(one.responses for one in sums),
        "prompt_tokens": sum(one.prompt_tokens for one in sums),
        "completion_tokens": sum(one.completion_tokens for one in sums),
        "usd": None if any(one.unpriced for one in sums) else sum(one.usd for one in sums),
        "seconds": manifest["counts"]["seconds"],
        "bytes": sum(one.size for one in sums),
    }
    table = _table("estimated, and bought since", "low", "expected", "high", "truth", "")
    for part, title in _PARTS.items():
        figure, true = estimate["total"][part], truth[part]
        values = [_amount(part, figure[at]) for at in ("low", "expected", "high")]
        low, high = figure["low"], figure["high"]
        outside = true is not None and (
            (low is not None and true < low) or (high is not None and true > high)
        )
        table.add_row(title, *values, _amount(part, true), "outside" if outside else "")
    _console().print(table)


def _amount(part: str, value: float | None) -> str:
    if value is None:
        return "?"
    if part == "usd":
        return f"${value:,.2f}" if value >= 1 else f"${value:.4f}"
    if part == "seconds":
        return duration(value)
    if part == "bytes":
        for unit in ("B", "kB", "MB"):
            if value < 1000:
                return f"{value:.3g} {unit}"
            value /= 1000
        return f"{value:,.3g} GB"
    return f"{value:,.0f}"


def _training(manifest: dict[str, Any]) -> None:
    _console().print(
        f"  {manifest['examples']:,} traces, {manifest['steps']} steps, "
        f"{manifest['tokens']:,} tokens ({manifest['loss_tokens']:,} with loss), "
        f"{manifest['tokens_per_second']:.0f} tokens/s, "
        f"last loss {manifest['final_loss']:.3f}"
    )
