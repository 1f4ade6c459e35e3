"""Says before anything is bought what of the traces no training of the run would see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synth.config.run import Run
from synth.core.record import Record
from synth.stages.build_student import StudentSetup, written_step
from synth.stages.context import Say

if TYPE_CHECKING:
    from sft.data.context import LeftOut


class ContextCheck:
    """Counts what each training of a run leaves out of the traces that it is shown."""

    def __init__(self, run: Run) -> None:
        self._counts: dict[str, tuple[LeftOut, bool]] = {}
        for name in (*run.chain, *([""] if run.train and run.student else [])):
            # Questions that a config asks have no more than its prompts: nothing is to be counted.
            if run.traces is not None:
                from sft.data.context import LeftOut

                step = written_step(run, name)
                place = f"chain.{name}.train" if name else "train"
                count = LeftOut(StudentSetup(step.student).messages)
                self._counts[place] = (count, step.train.drop_context)

    def add(self, record: Record) -> None:
        """Counts one trace."""
        for count, _ in self._counts.values():
            count.add(record)

    def refuse_if_all(self) -> None:
        """Raises UserError where a training would lose something of every single trace."""
        for count, drops in self._counts.values():
            if not drops and count.traces == count.total:
                count.refuse()

    def report(self, say: Say) -> None:
        """Says what is left out, and whether training goes on without it."""
        for place, (count, drops) in self._counts.items():
            if count.traces:
                then = "learned without it, as" if drops else "training refuses these, unless"
                say(f"  the student's prompt leaves out parts of {count}; {then} "
                    f"{place}.drop_context is true")  # fmt: skip
