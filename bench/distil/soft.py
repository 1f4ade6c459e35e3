"""Soft against hard labels, and intermediate layers added to both, on letters to sort.

.venv/bin/python bench/distil/soft.py                    runs what the results lack
.venv/bin/python bench/distil/plots.py                   the tables and plots of what is there
"""

from students import STUDENT_RATE, main, settings

STEPS = 30  # of 16 traces, two epochs


def arms(teachers):
    from synth.config.distillation import HiddenStates, SoftLabels, TeacherModel

    models = {"letters": TeacherModel(model=teachers["letters"], dtype="bfloat16")}

    def student(**more):
        return settings(STUDENT_RATE, max_steps=STEPS, **more)

    def soft(alpha, temperature):
        labels = SoftLabels(alpha=alpha, temperature=temperature)
        return student(method="soft_labels", teachers=models, soft_labels=labels)

    def layers(**losses):
        return student(
            method="hidden_states",
            teachers=models,
            soft_labels=SoftLabels(alpha=0.5, temperature=2),
            hidden_states=HiddenStates(**{"mse": 0, **losses}),
        )

    return {
        "hard": student(),
        "soft T=2": soft(0, 2),
        "both T=1": soft(0.5, 1),
        "both T=2": soft(0.5, 2),
        "both T=4": soft(0.5, 4),
        "both T=2, mse": layers(mse=1),
        "both T=2, cosine": layers(cosine=1),
        "both T=2, relations": layers(relations=1),
    }


if __name__ == "__main__":
    main("soft", arms, ["letters"])
