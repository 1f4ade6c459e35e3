"""The stage `filter`: runs the filters over the traces and parts the kept from the rejected.

Also `distill dedup --calibrate`: how well its dedup filters do on the user's own traces.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from synth.config.run import Run, traces_of
from synth.core.dataset import read_split, writing
from synth.core.errors import UserError
from synth.core.process.environment import workers
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
    inputs = {
        "generate": context.folder.content(traces_of(context.run)),
        "filters": {name: options for name, _, options in filters.options},
        "around": filters.dependencies(context.folder),
    }
    # What was judged in a sandbox stays judged where there is none.
    before, whole = context.folder.manifest("filter"), _as_with_sandbox(inputs)
    return whole if before is not None and before["inputs"] == whole else inputs


def _as_with_sandbox(inputs: dict[str, Any]) -> dict[str, Any]:
    around = {
        name: {need: value for need, value in needs.items() if need != "sandbox"}
        for name, needs in inputs["around"].items()
    }
    return inputs | {"around": {name: needs for name, needs in around.items() if needs}}


def filter_traces(
    section: list[Any], context: StageContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Gives every trace its verdicts and parts the kept from the rejected."""
    from filters.base import NO_SANDBOX
    from filters.engine.funnel import Funnel
    from filters.engine.outcome_store import OutcomeStore

    folder, funnel, context_check = context.folder, Funnel(), ContextCheck(context.run)
    not_run: Counter[str] = Counter()  # by filter: records whose code it had no sandbox for
    with OutcomeStore(folder.path / OUTCOMES) as outcomes:
        executor = context.filters.executor(folder, outcomes, context.say)
        progress = executor.progress

        def line() -> str:
            seconds = max(1e-9, time.monotonic() - progress.started)
            rate, done, total = progress.done / seconds, progress.done, progress.total
            left = f" · {duration((total - done) / rate) if rate else '?'} left" * (done < total)
            return f"filter: {progress.doing} {done:,}/{total:,} traces · {rate:.0f}/s{left}"

        with shown(line):
            executor.judge()
            editors = [loaded for loaded in executor.filters if hasattr(loaded.module, "edit")]
            with writing(context.path, ("kept", "rejected")) as (splits, manifest):
                progress.begin("writing", folder.need(traces_of(context.run))["rows"]["train"])
                for record in executor.records():
                    funnel.add(record)
                    not_run.update(v.filter for v in record.verdicts if v.reason == NO_SANDBOX)
                    if record.rejected_by is None:
                        _edit(record, editors)
                        context_check.add(record)
                        splits["kept"].write(record)
                    else:
                        splits["rejected"].write(record)
                    progress.done += 1
                notes = executor.notes()
                for name, count in not_run.items():
                    note = (
                        f"cannot tell of {count:,} traces with code: no sandbox. "
                        "`distill doctor` says how to get one; a run with one judges them"
                    )
                    notes[name] = [*notes.get(name, []), note]
                    context.say(f"  {name}: {note}")
                if not not_run:
                    inputs = _as_with_sandbox(inputs)
                manifest |= {"inputs": inputs, "funnel": funnel.to_dict(), "notes": notes}
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
