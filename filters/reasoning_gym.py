"""Keeps traces that the generator's own scorer of reasoning-gym calls right."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from filters._workers import reasoning_gym as _gym_worker
from filters._workers.pool import CallFailed, Workers, longest
from filters._workers.verifier import WorkerVerifier
from filters.answers.boxed import final_boxes
from filters.base import Context, Decision, Figures, FilterConfig, Measures, cannot_tell, requires
from synth.core.record import Record
from synth.core.text.display import shown

_LONGEST = 100_000


class Config(FilterConfig):
    """Options of `reasoning_gym`."""

    measures: ClassVar[Measures] = {"score": "wrong answer"}
    verifies = True

    score_min: float | None = Field(
        1.0, ge=0, le=1, description="Lowest score that is kept; scorers give 0 to 1"
    )
    score_max: float | None = Field(None, ge=0, le=1, description="Highest score that is kept")
    generator: str | None = Field(
        None, description="Whose scorer; by default what the metadata has as source_dataset"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="The generator's own options, as the task source has them"
    )
    read: Literal["auto", "all", "tag", "box", "last_line"] = Field(
        "auto", description="What of the answer counts; auto: an <answer> tag, a box, or all of it"
    )
    timeout: float = Field(5.0, gt=0, le=600, description="Seconds that scoring may take")

    def limit(self) -> float:
        """Seconds that one record may take: a lost worker is replaced once."""
        return longest(self.timeout)


class ReasoningGym(WorkerVerifier):
    """The score of the generator that made a question, from what the task source stored of it.

    A scorer is trusted where it gives the reference answer 1 and nonsense less; else nobody can
    tell. It runs in a worker process that is killed at the limit, where nothing of an answer is
    evaluated but literals and arithmetic.
    """

    package = "reasoning-gym"
    workers = Workers(_gym_worker.prepare)

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config.timeout, context.workers)
        self._config = config

    def __call__(self, record: Record) -> Decision | Figures:
        """The score of one record, or that nobody can tell."""
        task, config = record.task, self._config
        generator = config.generator or task.metadata.get("source_dataset")
        if not isinstance(generator, str):
            return cannot_tell("the metadata names no generator")
        answer, by = _read(record.answer, config.read)
        if not answer:
            return Decision(False, "no answer found", 0.0, config.score_min)
        if len(answer) > _LONGEST:
            return cannot_tell("too long to score")
        entry = {"question": task.question, "answer": task.answer, "metadata": task.metadata}
        evidence = {"generator": generator, "answer": shown(answer), "read": by}
        arguments = (generator, config.options, answer, entry)
        outcome = self.call(_gym_worker.score, *arguments, evidence=evidence)
        if isinstance(outcome, Decision):
            return outcome
        score, why = outcome
        if score is None:
            return cannot_tell(shown(why), evidence)
        return Figures({"score": score}, {**evidence, "reference": shown(task.answer or "")})

    def describe(self, error: CallFailed) -> str:
        """Returns the text of what a scorer raised, on one line."""
        return shown(str(error))


def _read(answer: str, read: str) -> tuple[str, str]:
    """What counts of an answer, and where it stood."""
    if read in ("auto", "tag"):
        _, tag, rest = answer.rpartition("<answer>")
        if tag and "</answer>" in rest:
            return rest.partition("</answer>")[0].strip(), "tag"
    if read in ("auto", "box") and (contents := final_boxes(answer)):
        return ", ".join(contents), "box"
    if read in ("tag", "box"):
        return "", read
    if read == "last_line":
        return answer.rstrip().rpartition("\n")[2].strip(), read
    return answer.strip(), "all"


check = requires("reasoning-gym", "reasoning_gym", "reasoning-gym")
build = ReasoningGym
