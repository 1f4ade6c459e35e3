"""One self-contained HTML page for a run: what was asked, what came of it, and traces to read.

The page holds no script, asks nothing of the network, and escapes all text: what models and data
say is shown, never obeyed. No figure is shown that was not measured; what is missing is a dash.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from synth import __version__
from synth.config.run import Run, stages_of, traces_of
from synth.core.files import atomic_write
from synth.core.progress import duration
from synth.core.run_folder import RunFolder
from synth.report import charts, page_format, sections
from synth.report.evaluation import group_rows
from synth.report.page_format import number_filter
from synth.report.run_state import config_changes, headline, out_of_date_stages
from synth.report.trace_stats import TraceStats, collect_stats

REPORT = "report.html"
STAGES = (
    "tasks", "import", "augment", "generate", "rewrite", "filter", "label", "train", "evaluate",
)  # fmt: skip


def write_report(run: Run) -> Path:
    """Writes `report.html` into the run's folder from whatever stages are done; returns its path.

    Raises UserError where a manifest or a shard of the run is damaged.
    """
    page = _template().render(_contents(run, RunFolder(run.folder)))
    path = run.folder / REPORT
    with atomic_write(path, "w") as file:
        file.write(page)
    return path


def _contents(run: Run, folder: RunFolder) -> dict[str, Any]:
    """Returns what the template shows, a key a section. A stage that is not done is None."""
    done = {stage: folder.manifest(stage) for stage in STAGES}
    # Not shown where the config does not ask for them.
    optional = {"augment", "rewrite", "label"}
    optional |= {"import"} if run.traces is None else {"tasks", "generate"}
    outdated = out_of_date_stages(run, done)
    chain = {f"train-{name}": folder.manifest(f"train-{name}") for name in run.chain}
    # Traces of filters that are out of date would be counted beside a newer generation.
    filtered = done["filter"] is not None and "filter" not in outdated
    stage = "filter" if filtered else traces_of(run)
    splits = {"kept": "kept", "rejected": "rejected"} if filtered else {"traces": "train"}
    stats: dict[str, TraceStats] = {}
    if (manifest := done[stage]) is not None:
        for name, split in splits.items():
            stats[name] = collect_stats(folder.stage(stage), split, manifest)
    tasks, results = done["tasks"], (done["evaluate"] or {}).get("results", {})
    return {
        **done,
        "imported": done["import"],
        "run": run,
        "version": __version__,
        "stages": {
            stage: (done | chain)[stage]
            for stage in (*STAGES[:6], *chain, *STAGES[6:])
            if stage in stages_of(run) or stage not in optional
        },
        "chain": {name.partition("-")[2]: manifest for name, manifest in chain.items()},
        "asked": stages_of(run),
        "out_of_date": outdated,
        "changes": list(config_changes(run, done)),
        "config": sections.config_text(run),
        "teachers": list(sections.teacher_rows(run)),
        "headline": headline(run, done),
        "skipped": sections.skipped_rows(tasks["skipped"]) if tasks else [],
        "unasked": sections.rejection_reasons(folder.stage("tasks")) if tasks else Counter(),
        "piles": stats,
        "all": sum(stats.values(), TraceStats()),
        "log": sections.training_losses(folder.stage("train")) if done["train"] else [],
        "accuracy": sections.accuracy_bars(results),
        "subsets": sections.subset_scores(results),
        "parts": group_rows(results.values()),
        "benchmarks": sections.benchmark_table(results),
        "turned": sections.answer_changes(results),
        "pairs": sections.answer_pairs(folder.stage("evaluate"), results),
    }


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=page_format.escape_control,
        # What an older manifest lacks is a dash, at whatever depth.
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["charts"] = charts
    environment.filters |= {
        "plain": page_format.plain,
        "clipped": page_format.clipped,
        "count": number_filter("{:,.0f}".format),
        "figure": number_filter("{:,.4g}".format),
        "percent": number_filter("{:.1%}".format),
        "signed": number_filter(page_format.signed),
        "duration": number_filter(duration),
        "dollars": number_filter(page_format.dollars),
    }
    return environment.get_template("report.html.jinja")
