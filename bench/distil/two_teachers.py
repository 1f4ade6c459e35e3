"""Two teachers, each with a skill of its own, and one student that is to have both.

.venv/bin/python bench/distil/two_teachers.py            runs what the results lack
.venv/bin/python bench/distil/plots.py                   the tables and plots of what is there
"""

from data import SKILLS
from students import STUDENT_RATE, main, settings

STEPS = 60  # of 16 traces, two epochs


def arms(teachers):
    from synth.config.distillation import SoftLabels, TeacherModel

    def taught(by, weights="given"):
        return settings(
            STUDENT_RATE,
            max_steps=STEPS,
            method="soft_labels",
            teachers={s: TeacherModel(model=teachers[s], dtype="bfloat16") for s in by},
            soft_labels=SoftLabels(alpha=0.5, temperature=2, weights=weights),
        )

    return {
        "hard": settings(STUDENT_RATE, max_steps=STEPS),
        "teacher of backwards": taught(["backwards"]),
        "teacher of letters": taught(["letters"]),
        "both, each for its own": taught(SKILLS, "producer"),
        "both, mean": taught(SKILLS),
    }


if __name__ == "__main__":
    main("two_teachers", arms, list(SKILLS))
