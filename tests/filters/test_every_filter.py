"""Every filter that there is, from the shipped config, in one run over real traces."""

import importlib.util
import json

import pytest

from synth.core import plugins

pytest.importorskip("torch")

# What turns a filter on that the shipped config leaves off, beside its action.
OPTIONS = {
    "difficulty": ["level=level", "level_min=2", "pass_rate=null", "pass_rate_max=null"],
    "exact": [], "judge": ["sampling.max_tokens=40", "structured=none"],
    "quota": ["max=3"], "length_sample": ["total=8"], "diversity": ["total=6"],
    "perplexity": ["ifd=true"],
}  # fmt: skip
ROWS = [
    {"question": "Which is even?\nA. 3\nB. 4", "response": "Four is even, so \\boxed{B}.", "answer": "B", "level": 2},
    {"question": "Sum?", "response": "```python\ndef f(a, b):\n    return a + b\n```", "tests": ["assert f(1, 2) == 3"], "entry_point": "f", "level": 3},
    {"question": "Sum?", "response": "```python\ndef f(a, b):\n    return a - b\n```", "tests": ["assert f(1, 2) == 3"], "entry_point": "f", "level": 3},
    {"question": "Give JSON.", "response": '{"a": 1}', "schema": {"required": ["b"]}, "level": 1},
    {"question": "Say hello in English, please.", "response": "I am sorry, but I cannot help with that.", "level": 1},
    {"question": "Write to whom?", "response": "Write to jane.doe@webmail.net about it, and I hope this helps!", "level": 1},
]  # fmt: skip


@pytest.mark.slow
def test_every_filter_stands_in_the_funnel_and_why_explains_each_record(
    distill, rows, tmp_path, smollm2_folder
):
    from tests.helpers.tiny_models import save_bert

    shortest = sorted(rows("math-cot-100.jsonl"), key=lambda row: len("".join(row["code"][:2])))
    traces = [
        {"question": row["query"], "response": answer, "answer": row["gt"], "level": int(row["level"][-1])}
        for row in shortest[:2]
        for answer in row["code"][:2]
    ]  # fmt: skip
    traces = ROWS + [{**one, "tests": None, "entry_point": None, "schema": None} for one in traces]
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in traces))
    model = save_bert(tmp_path / "bert", id2label={0: "fine", 1: "toxic"})
    # From the GGUF file itself each process would load them for half a minute.
    models = [f"teachers.judge.model={smollm2_folder}", f"student.model={smollm2_folder}"]
    more = [*models, f"filters.toxicity.model={model}", f"filters.reward_model.model={model}"]
    more += ["filters.reward_model.label=fine", f"filters.overlap.sets=[{{path: {path}}}]"]
    names = set(plugins.names("filter"))
    if importlib.util.find_spec("reasoning_gym") is None:  # it brings code that is compiled
        names.remove("reasoning_gym")
    for name in sorted(names):
        more.append(f"filters.{name}.action=tag")
        more += [f"filters.{name}.{option}" for option in OPTIONS.get(name, [])]
    done = distill(
        "filter", "filter-only", f"traces.0.path={path}", *more, "--explain", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs/filter-only/filter/manifest.json").read_text())
    counts = {one["name"]: one for one in manifest["funnel"]["filters"]}
    assert set(counts) == names
    assert all(one["dropped"] == 0 for one in counts.values())  # they only tag
    assert manifest["funnel"]["kept"] == len(traces)
    found = {name: set(one["reasons"]) for name, one in counts.items()}
    assert "filter failed" not in set().union(*found.values())
    for name, kind in {
        "code_tests": "failed assertion", "refusal": "refusal", "secrets": "personal data", 
        "overlap": "overlaps evaluation", "json_schema": "breaks the schema", "quota": "over the quota",
    }.items():  # fmt: skip
        assert kind in found[name], (name, found[name])

    import pyarrow.parquet as pq

    (shard,) = (tmp_path / "runs/filter-only/filter/data").glob("kept-*")
    for id in pq.read_table(shard, columns=["id"])["id"].to_pylist()[:3]:
        why = distill("why", "runs/filter-only", id, cwd=tmp_path)
        assert why.returncode == 0
        assert all(f" {name}" in why.stdout for name in counts)
