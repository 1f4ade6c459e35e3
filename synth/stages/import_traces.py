"""The stage `import`: traces that other tools made become a data set of this run."""

from __future__ import annotations

import glob
import json
import re
from pathlib import Path
from typing import Any

from synth.config.plugin_entries import plugin_config, resolved, split_plugin
from synth.core import plugins
from synth.core.dataset import writing
from synth.core.errors import UserError
from synth.core.progress import Clock, shown
from synth.core.record import Record
from synth.stages._train.context_check import ContextCheck
from synth.stages.context import StageContext
from synth.traces import Tally, read_traces

DEFAULT_CONFIG = "filter-only"  # the shipped config that a bare data set is filtered with


def config_for(name: str) -> tuple[str, list[str]]:
    """Returns the config that `distill filter NAME` runs, and what to override in it.

    A data set (a file that is no YAML, a folder of files, a hub name with a slash) is filtered with
    the shipped config for that, in a run of its own name. Raises UserError where there is no such
    file, or it is the folder of a run.
    """
    path = Path(name)
    is_local = path.exists() or glob.has_magic(name)
    if path.suffix in (".yaml", ".yml") or (not is_local and "/" not in name):
        return name, []
    if not is_local and (name.count("/") != 1 or name[0] in "./~"):
        raise UserError(f"{name}: no such file or folder, and no name of a data set on a hub")
    if any(path.glob("*/manifest.json")):
        raise UserError(
            f"{name} is the folder of a run; give the config that it was made with, or to filter "
            f"its traces the folder of a stage, such as {path / 'generate'}"
        )
    suffix = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.split(".")[0]).strip("-.") or "data"
    entry = {"source": "file", "path": name} if is_local else {"source": "hub", "dataset": name}
    return DEFAULT_CONFIG, [f"name=filter-{suffix}", f"traces={json.dumps([entry])}"]


def import_inputs(section: list[dict[str, Any]], context: StageContext) -> dict[str, Any]:
    """Returns sources with their options, and what their local files are like."""
    files: dict[str, Any] = {}
    for entry in section:
        module = plugins.load("trace source", split_plugin("trace source", entry)[0])
        if hasattr(module, "inputs"):
            files |= module.inputs(plugin_config("trace source", entry))
    return {"traces": [resolved("trace source", entry) for entry in section], "files": files}


def import_traces(
    section: list[dict[str, Any]], context: StageContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Reads every source and writes its traces; a row that gives none goes on record."""
    tally, clock, context_check = Tally(), Clock(), ContextCheck(context.run)

    def line() -> str:
        skipped = tally.skipped.total()
        return (
            f"import: {tally.records:,} traces · {skipped:,} rows skipped · "
            f"{tally.records / clock.seconds:,.0f}/s"
        )

    with shown(line), writing(context.path, ("train",)) as (splits, manifest):
        for item in read_traces(section, context.say):
            tally.add(item)
            if isinstance(item, Record):
                context_check.add(item)
                splits["train"].write(item)
        context_check.refuse_if_all()
        manifest |= {"inputs": inputs, **tally.to_dict()}
    context_check.report(context.say)
    return manifest
