"""Folders of runs as their stages leave them, made without running any."""

import json

from synth.core.dataset import writing
from synth.core.files import write_json
from synth.core.record import Generation, Record, Task, Verdict
from synth.core.run_folder import RunFolder

HOSTILE = '<script>alert(1)</script></style></pre></details>"onload=alert(2) {{7*7}} {% if %} ]]>'


def trace(number, reason="", **changes):
    """A record; with a reason it was rejected by math_answer."""
    task = Task(f"q{number}", f"What is {number} + 1?", str(number + 1), "sums")
    made = {
        "teacher": "big", "model": "big-7b", "template": "boxed.en", "template_hash": "h",
        "sampling": {}, "sample": 0, "finish_reason": "stop", "prompt_tokens": 10,
        "completion_tokens": 20 + number, "cost_usd": None, "latency_s": 0.5, "key": "k",
    }  # fmt: skip
    verdict = Verdict("math_answer", not reason, reason)
    return Record(
        id=f"q{number}-big-0",
        task=task,
        messages=[{"role": "user", "content": task.question}],
        reasoning=changes.pop("reasoning", "one more"),
        answer=changes.pop("answer", f"\\boxed{{{number + 1}}}"),
        generation=Generation(**made | changes),
        verdicts=[verdict],
    )


def put_tasks(run):
    with writing(run.folder / "tasks", ("train", "eval", "rejected")) as (splits, manifest):
        splits["train"].write(trace(1))
        splits["rejected"].write(trace(2, "in the evaluation: q9"))
        skipped = [
            {"place": f"data.jsonl:{n}", "reason": f"in the evaluation as q{n}"} for n in (3, 4)
        ]
        manifest |= {"inputs": {"seed": 0}, "skipped": skipped, "seconds": 0.5}


def put_generate(run, records, **counts):
    known = {
        "bought": len(records), "reused": 0, "failed": {}, "retried": {}, "prompt_tokens": 10,
        "completion_tokens": 20, "cost_usd": 0.0, "unpriced": len(records), "seconds": 9.0,
    }  # fmt: skip
    with writing(run.folder / "generate", ("train",)) as (splits, manifest):
        for record in records:
            splits["train"].write(record)
        tasks = RunFolder(run.folder).content("tasks")
        manifest |= {
            "inputs": {"tasks": tasks, "generate": run.generate.model_dump(mode="json")},
            "counts": known | counts,
            "complete": True,
            "seconds": 10.0,
        }


def put_filter(run, records):
    folder = RunFolder(run.folder)
    with writing(run.folder / "filter", ("kept", "rejected")) as (splits, manifest):
        for record in records:
            splits["rejected" if record.rejected_by else "kept"].write(record)
        kept = sum(record.rejected_by is None for record in records)
        dropped = len(records) - kept
        count = {
            "name": "math_answer",
            "seen": len(records),
            "dropped": dropped,
            "tagged": 0,
            "alone": dropped,
        }
        manifest |= {
            "inputs": {"generate": folder.content("generate"), "filters": {"math_answer": {}}},
            "funnel": {
                "total": len(records),
                "kept": kept,
                "filters": [count | {"reasons": {"wrong answer": dropped}, "seconds": 0.1}],
            },
            "seconds": 1.0,
        }


def put_train(run, losses=(1.5, 1.0, 0.5)):
    manifest = {
        "inputs": {"filter": RunFolder(run.folder).content("filter"), "train": {"epochs": 3}},
        "content": "trained", "steps": 3, "tokens": 900, "loss_tokens": 300, "seconds": 60.0,
        "final_loss": 0.5, "tokens_per_second": 15.0, "examples": 7,
    }  # fmt: skip
    write_json(run.folder / "train" / "manifest.json", manifest)
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses, 1)]
    log = "\n".join([*lines, '{"step": 4, "lo'])
    (run.folder / "train" / "log.jsonl").write_text(log)


def result(title, accuracy, low, high, per_question):
    return {
        "title": title, "prompt": "boxed.en", "seconds": 3.0, "accuracy": accuracy, "low": low,
        "high": high, "per_question": per_question, "reasons": {"right": 1}, "truncated": 0,
        "answers": 2, "mean_tokens": None, "bought": 2,
    }  # fmt: skip


def evaluated(**difference):
    return {
        "questions": 200,
        "samples": 1,
        "sampling": {"temperature": 0.0, "max_tokens": 64},
        "verifier": "math_answer",
        "results": {
            "before": result("student before", 0.04, 0.02, 0.077, [0.0, 1.0]),
            "after": result("student after", 0.42, 0.354, 0.489, [1.0, 1.0]),
        },
        "difference": {"difference": 0.38, "low": 0.31, "high": 0.45} | difference,
    }


def row(share, low, high, **more):
    return more | {"share": share, "low": low, "high": high}


def evaluated_often():
    """As `evaluated`, with several answers a question, groups, rates and a teacher."""
    one = evaluated(p=0.0004, test="paired permutation test") | {"samples": 4}
    one["results"]["teacher"] = result("teacher", 0.7, 0.63, 0.76, [1.0, 1.0])
    for place, values in enumerate(one["results"].values()):
        more = 0.2 * place
        values |= {
            "truncation": row(0.1, 0.06, 0.15),
            "format": row(0.5 + more, 0.4 + more, 0.6 + more),
            "pass_at_k": [
                row(0.1 + more + k / 20, 0.05 + more, 0.4 + more, k=k) for k in (1, 2, 4)
            ],
            "majority_at_k": [row(0.2 + more, 0.1, 0.7, k=4, drawing_error=0.001)],
            "by": {
                "difficulty": [
                    row(0.3 + more, 0.2, 0.9, group=group, questions=100)
                    for group in ("1", HOSTILE)
                ],
                "source": [],
            },
        }
    one["gap_closed"] = row(
        0.576, 0.5, 0.65, gap=0.66, gap_low=0.6, gap_high=0.72, why=""
    )  # fmt: skip
    return one


def put_evaluate(run):
    with writing(run.folder / "evaluate", ("before", "after")) as (splits, manifest):
        splits["before"].write(trace(1, "wrong answer: 7", answer="before it said 7"))
        splits["before"].write(trace(2))
        splits["after"].write(trace(1, answer="after it said 2"))
        splits["after"].write(trace(2))
        inputs = {"questions": RunFolder(run.folder).content("tasks"), "after": "trained"}
        manifest |= evaluated() | {"inputs": inputs, "complete": True, "seconds": 8.0}
