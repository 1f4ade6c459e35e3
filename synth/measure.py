"""The evaluation stage: the student before and after, and the teacher, on the same questions.

All of them are asked through the generation's own machinery, so an evaluation that was killed goes
on where it was, and every answer is kept. How the figures are made is in docs/evaluation.md.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.plugin_entries import resolved, split_plugin
from synth.config.run import Run, RunStudent
from synth.config.validate import load_run
from synth.core import plugins
from synth.core.dataset import SplitWriter, read_split, writing
from synth.core.errors import UserError, nearest
from synth.core.files import read_json, write_json
from synth.core.models import load_model, load_tokenizer, weights_identity
from synth.core.processes import workers
from synth.core.progress import Clock
from synth.core.prompts import Prompt, load_prompt
from synth.core.record import Record, Task
from synth.core.run_folder import Folder
from synth.generate.spec import Ask
from synth.generate.stats import Counts
from synth.run_teachers import ask_all, build_teachers, prices_of, teacher_options
from synth.stages import Say
from synth.teachers.base import Teacher, TeacherConfig
from synth.training import model_path, stage_name

if TYPE_CHECKING:
    from sft.scores import Reader, Scores

# Which figures a manifest holds. An evaluation with others is done again, from stored answers.
FIGURES = 2
# Requests to an engine that makes up its own batches.
_CONCURRENCY = 256


@dataclass(frozen=True)
class _Weights:
    """A student as weights on the disk.

    Attributes:
        place: What loads it: a folder, or any other name of a model.
        student: Its section of the config.
        template: The chat template in place of the weights' own.
    """

    place: str
    student: RunStudent
    template: str | None = None


@dataclass(frozen=True)
class _Asked:
    """Someone who is evaluated: under which prompt, as which model, and how it is asked."""

    title: str
    teachers: dict[str, Teacher]
    prompt: str
    values: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)
    weights: _Weights | None = None


# --- what it depends on ---------------------------------------------------------------------------


def evaluate_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """All that the evaluation's figures depend on."""
    assert run.evaluate is not None
    assert run.student is not None
    after = folder.manifest("train")
    teachers, templates = {}, [run.student.prompt.template]
    if run.evaluate.teacher and run.generate:
        teachers = build_teachers(run)
        templates.append(run.generate.prompt.template)
    return {
        "version": FIGURES,
        "questions": folder.content("tasks"),
        "evaluate": run.evaluate.model_dump(mode="json", exclude={"batch_size", "engine"}),
        "engine": _decisive(run),
        "verifier": resolved("filter", run.evaluate.verifier),
        "student": run.student.model_dump(mode="json"),
        "before": weights_identity(model_path(run, run.student.model)),
        "after": after["content"] if after else None,
        "chain": {name: manifest["content"] for name, manifest in _chain(run, folder).items()},
        "teachers": {name: teacher.identity for name, teacher in teachers.items()},
        "teacher_prompt": run.generate.prompt.model_dump() if run.generate else None,
        "prompts": [load_prompt(name).hash for name in templates],
        "benchmarks": _benchmark_files(run),
    }


def _decisive(run: Run) -> dict[str, Any]:
    """The engine and those of its options that can change an answer."""
    assert run.evaluate is not None
    kind, options = run.evaluate.engine_for("student")
    without = {"batch_size", "model", "chat_template"} | TeacherConfig.shared()
    return {"kind": kind, **options.model_dump(mode="json", exclude=without)}


def _benchmark_files(run: Run) -> dict[str, Any]:
    """lm-eval's version and the user's own benchmarks, where there are any to be run."""
    assert run.evaluate is not None
    if run.evaluate.lm_eval is None:
        return {}
    try:
        found: dict[str, Any] = {"lm_eval": importlib.metadata.version("lm_eval")}
    except importlib.metadata.PackageNotFoundError:
        found = {"lm_eval": None}
    if run.evaluate.lm_eval_path is not None:
        place = Path(run.evaluate.lm_eval_path)
        for path in sorted(path for path in place.rglob("*") if path.is_file()):
            stat = path.stat()
            found[str(path.relative_to(place))] = [stat.st_size, stat.st_mtime_ns]
    return found


def _chain(run: Run, folder: Folder) -> dict[str, dict[str, Any]]:
    """The manifests of the chain's models that are trained, where the config wants them asked."""
    assert run.evaluate is not None
    names = run.chain if run.evaluate.chain else ()
    found = {name: folder.manifest(stage_name(name)) for name in names}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


# --- the stage ------------------------------------------------------------------------------------


def evaluate(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Asks everyone, verifies, and writes every answer and the figures."""
    from filters.chain import FilterSpec, build_chain
    from filters.contract import Context
    from filters.funnel import difficulty_of
    from sft import scores

    assert run.evaluate is not None
    benchmarks = _benchmarks(run)
    tasks = [record.task for record in read_split(folder.stage("tasks"), "eval")]
    tasks = tasks[: run.evaluate.limit]
    sorts = {
        "difficulty": [difficulty_of(Record("", task, [], None, "")) for task in tasks],
        "source": [task.source for task in tasks],
    }
    asked = _everyone(run, folder)
    verifier = FilterSpec(*split_plugin("filter", run.evaluate.verifier))
    results: dict[str, Any] = {}
    complete = True
    with (
        build_chain([verifier], Context(workers=workers())) as chain,
        writing(folder.stage("evaluate"), asked) as (splits, manifest),
    ):
        for who, one in asked.items():
            counts = Counts(questions_total=len(tasks))
            prompt = load_prompt(one.prompt)
            counted = scores.Scores(tasks, reader(prompt, one.values))
            ask = Ask(
                teachers=one.teachers,
                prices=prices_of(run, one.teachers) if who == "teacher" else {},
                prompt=prompt,
                values=one.values,
                sampling=run.evaluate.sampling,
                samples=_samples(run, one),
                check=chain.check_trace,
                **one.how,
            )
            clock = Clock()
            take = _taking(counted, splits[who])
            ask_all(run, ask, tasks, take, counts, f"evaluate {one.title}")
            complete = complete and not counts.failed
            results[who] = {
                "title": one.title,
                "prompt": one.prompt,
                "seconds": clock.seconds,
                "bought": counts.bought,
                **counted.figures(sorts, _subset_sizes(run), run.evaluate.majority),
            }
            if one.weights is not None and benchmarks is not None:
                results[who]["lm_eval"] = benchmarks(folder, who, one, say)
        manifest |= {
            "inputs": inputs,
            "complete": complete,
            "questions": len(tasks),
            "asked": {"ids": [task.id for task in tasks], **sorts},
            "samples": run.evaluate.samples,
            "sampling": run.evaluate.sampling.parameters(0),
            "verifier": verifier.name,
            "results": results,
            "difference": scores.difference(results),
            "gap_closed": scores.gap(results),
        }
    return manifest


def _taking(counted: Scores, writer: SplitWriter) -> Callable[[Task, list[Record]], None]:
    def take(_: Task, records: list[Record]) -> None:
        counted.take(records)
        for record in records:
            writer.write(record)

    return take


def _samples(run: Run, one: _Asked) -> Any:
    from synth.config.generate import Samples

    assert run.evaluate is not None
    return Samples(max=run.evaluate.samples * len(one.teachers))


def _subset_sizes(run: Run) -> list[int]:
    """The k of pass@k and majority@k: the config's, else the powers of two up to the samples."""
    assert run.evaluate is not None
    samples = run.evaluate.samples
    powers = {2**power for power in range(samples.bit_length())} | {samples}
    return sorted({1, *(k for k in run.evaluate.k or powers if k <= samples)})


def reader(prompt: Prompt, values: Mapping[str, Any]) -> Reader:
    """How the answers to a prompt are read: by the filters' own rules.

    Whether one is in form is what `think_format` says of the form that the prompt asks for: what
    its text and the config's values name, a box and a think block. What the question says does not
    count.
    """
    from filters._agreement import final_answer, tally_weighted
    from filters.contract import Context
    from filters.think_format import Config, build
    from sft.scores import Reader

    asked = prompt.source.split("\n", prompt.body_line - 1)[-1] + str(dict(values))
    final = "boxed" if "\\boxed" in asked else "text"
    config = Config.model_validate({"require_reasoning": "<think>" in asked, "final_answer": final})
    check: Any = build(config, Context())
    return Reader(lambda record: check(record).keep is True, final_answer, tally_weighted)


# --- who is evaluated -----------------------------------------------------------------------------


def _everyone(run: Run, folder: Folder) -> dict[str, _Asked]:
    """Who is evaluated: the student before and after, the chain's models, the teachers."""
    assert run.student is not None
    assert run.evaluate is not None
    everyone = {"before": _student(run, "student before", _before(run, folder))}
    if manifest := folder.manifest("train"):
        place = str(folder.stage("train") / manifest["student"])
        everyone["after"] = _student(run, "student after", _Weights(place, run.student))
    for name in _chain(run, folder):
        weights = _Weights(model_path(run, f"trained:{name}"), run.chain[name].student)
        # A chain may well call a model `teacher`, so its key says what it is.
        everyone[f"chain_{name}"] = _student(run, f"{name} (chain)", weights)
    if run.evaluate.teacher and run.generate is not None:
        teachers = build_teachers(run)
        everyone["teacher"] = _Asked(
            "teacher",
            teachers,
            run.generate.prompt.template,
            run.generate.prompt.values,
            # As in the generation: it is the same money.
            {
                "concurrency": run.generate.concurrency,
                "options": teacher_options(run, teachers),
                "budget": run.budget,
                "patience_s": run.generate.patience_s,
                "run": run.name,
            },
        )
    return everyone


def _student(run: Run, title: str, weights: _Weights) -> _Asked:
    """A student, answered for by the engine of the config."""
    assert run.evaluate is not None
    student = weights.student
    kind, options = run.evaluate.engine_for(
        weights.place,
        dtype=student.dtype,
        batch_size=run.evaluate.batch_size,
        trust_remote_code=student.trust_remote_code,
        chat_template=weights.template,
    )
    teacher: Teacher = plugins.load("teacher", kind).build(options, "student")
    concurrency = 2 * run.evaluate.batch_size if kind == "transformers" else _CONCURRENCY
    return _Asked(
        title,
        {"student": teacher},
        student.prompt.template,
        student.prompt.values,
        {"concurrency": concurrency, "options": {"student": options}},
        weights,
    )


def _before(run: Run, folder: Folder) -> _Weights:
    """What training starts from.

    It is asked through the chat template that it will be trained with, so that training is the
    only difference. A student cut out of a model, or widened, is saved once: engines load folders.
    """
    from sft.chat import choose
    from sft.student import load_student

    student = run.student
    assert student is not None
    place = model_path(run, student.model)
    tokenizer = load_tokenizer(place, student.trust_remote_code)
    template = choose(tokenizer, student.chat_template)
    if student.layers is None and student.rope is None:
        return _Weights(place, student, template)
    made_of = {
        "weights": weights_identity(place),
        "student": student.model_dump(mode="json", include={"layers", "rope", "dtype"}),
    }
    saved = folder.stage("before-model")
    if read_json(saved / "made_of.json") != made_of:
        shutil.rmtree(saved, ignore_errors=True)
        start = student.model_copy(update={"model": place, "attention": None})
        load_student(start, device="cpu").save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        write_json(saved / "made_of.json", made_of)  # last: what a kill leaves half has none
    return _Weights(str(saved), student, template)


# --- benchmarks -----------------------------------------------------------------------------------


def _benchmarks(run: Run) -> Callable[[Folder, str, _Asked, Say], dict[str, Any]] | None:
    """What runs lm-eval's benchmarks on a student, each student's result kept on the disk.

    Their data are loaded at once, so that what is missing shows before anyone is asked.
    """
    config = run.evaluate
    if config is None or config.lm_eval is None:
        return None
    from sft.chat import apply
    from sft.lm_eval import load_tasks, run_tasks

    tasks, files = config.lm_eval, _benchmark_files(run)
    manager = load_tasks(tasks, config.lm_eval_path)

    def measure(folder: Folder, who: str, one: _Asked, say: Say) -> dict[str, Any]:
        weights = one.weights
        assert weights is not None
        made_of = {
            "version": FIGURES,
            "weights": weights_identity(weights.place),
            "template": weights.template,
            "dtype": weights.student.dtype,
            "tasks": tasks,
            "limit": config.lm_eval_limit,
            "files": files,
        }
        path = folder.stage("lm-eval") / f"{who}.json"
        done = read_json(path)
        if done is None or done["made_of"] != made_of:
            say(f"  lm-eval, {one.title}: {', '.join(tasks)}")
            student = weights.student
            tokenizer = load_tokenizer(weights.place, student.trust_remote_code)
            if weights.template is not None:
                apply(tokenizer, weights.template)
            model = load_model(weights.place, student.dtype, None, student.trust_remote_code)
            found = run_tasks(
                model,
                tokenizer,
                tasks,
                manager=manager,
                limit=config.lm_eval_limit,
                batch_size=config.batch_size,
            )
            done = {"made_of": made_of, **found}
            write_json(path, done)
        return {key: value for key, value in done.items() if key != "made_of"}

    return measure


# --- two runs -------------------------------------------------------------------------------------


def evaluated_folder(name: str) -> Path:
    """The folder of a run that is named by its folder or by its config."""
    return Path(name) if Path(name).is_dir() else load_run(name)[0].folder


def compare_runs(one: Path, other: Path, who: str = "after") -> dict[str, Any]:
    """How someone who was evaluated in another run differs from the same one in this run.

    Args:
        one: Folder of a run that was evaluated.
        other: Folder of the other.
        who: Whose answers are compared: `before`, `after`, `teacher` or `chain_NAME`.

    Returns:
        What `sft.scores.paired` gives (other minus one), `who`, the `runs`, and `notes`: in what
        the two were measured differently.

    Raises:
        UserError: One of them was not evaluated, or they were not asked the same questions.
    """
    from sft.scores import paired

    places = (one, other)
    manifests = [Folder(place).need("evaluate") for place in places]
    for place, manifest in zip(places, manifests, strict=True):
        if who not in manifest["results"]:
            hint = nearest(who, manifest["results"])
            raise UserError(f"{place}: nobody was evaluated as {who!r}{hint}")
        if "asked" not in manifest:
            raise UserError(
                f"{place}: evaluated by an older version, which did not note its questions; "
                "`distill evaluate` makes the figures anew from the stored answers"
            )
    ids: list[Sequence[str]] = [manifest["asked"]["ids"] for manifest in manifests]
    if set(ids[0]) != set(ids[1]):
        raise UserError(
            f"{one} and {other} were not asked the same questions: {len(ids[0]):,} and "
            f"{len(ids[1]):,}, of which {len(set(ids[0]) & set(ids[1])):,} are the same; give "
            "both the same questions (tasks, seed, evaluate.limit)"
        )
    place_of = {id: place for place, id in enumerate(ids[1])}
    order = [place_of[id] for id in ids[0]]
    first, second = (manifest["results"][who]["per_question"] for manifest in manifests)
    sorts = {name: manifests[0]["asked"][name] for name in ("difficulty", "source")}
    notes = [
        f"{key}: {manifests[0].get(key)} and {manifests[1].get(key)}"
        for key in ("verifier", "samples", "sampling", "complete")
        if manifests[0].get(key) != manifests[1].get(key)
    ]
    return {
        "who": who,
        "runs": [str(place) for place in places],
        **paired(first, [second[place] for place in order], sorts),
        "notes": notes,
    }
