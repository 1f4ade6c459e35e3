"""The context of a stage: what it is handed besides its own section of the config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from synth.config.run import Run, RunStudent
from synth.core.run_folder import RunFolder

if TYPE_CHECKING:
    from synth.stages.build_filters import FilterSet
    from synth.stages.build_student import StudentSetup

Say = Callable[[str], None]


@dataclass(frozen=True)
class StageContext:
    """What a stage is handed besides its section; it lives for one stage."""

    run: Run  # the whole checked config: teachers, filters, budget, store belong to no one stage
    stage: str  # its name, which is also its folder's
    say: Say = print

    @cached_property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.run.folder)

    @property
    def path(self) -> Path:
        """The stage's own folder."""
        return self.folder.stage(self.stage)

    @property
    def seed(self) -> int:
        """Decides all that is drawn."""
        return self.run.seed

    @property
    def student(self) -> RunStudent:
        """The section `student`, which the config of a stage that needs it has."""
        assert self.run.student is not None
        return self.run.student

    @cached_property
    def filters(self) -> FilterSet:
        """The filters of the config, loaded once."""
        from synth.stages.build_filters import FilterSet

        return FilterSet.from_config(self.run)

    @cached_property
    def student_setup(self) -> StudentSetup:
        """The student's tokenizer, chat template and prompt, put together once."""
        from synth.stages.build_student import StudentSetup

        return StudentSetup.from_config(self.run, self.student)
