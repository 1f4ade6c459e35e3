"""The Python interface: load a config, run it or one stage of it, and read the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.run import Run, stages_of, traces_of
from synth.core.errors import UserError, nearest
from synth.core.run_folder import RunFolder

if TYPE_CHECKING:
    from datasets import Dataset

Say = Callable[[str], None]


def load_run(config: str | Path | Mapping[str, Any], *overrides: str, **sections: Any) -> Run:
    """Reads and checks a config. Nothing is asked, and nothing is spent.

    Args:
        config: A YAML file, the name of a shipped config, or the config as a dict.
        overrides: `dotted.key=value`, as on the command line.
        sections: Keys of the config with their new values. A dict changes only what it names.

    Raises:
        UserError: There is no such config, or it has mistakes; all of them are named.

    Example:
        >>> config = load_run("dry-run", seed=3, generate={"samples": {"max": 2}})
        >>> config.generate.samples.max
        2
    """
    from synth.config.validate import load_run

    changes = [f"{key}={json.dumps(value)}" for key, value in _dotted(sections)]
    name = str(config) if isinstance(config, Path) else config
    return load_run(name, [*overrides, *changes])[0]


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key of each value that is no dict, or an empty one."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def run(config: Run, say: Say = print) -> RunResult:
    """Runs every stage and writes the report; what is done already is not done again.

    `say` takes each line for the user.

    Raises:
        UserError: Something is missing on this machine, or a stage cannot be done.
        Unfinished: A cap or an obstacle stopped it; the next call goes on from there.

    Example:
        >>> result = run(load_run("dry-run"))
        >>> result.kept.num_rows
        6
    """
    from synth.report.html import write_report
    from synth.stages.pipeline import do_stage, refuse_if_lacking, refuse_if_untrainable

    refuse_if_lacking(config)
    refuse_if_untrainable(config, say)
    complete = [do_stage(stage, config, say) for stage in stages_of(config)]
    say(f"report: {write_report(config)}")
    return RunResult(config, all(complete))


def run_stage(name: str, config: Run, say: Say = print) -> RunResult:
    """Runs one stage (`tasks`, `generate`, `train-NAME`, ...); those before it must be done.

    Raises:
        UserError: The config has no such stage, or a stage before it is not done.
        Unfinished: A cap or an obstacle stopped it; the next call goes on from there.

    Example:
        >>> result = run_stage("filter", load_run("dry-run"))
        >>> result.funnel["kept"]
        6
    """
    from synth.stages.pipeline import do_stage, refuse_if_lacking

    stages = stages_of(config)
    if name not in stages:
        raise UserError(f"the config has no stage {name!r}{nearest(name, stages)}")
    refuse_if_lacking(config, name)
    return RunResult(config, do_stage(name, config, say))


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run has made so far. Each property reads the run's folder.

    All of them raise UserError where the stage that makes it is not done.
    """

    config: Run
    complete: bool = True  # whether all was done; False where some requests failed for good

    @property
    def folder(self) -> Path:
        """Returns the folder where everything of the run lies."""
        return self.config.folder

    def manifest(self, stage: str) -> dict[str, Any]:
        """Returns what a stage says of itself: its inputs, its rows, its figures."""
        return RunFolder(self.folder).need(stage)

    def traces(self, stage: str | None = None, split: str = "train") -> Dataset:
        """Returns a split of `import`, `generate` or `rewrite`, by default the one filtered."""
        from datasets import Dataset

        stage = stage or traces_of(self.config)
        self.manifest(stage)
        shards = sorted((self.folder / stage / "data").glob(f"{split}-*-of-*.parquet"))
        if not shards:
            raise UserError(f"{self.folder / stage}: no split {split!r}")
        return Dataset.from_parquet([str(shard) for shard in shards])

    @property
    def kept(self) -> Dataset:
        """Returns the traces that passed every filter, each with its verdicts."""
        return self.traces("filter", "kept")

    @property
    def rejected(self) -> Dataset:
        """Returns the traces that a filter dropped, each with its verdicts."""
        return self.traces("filter", "rejected")

    def to_pandas(self) -> Any:
        """Returns a DataFrame of all filtered traces; the column `kept` says which passed."""
        from datasets import concatenate_datasets

        kept, rejected = self.kept, self.rejected
        table = concatenate_datasets([kept, rejected]).flatten().to_pandas()
        table.insert(1, "kept", [True] * len(kept) + [False] * len(rejected))
        return table

    @property
    def funnel(self) -> dict[str, Any]:
        """Returns what filters dropped: `total`, `kept`, and under `filters` a dict for each."""
        funnel: dict[str, Any] = self.manifest("filter")["funnel"]
        return funnel

    @property
    def evaluation(self) -> dict[str, Any]:
        """Returns the evaluation: `results` by participant, `difference`, `gap_closed`."""
        return self.manifest("evaluate")

    @property
    def student(self) -> Path:
        """Returns the folder of the trained student."""
        return self.folder / "train" / str(self.manifest("train")["student"])

    @property
    def report(self) -> Path:
        """Returns the report, one HTML file. It is written where it is not there yet."""
        from synth.report.html import REPORT, write_report

        path = self.folder / REPORT
        return path if path.exists() else write_report(self.config)

    def __repr__(self) -> str:
        """Names the folder and the stages that are done."""
        folder = RunFolder(self.folder)
        done = [stage for stage in stages_of(self.config) if folder.manifest(stage)]
        return f"RunResult({self.folder}: {', '.join(done) or 'nothing'} done)"
