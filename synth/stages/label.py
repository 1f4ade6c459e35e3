"""The stage `label`: stores the teachers' logprobs of every token of the kept traces.

label/tokens.arrow   the traces as the student learns them; gone when all is labelled
label/TEACHER/       the label set of a teacher (sft/labels/store.py)
label/seconds.json   how long each took
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.distillation import Label, SoftLabels, TeacherModel
from synth.config.run import ChainStep, Run
from synth.config.train import Train
from synth.core.dataset import MANIFEST, read_split
from synth.core.errors import UserError
from synth.core.files import read_json, write_json
from synth.core.models import load_tokenizer, locate, weights_identity
from synth.core.process.environment import first_process
from synth.core.progress import Clock, duration, shown
from synth.core.record import digest
from synth.core.text.display import disk_size
from synth.stages._train.work_folders import WorkFolders
from synth.stages.build_student import resolved_step, written_step
from synth.stages.context import Say, StageContext

if TYPE_CHECKING:
    from sft.data.dataset import Examples
    from sft.labels.labeler import Engine

# A teacher's name is a folder's, beside files that all have a dot (or a number: qwen2.5).
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.[0-9])*")
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt")


@dataclass(frozen=True)
class _LabelSet:
    """The labels of one teacher."""

    name: str
    model: TeacherModel
    only: Sequence[int] | None  # the examples that it labels; None: all
    folder: Path


def label_inputs(section: Label, context: StageContext) -> dict[str, Any]:
    """Returns kept traces, how the student reads them, teachers, and what is kept of these."""
    from sft.data.chat_template import KNOWN, template_text
    from synth.teachers import VLLM_NON_IDENTITY_ARGUMENTS

    step = resolved_step(context.run, written_step(context.run))
    check_label(section, step.train)
    soft = step.train.soft_labels or SoftLabels()
    template = step.student.chat_template
    templates = sorted(KNOWN) if template == "auto" else [template]
    options = section.engine_options.items()
    return {
        "filter": context.folder.content("filter"),
        "tokenizer": _tokenizer_identity(step.student.model),
        "template": [template, digest([template_text(name) for name in templates])],
        "prompt": context.student_setup.prompt_identity,
        "teachers": {
            name: {
                "weights": weights_identity(teacher.model),
                "dtype": teacher.dtype,
                "quantization": teacher.quantization,
            }
            for name, teacher in step.train.teachers.items()
        },
        "by_producer": soft.weights == "producer",
        "k": section.k,
        "temperatures": list(_temperatures(section, soft)),
        "engine": [
            section.engine,
            {key: value for key, value in options if key not in VLLM_NON_IDENTITY_ARGUMENTS},
        ],
    }


def check_label(section: Label, train: Train) -> None:
    """Raises UserError where names, temperatures or engine cannot do, whatever the traces are."""
    for name, model in train.teachers.items():
        if not _NAME.fullmatch(name):
            raise UserError(
                f"train.teachers: {name!r} cannot name a folder; expected letters, digits, _ and -"
            )
        if section.engine == "vllm" and (model.quantization is not None or model.device != "auto"):
            raise UserError(
                f"train.teachers.{name}: quantization and device are for label.engine: "
                "transformers; vLLM takes label.engine_options.quantization, and the GPUs that "
                "CUDA_VISIBLE_DEVICES names"
            )
    _temperatures(section, train.soft_labels or SoftLabels())


def label_traces(section: Label, context: StageContext, inputs: dict[str, Any]) -> dict[str, Any]:
    """Labels the kept traces by every teacher; one that was stopped goes on after its last shard.

    Raises UserError where the traces cannot be trained on, a teacher has another vocabulary or
    cannot be loaded, or the disk has too little room.
    """
    from sft.labels.labeler import label

    if not first_process():  # of several that train together
        while (done := context.folder.manifest("label")) is None or done["inputs"] != inputs:
            time.sleep(1)
        return done
    folders = WorkFolders(context.path, inputs)
    folders.drop_without_work()
    path = folders.begin()
    with contextlib.closing(_Work(section, context, path)) as work:
        pending = _estimated(work, context.say)
        for labels in reversed(pending):  # the last one is still loaded
            progress = _Progress(labels.name)
            identity = inputs["teachers"][labels.name]["weights"]
            with shown(progress.line):
                engine = work.engine(labels)
                label(engine, work.examples, labels.folder, identity, labels.only, progress.update)
            times = read_json(path / "seconds.json") or {}
            write_json(path / "seconds.json", times | {labels.name: progress.times()})
    manifest = _manifest(work, path, context.say)
    for file in path.glob("tokens.*"):
        file.unlink()
    manifest = {"inputs": inputs, **manifest}
    write_json(path / MANIFEST, manifest)
    for text in folders.put_in_place(path, keep=0):
        context.say(f"  {text}")
    return manifest


def _manifest(work: _Work, path: Path, say: Say) -> dict[str, Any]:
    """Says how large the labels of each teacher are, and returns that for the manifest."""
    from sft.labels.store import LabelStore

    times = read_json(path / "seconds.json") or {}
    teachers, content = {}, {}
    for labels in work.label_sets:
        name = labels.name
        content[name] = LabelStore(labels.folder).manifest
        size = sum(file.stat().st_size for file in labels.folder.iterdir())
        counts = {key: content[name][key] for key in ("records", "tokens")}
        teachers[name] = {**counts, "bytes": size, **times.get(name, {})}
        each = size / counts["tokens"]
        say(f"  {name}: {counts['tokens']:,} tokens, {disk_size(size)}, {each:.0f} bytes each")
    return {"content": digest(content), "teachers": teachers}


def show_estimate(run: Run, say: Say) -> None:
    """Says what labelling will come to, and stops there. Raises UserError as `label_traces`."""
    section, context = run.label, StageContext(run, "label", say)
    assert section is not None
    path, inputs = context.path, label_inputs(section, context)
    done = context.folder.manifest("label")
    if done is not None and done["inputs"] == inputs:
        say("label: done before, nothing changed")
        return
    with tempfile.TemporaryDirectory(dir=run.folder, prefix="label.estimate-") as temporary:
        # Labels of another config are not this one's to go on with.
        begun = WorkFolders(path, inputs).unfinished
        folder = begun if begun.exists() else Path(temporary)
        with contextlib.closing(_Work(section, context, folder)) as work:
            _estimated(work, say)


class _Work:
    """The stage's data and teachers; one teacher at a time is in memory.

    Raises UserError where the traces cannot be trained on, or teachers do not fit them or the
    student.
    """

    def __init__(self, section: Label, context: StageContext, path: Path) -> None:
        step = resolved_step(context.run, written_step(context.run))
        self.path = context.folder.path
        self._section = section
        self._temperatures = _temperatures(section, step.train.soft_labels or SoftLabels())
        self.examples = _examples(step, context, path)
        self._vocabulary = _vocabulary(context.student_setup.tokenizer, step.train.teachers)
        examples_of = _examples_of_teachers(step, self.examples)
        self.label_sets = [
            _LabelSet(name, model, examples_of[name], path / name)
            for name, model in step.train.teachers.items()
        ]
        self._loaded: tuple[str, Engine] | None = None

    def engine(self, labels: _LabelSet) -> Engine:
        """Returns a set's teacher, loaded; the one before it is closed."""
        if self._loaded is None or self._loaded[0] != labels.name:
            self.close()
            self._loaded = (labels.name, self._load(labels))
        return self._loaded[1]

    def close(self) -> None:
        """Frees the memory of the loaded teacher."""
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def _load(self, labels: _LabelSet) -> Engine:
        from sft.labels.labeler import Wanted

        section, model = self._section, labels.model
        wanted = Wanted(section.k, self._temperatures, self._vocabulary, section.batch_tokens)
        if section.engine != "vllm":
            from sft.labels.transformers import Reader
            from sft.models.student import load_teacher

            return Reader(load_teacher(model), wanted)
        from sft.labels.vllm import load
        from synth.teachers import vllm_weights

        defaults = {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code}
        options = {**defaults, **section.engine_options}
        return load(vllm_weights(model.model), wanted, max(self.examples.lengths), options)


class _Progress:
    """How far the labelling of a teacher is, in tokens."""

    def __init__(self, name: str) -> None:
        self.name, self.done, self.total, self.clock = name, 0, 0, Clock()
        self.before: int | None = None

    def update(self, done: int, total: int) -> None:
        """Takes in the progress; the first call says what an earlier run did."""
        if self.before is None:
            self.before, self.clock = done, Clock()
        self.done, self.total = done, total

    def line(self) -> str:
        """Returns the progress line."""
        if self.before is None:
            return f"label: {self.name} is loading and reads a few traces"
        new = self.done - self.before
        rate = new / max(1e-9, self.clock.seconds)
        left = self.clock.eta(new, self.total - self.before)
        return f"label: {self.name} {self.done:,}/{self.total:,} tokens · {rate:,.0f}/s{left}"

    def times(self) -> dict[str, float]:
        """Returns seconds and rate of this run's part."""
        seconds, new = self.clock.seconds, self.done - (self.before or 0)
        return {"seconds": round(seconds, 3), "tokens_per_second": round(new / seconds, 2)}


def _estimated(work: _Work, say: Say) -> list[_LabelSet]:
    """Says what is still to be done and returns the label sets that are not finished.

    Raises UserError where the disk has too little room.
    """
    from sft.labels.labeler import estimate

    pending = [labels for labels in work.label_sets if not (labels.folder / MANIFEST).exists()]
    size = seconds = 0.0
    for labels in pending:
        with shown(_Progress(labels.name).line):
            figures = estimate(work.engine(labels), work.examples, labels.only)
        written = sum(shard.stat().st_size for shard in labels.folder.glob("labels-*.bin"))
        left = max(0.0, 1 - written / figures.bytes)
        rest = "" if left == 1 else f", {left:.0%} of it still to do"
        say(
            f"  {labels.name}: {figures.examples:,} traces, {figures.tokens:,} tokens, "
            f"{figures.labelled:,} of them labelled: about {disk_size(figures.bytes)} and "
            f"{duration(figures.seconds)}{rest}"
        )
        size, seconds = size + figures.bytes * left, seconds + figures.seconds * left
    if len(pending) > 1:
        say(f"  in all: about {disk_size(size)}, {duration(seconds)}")
    free = shutil.disk_usage(work.path).free
    if size > free:
        raise UserError(
            f"label: about {disk_size(size)} of labels are to come, but {work.path} has "
            f"{disk_size(free)} free; make room, or lower label.k"
        )
    return pending


def _examples(step: ChainStep, context: StageContext, path: Path) -> Examples:
    """Returns the kept traces as the student learns them."""
    from sft.data.dataset import open_examples, write_examples
    from sft.models.student import length_limit

    setup = context.student_setup
    tokenizer, file = setup.training_tokenizer, path / "tokens.arrow"
    if not file.with_suffix(".json").exists():
        with shown(lambda: "label: checking the traces"):
            records = read_split(context.folder.stage("filter"), "kept")
            limit = length_limit(step.student, step.train)
            drop = step.train.drop_context
            write_examples(tokenizer, records, setup.messages, limit, file, drop)
    return open_examples(file)


def _vocabulary(tokenizer: Any, models: dict[str, TeacherModel]) -> int:
    """Returns how many ids the student shares with all of its teachers."""
    from sft.training.teachers import shared_with

    return min(
        shared_with(tokenizer, name, load_tokenizer(model.model, model.trust_remote_code))
        for name, model in models.items()
    )


def _examples_of_teachers(step: ChainStep, examples: Examples) -> dict[str, Sequence[int] | None]:
    """Returns which examples each teacher labels; None: all."""
    from sft.training.teachers import check_writers

    names, soft = list(step.train.teachers), step.train.soft_labels
    if soft is None or soft.weights != "producer":
        return dict.fromkeys(names)
    check_writers(examples, names)
    chosen: dict[str, Sequence[int] | None] = {
        name: [index for index, writer in enumerate(examples.writers) if writer == name]
        for name in names
    }
    for name, indices in chosen.items():
        if not indices:
            raise UserError(
                f"train.teachers.{name}: wrote none of the {len(examples)} kept traces, and with "
                "weights: producer it labels its own alone; leave it out"
            )
    return chosen


def _temperatures(section: Label, soft: SoftLabels) -> tuple[float, ...]:
    """Returns at which temperatures logsumexp is stored.

    Raises UserError where that of the training is not among them, or the engine cannot give it.
    """
    temperatures = section.temperatures or [1.0, soft.temperature]
    if soft.temperature not in temperatures:
        raise UserError(
            f"label.temperatures: train.soft_labels.temperature is {soft.temperature:g} and is "
            "not among them; one cannot be made from another, so add it"
        )
    if section.engine == "vllm" and set(temperatures) != {1.0}:
        raise UserError(
            "label.engine: vllm gives log-probabilities at temperature 1 alone, from which those "
            "at another cannot be made; set train.soft_labels.temperature: 1 (and no other in "
            "label.temperatures), or label.engine: transformers"
        )
    return tuple(sorted(set(temperatures)))


def _tokenizer_identity(model: str) -> str:
    """Returns what names a tokenizer: other weights under the same one need no other labels."""
    path, gguf = locate(model)
    if gguf or not Path(path).is_dir():
        return weights_identity(model)
    files = sorted({file for kind in _TOKENIZER for file in Path(path).glob(kind)})
    return digest([[file.name, digest(file.read_bytes().hex())] for file in files])
