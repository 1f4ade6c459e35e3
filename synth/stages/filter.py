"""The stage `filter`: runs the filters over the traces and parts the kept from the rejected.

Also `distill dedup --calibrate`: how well its dedup filters do on the user's own traces.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from synth.config.run import Run, traces_of
from synth.core.dataset import read_split, writing
from synth.core.environment import workers
from synth.core.errors import UserError
from synth.core.progress import duration, shown
from synth.core.record import Record
from synth.core.run_folder import RunFolder
from synth.stages._train.context_check import ContextCheck
from synth.stages.build_filters import FilterSet
from synth.stages.context import StageContext

if TYPE_CHECKING:
    from filters.engine.calibrate_dedup import Calibration
    from filters.engine.filter import Filter

OUTCOMES = "verdicts.sqlite"


def filter_inputs(section: list[Any], context: StageContext) -> dict[str, Any]:
    """Returns traces, filters with their options, and what their judgements depend on besides."""
    filters = context.filters
    return {
        "generate": context.folder.content(traces_of(context.run)),
        "filters": {f.name: f.config.model_dump(mode="json") for f in filters.filters},
        "around": filters.dependencies(context.folder),
    }


def filter_traces(
    section: list[Any], context: StageContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Gives every trace its verdicts and parts the kept from the rejected."""
    from filters.engine.funnel import Funnel
    from filters.engine.outcome_store import OutcomeStore

    folder, funnel, context_check = context.folder, Funnel(), ContextCheck(context.run)
    with OutcomeStore(folder.path / OUTCOMES) as outcomes:
        executor = context.filters.executor(folder, outcomes, context.say)
        progress = executor.progress

        def line() -> str:
            seconds = max(1e-9, time.monotonic() - progress.started)
            rate, done, total = progress.done / seconds, progress.done, progress.total
            left = f" · {duration((total - done) / rate)} left" if rate else ""
            return f"filter: {progress.doing} {done:,}/{total:,} traces · {rate:.0f}/s{left}"

        with shown(line):
            executor.judge()
            editors = [loaded for loaded in executor.filters if hasattr(loaded.module, "edit")]
            with writing(context.path, ("kept", "rejected")) as (splits, manifest):
                progress.begin("writing", folder.need(traces_of(context.run))["rows"]["train"])
                for record in executor.records():
                    funnel.add(record)
                    if record.rejected_by is None:
                        _edit(record, editors)
                        context_check.add(record)
                        splits["kept"].write(record)
                    else:
                        splits["rejected"].write(record)
                    progress.done += 1
                manifest |= {
                    "inputs": inputs,
                    "funnel": funnel.to_dict(),
                    "notes": executor.notes(),
                }
    context_check.report(context.say)
    return manifest


def _edit(record: Record, editors: list[Filter]) -> None:
    """Lets filters change a record that is kept, as their evidence says."""
    evidence = {v.filter: json.loads(v.evidence) for v in record.verdicts if v.evidence}
    for editor in editors:
        if editor.name in evidence:
            editor.module.edit(editor.config, record, evidence[editor.name])


def calibrations(run: Run, pairs: int) -> Iterator[Calibration]:
    """Yields how each dedup filter of the config does on a run's traces with `pairs` planted edits.

    Raises UserError where the config names no dedup filter, or the traces are not there.
    """
    from filters.base import Context
    from filters.engine.calibrate_dedup import FILTERS, calibrate

    chosen = [
        (name, loaded.config)
        for loaded in FilterSet.from_config(run).filters
        if (name := loaded.module.__name__.rpartition(".")[2]) in FILTERS
    ]
    if not chosen:
        raise UserError(f"the config names none of the filters {', '.join(FILTERS)}")
    folder = RunFolder(run.folder)
    folder.need(traces_of(run))
    for name, config in chosen:
        yield calibrate(
            name,
            lambda: read_split(folder.stage(traces_of(run)), "train"),
            config.model_dump(exclude_unset=True),
            Context(workers=workers(), seed=run.seed),
            pairs,
            run.seed,
        )
