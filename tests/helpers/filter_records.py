"""Records made from texts, and filters made from options."""

from filters.base import Context, Decision, decide
from synth.core import plugins
from synth.core.record import Generation, Record, Task


def make_record(
    answer="", reasoning=None, *, id="r", task="t", question="q", reference=None, finish=None
):
    generation = None
    if finish is not None:
        generation = Generation("t", "m", "p", "", {}, 0, finish, None, None, None, 0.0, "")
    return Record(id, Task(task, question, reference), [], reasoning, answer, generation)


def make_check(name, context=None, **options):
    """The check of a filter; where it only measures, its figures are held to the bounds."""
    module = plugins.load("filter", name)
    config = module.Config(**options)
    check = module.build(config, context or Context())
    if not module.Config.measures:
        return check

    def held(record):
        found = check(record)
        return found if isinstance(found, Decision) else decide(found, config)

    return held
