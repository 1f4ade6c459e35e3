"""The stage `label`: what teachers think of every token of the kept traces, before training.

label/tokens.arrow   the traces as the student learns them; gone when all is labelled
label/TEACHER/       the label set of a teacher (sft/labels/store.py)
label/seconds.json   how long each took
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.distillation import SoftLabels, TeacherModel
from synth.config.run import Run
from synth.core.dataset import MANIFEST, read_split
from synth.core.errors import UserError
from synth.core.files import read_json, write_json
from synth.core.models import load_tokenizer, locate, weights_identity
from synth.core.processes import first_process
from synth.core.progress import Clock, duration, shown
from synth.core.prompts import load_prompt
from synth.core.record import digest
from synth.core.run_folder import Folder
from synth.stages.build_student import prompt_of, step_of

if TYPE_CHECKING:
    from sft.data.dataset import Examples
    from sft.labels.labeler import Engine, Estimate, Wanted
    from synth.config.run import ChainStep

Say = Callable[[str], None]

# A teacher's name is a folder's, beside files that all have a dot (or a number: qwen2.5).
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.[0-9])*")
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt")


@dataclass(frozen=True)
class _Teacher:
    """A teacher, the examples that it labels (None: all), and where the labels go."""

    name: str
    model: TeacherModel
    only: Sequence[int] | None
    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).exists()


def label_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Kept traces, how the student reads them, teachers, and what is kept of these."""
    from sft.data.chat_template import KNOWN, template_text

    assert run.label is not None
    step = step_of(run, None)
    for name in step.train.teachers:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"train.teachers: {name!r} cannot name a folder; expected letters, digits, _ and -"
            )
    soft = step.train.soft_labels or SoftLabels()
    template, prompt = step.student.chat_template, step.student.prompt
    names = sorted(KNOWN) if template == "auto" else [template]
    return {
        "filter": folder.content("filter"),
        "tokenizer": _tokenizer_identity(step.student.model),
        "template": [template, digest([template_text(name) for name in names])],
        "prompt": [load_prompt(prompt.template).hash, prompt.values],
        "teachers": {
            name: {
                "weights": weights_identity(teacher.model),
                "dtype": teacher.dtype,
                "quantization": teacher.quantization,
            }
            for name, teacher in step.train.teachers.items()
        },
        "by_producer": soft.weights == "producer",
        "k": run.label.k,
        "temperatures": list(_temperatures(run)),
        "engine": [run.label.engine, _decisive_options(run)],
    }


def label_traces(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Labels the kept traces by every teacher; one that was stopped goes on after its last shard.

    Raises:
        UserError: The traces cannot be trained on, a teacher has another vocabulary or cannot be
            loaded, or the disk has too little room.
    """
    from sft.labels.labeler import label
    from sft.labels.store import LabelStore

    place = folder.stage("label")
    if not first_process():  # of several that train together
        while (done := folder.manifest("label")) is None or done["inputs"] != inputs:
            time.sleep(1)
        return done
    if read_json(place / "inputs.json") != inputs:
        shutil.rmtree(place, ignore_errors=True)
        write_json(place / "inputs.json", inputs)
    (place / MANIFEST).unlink(missing_ok=True)
    work = _Work(run, folder, place)
    try:
        pending = _estimated(work, say)
        for teacher in reversed(pending):  # the last one is still loaded
            now = _Now(teacher.name)
            identity = inputs["teachers"][teacher.name]["weights"]
            with shown(now.line):
                engine = work.engine(teacher)
                label(engine, work.examples, teacher.folder, identity, teacher.only, now.update)
            known = read_json(place / "seconds.json") or {}
            write_json(place / "seconds.json", known | {teacher.name: now.took()})
    finally:
        work.close()
    took = read_json(place / "seconds.json") or {}
    made, content = {}, {}
    for teacher in work.teachers:
        store = LabelStore(teacher.folder)
        content[teacher.name] = store.manifest
        made[teacher.name] = {
            "records": store.manifest["records"],
            "tokens": store.manifest["tokens"],
            "bytes": sum(file.stat().st_size for file in teacher.folder.iterdir()),
            **took.get(teacher.name, {}),
        }
    for name, one in made.items():
        each = one["bytes"] / one["tokens"]
        say(f"  {name}: {one['tokens']:,} tokens, {_size(one['bytes'])}, {each:.0f} bytes each")
    for left in place.glob("tokens.*"):
        left.unlink()
    return {"inputs": inputs, "content": digest(content), "teachers": made}


def show_estimate(run: Run, say: Say) -> None:
    """Says what labelling will come to, and stops there.

    Raises:
        UserError: As `label_traces`.
    """
    folder = Folder(run.folder)
    place, inputs = folder.stage("label"), label_inputs(run, folder)
    done = folder.manifest("label")
    if done is not None and done["inputs"] == inputs:
        say("label: done before, nothing changed")
        return
    with tempfile.TemporaryDirectory(dir=folder.path, prefix="label.estimate-") as elsewhere:
        # Labels of another config are not this one's to go on with, nor to be lost by asking.
        mine = read_json(place / "inputs.json") == inputs
        work = _Work(run, folder, place if mine else Path(elsewhere))
        try:
            _estimated(work, say)
        finally:
            work.close()


class _Work:
    """The stage's data and teachers; one teacher at a time is in memory.

    Args:
        run: The config.
        folder: Of the run.
        place: Where tokens and labels lie.

    Raises:
        UserError: The traces cannot be trained on, or teachers do not fit them or the student.
    """

    def __init__(self, run: Run, folder: Folder, place: Path) -> None:
        self.run, step = run, step_of(run, None)
        tokenizer, self.examples = _examples(step, folder, place)
        self.vocabulary = _vocabulary(tokenizer, step.train.teachers)
        chosen = _chosen(step, self.examples)
        self.teachers = [
            _Teacher(name, model, chosen[name], place / name)
            for name, model in step.train.teachers.items()
        ]
        self._loaded: tuple[str, Engine] | None = None

    def engine(self, teacher: _Teacher) -> Engine:
        """The teacher, loaded; the one before it is gone."""
        if self._loaded is None or self._loaded[0] != teacher.name:
            self.close()
            self._loaded = (teacher.name, self._load(teacher))
        return self._loaded[1]

    def close(self) -> None:
        """Gives the memory of the teacher that is loaded back."""
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def _load(self, teacher: _Teacher) -> Engine:
        from sft.labels.labeler import Wanted

        assert self.run.label is not None
        how = self.run.label
        wanted = Wanted(how.k, _temperatures(self.run), self.vocabulary, how.batch_tokens)
        if how.engine == "vllm":
            return _vllm(teacher, wanted, how.engine_options, max(self.examples.lengths))
        from sft.labels.transformers import Reader
        from sft.models.student import load_teacher

        return Reader(load_teacher(teacher.model), wanted)


class _Now:
    """Where the labelling of a teacher is."""

    def __init__(self, name: str) -> None:
        self.name, self.done, self.total = name, 0, 0
        self.before: int | None = None
        self.clock = Clock()

    def update(self, done: int, total: int) -> None:
        """Takes in the progress; the first time says what a run before did."""
        if self.before is None:
            self.before, self.clock = done, Clock()
        self.done, self.total = done, total

    def line(self) -> str:
        """For the user."""
        if self.before is None:
            return f"label: {self.name} is loading and reads a few traces"
        mine = self.done - self.before
        rate = mine / max(1e-9, self.clock.seconds)
        left = self.clock.eta(mine, self.total - self.before)
        return f"label: {self.name} {self.done:,}/{self.total:,} tokens · {rate:,.0f}/s{left}"

    def took(self) -> dict[str, float]:
        """Seconds and rate of this run's part."""
        seconds = self.clock.seconds
        mine = self.done - (self.before or 0)
        return {"seconds": round(seconds, 3), "tokens_per_second": round(mine / seconds, 2)}


# --- before labelling -----------------------------------------------------------------------------


def _estimated(work: _Work, say: Say) -> list[_Teacher]:
    """Says what is still to be done and gives the teachers that have it to do.

    Raises:
        UserError: The disk has too little room.
    """
    from sft.labels.labeler import estimate

    pending = [teacher for teacher in work.teachers if not teacher.finished]
    size = seconds = 0.0
    for teacher in pending:
        with shown(_Now(teacher.name).line):
            found = estimate(work.engine(teacher), work.examples, teacher.only)
        there = sum(shard.stat().st_size for shard in teacher.folder.glob("labels-*.bin"))
        left = max(0.0, 1 - there / found.bytes)
        say(_said(teacher.name, found, left))
        size, seconds = size + found.bytes * left, seconds + found.seconds * left
    if len(pending) > 1:
        say(f"  in all: about {_size(size)}, {duration(seconds)}")
    free = shutil.disk_usage(work.run.folder).free
    if size > free:
        raise UserError(
            f"label: about {_size(size)} of labels are to come, but {work.run.folder} has "
            f"{_size(free)} free; make room, or lower label.k"
        )
    return pending


def _said(name: str, found: Estimate, left: float) -> str:
    rest = "" if left == 1 else f", {left:.0%} of it still to do"
    return (
        f"  {name}: {found.examples:,} traces, {found.tokens:,} tokens, {found.labelled:,} of them "
        f"labelled: about {_size(found.bytes)} and {duration(found.seconds)}{rest}"
    )


def _examples(step: ChainStep, folder: Folder, place: Path) -> tuple[Any, Examples]:
    """The student's tokenizer and the kept traces as it learns them."""
    from sft.data.chat_template import apply, choose
    from sft.data.dataset import open_examples, write_examples
    from sft.models.student import length_limit

    student = step.student
    tokenizer = load_tokenizer(student.model, student.trust_remote_code)
    apply(tokenizer, choose(tokenizer, student.chat_template))
    path = place / "tokens.arrow"
    if not path.with_suffix(".json").exists():
        with shown(lambda: "label: checking the traces"):
            records = read_split(folder.stage("filter"), "kept")
            limit = length_limit(student, step.train)
            write_examples(tokenizer, records, prompt_of(student), limit, path)
    return tokenizer, open_examples(path)


def _vocabulary(tokenizer: Any, models: dict[str, TeacherModel]) -> int:
    """How many ids the student shares with all of its teachers."""
    from sft.models.vocabulary import shared_vocabulary

    shared = []
    for name, model in models.items():
        theirs = load_tokenizer(model.model, model.trust_remote_code)
        try:
            shared.append(shared_vocabulary(tokenizer, theirs))
        except UserError as error:
            raise UserError(f"train.teachers.{name}: {error}") from error
    return min(shared)


def _chosen(step: ChainStep, examples: Examples) -> dict[str, Sequence[int] | None]:
    """Which examples each teacher labels; None: all."""
    from sft.training.teachers import refuse_strangers

    names, soft = list(step.train.teachers), step.train.soft_labels
    if soft is None or soft.weights != "producer":
        return dict.fromkeys(names)
    refuse_strangers(examples, names)
    chosen: dict[str, list[int]] = {name: [] for name in names}
    for index, writer in enumerate(examples.writers):
        chosen[writer].append(index)
    for name, mine in chosen.items():
        if not mine:
            raise UserError(
                f"train.teachers.{name}: wrote none of the {len(examples)} kept traces, and with "
                "weights: producer it labels its own alone; leave it out"
            )
    return {**chosen}


def _vllm(teacher: _Teacher, wanted: Wanted, options: dict[str, Any], longest: int) -> Engine:
    from sft.labels.vllm import load
    from synth.teachers._vllm.options import weights

    model = teacher.model
    if model.quantization is not None or model.device != "auto":
        raise UserError(
            f"train.teachers.{teacher.name}: quantization and device are for label.engine: "
            "transformers; vLLM takes label.engine_options.quantization, and the GPUs that "
            "CUDA_VISIBLE_DEVICES names"
        )
    own = {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code}
    return load(weights(model.model), wanted, longest, {**own, **options})


def _temperatures(run: Run) -> tuple[float, ...]:
    """At which temperatures logsumexp is stored.

    Raises:
        UserError: The one of the training is not among them, or the engine cannot give one.
    """
    assert run.train is not None
    assert run.label is not None
    soft = run.train.soft_labels or SoftLabels()
    asked = run.label.temperatures or [1.0, soft.temperature]
    if soft.temperature not in asked:
        raise UserError(
            f"label.temperatures: train.soft_labels.temperature is {soft.temperature:g} and is "
            "not among them; one cannot be made from another, so add it"
        )
    if run.label.engine == "vllm" and set(asked) != {1.0}:
        raise UserError(
            "label.engine: vllm gives log-probabilities at temperature 1 alone, from which those "
            "at another cannot be made; set train.soft_labels.temperature: 1 (and no other in "
            "label.temperatures), or label.engine: transformers"
        )
    return tuple(sorted(set(asked)))


def _decisive_options(run: Run) -> dict[str, Any]:
    """Options of vLLM on which labels depend."""
    from synth.teachers._vllm.options import _NO_PART_OF_AN_ANSWER

    assert run.label is not None
    options = run.label.engine_options
    return {k: v for k, v in options.items() if k not in _NO_PART_OF_AN_ANSWER}


def _tokenizer_identity(model: str) -> str:
    """Names a tokenizer: other weights under the same one need no other labels."""
    place, gguf = locate(model)
    if gguf or not Path(place).is_dir():
        return weights_identity(model)
    files = sorted({file for kind in _TOKENIZER for file in Path(place).glob(kind)})
    return digest([[file.name, digest(file.read_bytes().hex())] for file in files])


def _size(bytes: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if bytes < 1000:
            return f"{bytes:.3g} {unit}"
        bytes /= 1000
    return f"{bytes:,.3g} TB"
