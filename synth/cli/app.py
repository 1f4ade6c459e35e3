"""The command line. Importing it loads nothing heavy: each command imports what it uses."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from synth.cli._completion import complete_config
from synth.core.errors import EXIT_DONE, EXIT_PARTIAL, EXIT_USER, DistillError, UserError
from synth.core.installation import names_are_hidden, taken_names
from synth.core.process.interrupts import leaves_at_second_press
from synth.core.progress import done_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from synth.config.run import Run
    from synth.config.yaml_file import Source

app = typer.Typer(
    help="Turn a big model's reasoning into a better small model, from one config file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


Config = Annotated[
    str,
    typer.Argument(
        help="A YAML file, or the name of a shipped config.", autocompletion=complete_config
    ),
]
DataOrConfig = Annotated[
    str, typer.Argument(help="A YAML file, a shipped config, or a data set to filter.")
]
RunOrConfig = Annotated[str, typer.Argument(help="A run's folder, or its config.")]
RecordId = Annotated[str, typer.Argument(help="A record's id, or a question's.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted overrides, such as train.learning_rate=1e-5.")
]

say = typer.echo
# The groups of commands in the help.
SET_UP, RUN, STAGE, LOOK = "Set up", "Run", "Single stages", "Look"
Function = TypeVar("Function", bound="Callable[..., Any]")


def _command(group: str, example: str, name: str | None = None) -> Callable[[Function], Function]:
    """Adds a command to a group of the help, with an example of it."""
    return app.command(name, rich_help_panel=group, epilog=f"Example: {example}")


def _version(wanted: bool) -> None:
    if wanted:
        from synth import __version__

        say(f"synth-distill {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a big model's reasoning into a better small model, from one config file."""


@_command(SET_UP, "distill init my-run")
def init(
    name: Annotated[str, typer.Argument(help="Name of the run, and of the file.")] = "my-run",
    base: Annotated[
        str | None, typer.Option("--from", help="A shipped config to start from (list configs).")
    ] = None,
    traces: Annotated[
        str | None, typer.Option(help="Your own traces: a file, a folder, a glob or a hub set.")
    ] = None,
) -> None:
    """Write a commented config to start from: for an API, or for traces of your own."""
    from synth.cli.init import write_config

    path = write_config(name, base, traces)
    say(f"{path}: change what is yours in it, then: distill validate {path}")


def _load(config: str, overrides: list[str] | None) -> Run:
    from synth.config.validate import load_run

    run, source = load_run(config, overrides or [])
    for note in source.notes:
        typer.echo(f"note: {note}", err=True)
    return run


def _load_data(config: str, overrides: list[str] | None) -> Run:
    """Loads a config; for a bare data set the shipped one."""
    from synth.stages.import_traces import config_for

    name, more = config_for(config)
    return _load(name, [*more, *(overrides or [])])


@contextlib.contextmanager
def _placed(source: Source) -> Iterator[None]:
    """Puts file and line before a mistake that a stage finds in a key of the config."""
    try:
        yield
    except UserError as error:
        if type(error) is not UserError:
            raise
        raise UserError(source.placed(str(error))) from error


def _do(run: Run, stages: Iterable[str]) -> bool:
    """Does stages one after the other; returns whether all of it was done."""
    from synth.stages.pipeline import do_stage

    return all([do_stage(stage, run, say) for stage in stages])


def _one_stage(name: str, config: str, overrides: list[str] | None) -> None:
    from synth.config.validate import load_run
    from synth.core.process.environment import first_process
    from synth.report.terminal import stage_summary
    from synth.stages.pipeline import refuse_if_lacking, refuse_if_untrainable, refuse_unasked

    run, source = load_run(config, overrides or [])
    refuse_unasked(name, run)
    refuse_if_lacking(run, name)
    if name != "evaluate":
        refuse_if_untrainable(run, say, source)
    chain = [f"train-{step}" for step in run.chain]
    before = {
        "generate": ["tasks", *(["augment"] if run.augment else [])],
        "label": chain,
        "train": [*chain, *(["label"] if run.label else [])],
    }
    with _placed(source):
        whole = _do(run, [*before.get(name, []), name])
    if first_process():
        stage_summary(name, run)
    raise typer.Exit(EXIT_DONE if whole else EXIT_PARTIAL)


@_command(RUN, "distill run my.yaml train.learning_rate=2e-5")
def run(config: Config, overrides: Overrides = None) -> None:
    """Every stage from questions to report; what is done already is not done again."""
    from synth.config.run import stages_of
    from synth.config.validate import load_run
    from synth.report.html import write_report
    from synth.report.terminal import stage_summary
    from synth.stages.pipeline import do_stage, refuse_if_lacking, refuse_if_untrainable

    checked, source = load_run(config, overrides or [])
    refuse_if_lacking(checked)
    refuse_if_untrainable(checked, say, source)
    if checked.description:
        say(checked.description.strip() + "\n")
    whole = True
    for name in stages_of(checked):
        with _placed(source):
            whole = do_stage(name, checked, say) and whole
        stage_summary(name, checked)
    say(f"report: {write_report(checked)}")
    raise typer.Exit(EXIT_DONE if whole else EXIT_PARTIAL)


@_command(STAGE, "distill generate my.yaml generate.concurrency=64")
def generate(config: Config, overrides: Overrides = None) -> None:
    """Asks the teachers; answers that the store has are not bought again."""
    _one_stage("generate", config, overrides)


@_command(STAGE, "distill filter traces.jsonl --explain", name="filter")
def filter_(
    config: DataOrConfig,
    overrides: Overrides = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also what was lost by tokens, source, difficulty.")
    ] = False,
) -> None:
    """Runs the filters over the traces, a run's or any data set's, and prints the funnel."""
    from synth.config.run import stages_of
    from synth.report.terminal import explain_funnel, stage_summary
    from synth.stages.pipeline import do_stage, refuse_if_lacking

    run = _load_data(config, overrides)
    before = ("tasks", "import") if run.traces is not None else ()
    whole = True
    for stage in (*(name for name in stages_of(run) if name in before), "filter"):
        refuse_if_lacking(run, stage)
        whole = do_stage(stage, run, say) and whole
    stage_summary("filter", run)
    if explain:
        explain_funnel(run)
    say(f"kept: {run.folder / 'filter'}; `distill why {run.folder} ID` explains one record")
    raise typer.Exit(EXIT_DONE if whole else EXIT_PARTIAL)


@_command(LOOK, "distill why runs/my-run sums-1a2b3c-big-0")
def why(run: RunOrConfig, id: RecordId) -> None:
    """Says what every filter said of a record, and on what grounds."""
    from synth.cli.lookup import find_run
    from synth.cli.verdicts import explain_verdicts

    folder, _ = find_run(run, "filter")
    say(explain_verdicts(folder, id))


@_command(LOOK, "distill dedup traces.jsonl --calibrate")
def dedup(
    config: DataOrConfig,
    overrides: Overrides = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Plant known edits in the traces and count.")
    ] = False,
    pairs: Annotated[int, typer.Option(min=10, help="How many edits to plant.")] = 1000,
) -> None:
    """Measures the dedup filters on the traces at hand: recall and precision that they reach."""
    from synth.report.terminal import calibration_summary
    from synth.stages.filter import calibrations

    if not calibrate:
        raise UserError(
            "`distill filter` takes duplicates out; `distill dedup --calibrate` measures"
        )
    run = _load_data(config, overrides)
    if run.traces is not None:
        _do(run, ["import"])
    for calibration in calibrations(run, pairs):
        calibration_summary(calibration.to_dict())


@_command(STAGE, "distill label my.yaml --estimate")
def label(
    config: Config,
    overrides: Overrides = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say how many bytes and hours it takes.")
    ] = False,
) -> None:
    """Stores what the teachers think of every token of the kept traces."""
    if not estimate:
        return _one_stage("label", config, overrides)
    from synth.stages.label import show_estimate
    from synth.stages.pipeline import refuse_if_lacking, refuse_unasked

    run = _load(config, overrides)
    refuse_unasked("label", run)
    refuse_if_lacking(run, "label")
    show_estimate(run, say)


@_command(STAGE, "distill train my.yaml train.epochs=2")
def train(config: Config, overrides: Overrides = None) -> None:
    """Fine-tunes the student on the traces that were kept."""
    _one_stage("train", config, overrides)


@_command(STAGE, "distill evaluate my.yaml evaluate.samples=4")
def evaluate(config: Config, overrides: Overrides = None) -> None:
    """Measures the student before and after, and the teacher."""
    _one_stage("evaluate", config, overrides)


@_command(LOOK, "distill compare runs/first runs/second")
def compare(
    one: RunOrConfig,
    other: Annotated[str, typer.Argument(help="The run to compare with it.")],
    who: Annotated[
        str, typer.Option(help="Whose answers: before, after, teacher or chain_NAME.")
    ] = "after",
) -> None:
    """Says how two evaluated runs differ on the same questions, with interval and test."""
    from synth.cli.lookup import find_run
    from synth.report.evaluation import comparison_summary
    from synth.stages.compare import compare_runs

    first, second = (find_run(name)[0].path for name in (one, other))
    comparison_summary(compare_runs(first, second, who))


@_command(LOOK, "distill report my.yaml")
def report(config: Config, overrides: Overrides = None) -> None:
    """Writes report.html for what is done so far."""
    from synth.report.html import write_report

    say(str(write_report(_load_data(config, overrides))))


@_command(RUN, "distill preview my.yaml -n 3")
def preview(
    config: Annotated[str, typer.Argument(help="A YAML file, or a shipped config.")] = "dry-run",
    overrides: Overrides = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many questions.")] = 3,
    ask: Annotated[bool, typer.Option(help="Ask the teacher, or only show the prompts.")] = True,
) -> None:
    """Shows prompts, the teacher's traces, verdicts and the training mask for a few questions."""
    from synth.cli.preview import show

    show(_load(config, overrides), number, ask)


@_command(SET_UP, "distill validate my.yaml")
def validate(config: Config, overrides: Overrides = None) -> None:
    """Checks a config: every mistake at once, each with its line. Spends nothing."""
    from synth.config.run import stages_of
    from synth.config.validate import load_run, machine_problems, machine_warnings
    from synth.stages.build_teachers import prices_of, teacher_names
    from synth.stages.check_data import check_data
    from synth.stages.check_training import check_training

    checked, source = load_run(config, overrides or [])
    if checked.generate is not None:
        prices_of(checked, teacher_names(checked))
    check_data(checked, source, say)
    trainings = check_training(checked)
    trainings.refuse(source)
    say(f"{source.name}: valid; its stages: {', '.join(stages_of(checked))}, report")
    for line in trainings.checked:
        say(f"checked: {line}")
    for line in (*trainings.unchecked, *trainings.notes):
        say(line)
    for lack in machine_problems(checked):
        say(f"to run it here: {lack}")
    for warning in machine_warnings(checked):
        say(f"warning: {warning}")


@_command(RUN, "distill estimate my.yaml --pilot 30")
def estimate(
    config: Config,
    overrides: Overrides = None,
    pilot: Annotated[
        int | None,
        typer.Option(min=5, help="Buy the answers to so many random questions and measure them."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count prompts by this one; the student's by default.")
    ] = None,
) -> None:
    """Says what is still to be bought: calls, tokens, money, hours, disk, with intervals."""
    from synth.estimate.estimator import make_estimate
    from synth.report.terminal import estimate_summary

    estimate_summary(make_estimate(_load(config, overrides), pilot, tokenizer, say))


@_command(LOOK, "distill explain my.yaml sums-1a2b3c-big-0")
def explain(run: RunOrConfig, id: RecordId) -> None:
    """Says where a record came from, and why it was bought rather than reused."""
    from synth.cli.lookup import find_run
    from synth.cli.provenance import explain_origin

    say(explain_origin(*find_run(run, "generate"), id))


@_command(SET_UP, "distill recover runs/responses.sqlite")
def recover(
    store: Annotated[
        str, typer.Argument(help="The response store, such as runs/responses.sqlite.")
    ],
) -> None:
    """Saves every sound response of a damaged store; the damaged file is kept."""
    from pathlib import Path

    from synth.store.recover import recover

    recover(Path(store), say)


@_command(SET_UP, "distill schema > schema.json")
def schema() -> None:
    """Prints the JSON schema of a config, for editors."""
    import json

    from synth.config.schema import json_schema

    say(json.dumps(json_schema(), indent=1, ensure_ascii=False))


@_command(SET_UP, "distill list filters math_answer", name="list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="filters, teachers, tasks, traces, layouts, prompts or configs."),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="One of them: its options, types and defaults.")
    ] = None,
) -> None:
    """Lists all that a config can name, or what one of these takes."""
    from synth.cli.catalogue import catalogue

    say(catalogue(kind, name))


@_command(SET_UP, "distill doctor")
def doctor() -> None:
    """Says what is installed, what is missing, and what is wrong."""
    from synth.cli.doctor import diagnosis

    text, healthy = diagnosis()
    say(text)
    raise typer.Exit(EXIT_DONE if healthy else EXIT_USER)


def _refuse_hidden_names() -> None:
    """Raises UserError where `filters` or `sft` is another package; `doctor` says it by itself."""
    if names_are_hidden() and sys.argv[1:2] != ["doctor"]:
        raise UserError("\n".join(taken_names()))


def main() -> None:
    """Runs the command `distill`."""
    # Read when torch loads its OpenMP. By default idle threads spin for milliseconds; where another
    # process wants the same cores, two of them then run at a tenth of their speed together.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        _refuse_hidden_names()
        with leaves_at_second_press(done_now):
            app()  # exits by itself, with 2 for a wrong call and 130 for Ctrl-C
    except DistillError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_status)
    except (ImportError, AttributeError):  # a bug, or a file of ours that was overwritten
        if not (lines := taken_names()):
            raise
        typer.echo("\n".join(lines), err=True)
        sys.exit(EXIT_USER)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        typer.echo(
            f"the disk is full{where}; what was paid for is stored, make room and run again",
            err=True,
        )
        sys.exit(EXIT_PARTIAL)
