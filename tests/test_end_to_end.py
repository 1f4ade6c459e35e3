"""A whole run with a real, tiny student: from questions to report, killed in the middle, run again."""

import json
import signal
import subprocess
import time

import pytest

from tests.helpers import forked_python


def config(tiny):
    rows = [
        {"question": f"What is {a} + {b}?", "answer": a + b} for a in range(6) for b in range(a, 6)
    ]
    return {
        "name": "e2e",
        "tasks": {"train": [{"source": "inline", "tasks": rows}], "holdout": 5},
        "teachers": {"t": {"kind": "fake", "accuracy": 0.8}},
        "generate": {"prompt": {"template": "boxed.en"}, "samples": {"max": 3, "until_verified": 1}},
        "filters": ["truncated", {"think_format": {"final_answer": "boxed"}}, {"length": {"tokens_max": 200}}, "math_answer"],
        "student": {"model": str(tiny), "prompt": {"template": "boxed.en"}},
        "train": {"epochs": 30, "learning_rate": 3e-3, "batch_size": 4, "save_steps": 5},
        "evaluate": {"sampling": {"temperature": 0, "max_tokens": 40}, "teacher": False},
    }  # fmt: skip


@pytest.mark.slow
def test_a_whole_run_killed_in_training_and_run_again(tiny, distill, write_config, tmp_path):
    path = write_config(config(tiny))
    run = tmp_path / "runs" / "e2e"
    command = ["-m", "synth", "run", path]
    process = forked_python.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = run / "train" / "log.jsonl"
    deadline = time.monotonic() + 120
    while sum(p.read_text().count("\n") for p in run.glob("train.*/log.jsonl")) < 12:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    done = distill("run", path)
    assert done.returncode == 0, done.stderr
    assert "generate: done before" in done.stdout
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(set(steps)), "a step is in the log twice"
    train = json.loads((run / "train" / "manifest.json").read_text())
    assert steps[-1] == train["steps"]
    assert (
        train["examples"]
        == json.loads((run / "filter" / "manifest.json").read_text())["rows"]["kept"]
    )

    evaluation = json.loads((run / "evaluate" / "manifest.json").read_text())
    assert set(evaluation["results"]) == {"before", "after"}
    assert evaluation["questions"] == 5
    for one in evaluation["results"].values():
        assert 0 <= one["low"] <= one["accuracy"] <= one["high"] <= 1
    assert (run / "report.html").stat().st_size > 5000
    assert "paired" in done.stdout

    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = run / "train" / train["student"]
    model = AutoModelForCausalLM.from_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 1 + 1?\n\nReason step by step inside <think> and </think>, then give the final answer in \\boxed{}."}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    text = tokenizer.decode(
        model.generate(**prompt, max_new_tokens=60, do_sample=False)[
            0, prompt["input_ids"].shape[1] :
        ]
    )
    # It has learned the form, whatever the sums.
    assert text.startswith("<think>")
    assert "</think>" in text
    assert text.rstrip().endswith("<|im_end|>")

    again = distill("run", path)
    assert again.stdout.count("done before, nothing changed") == 5


@pytest.mark.slow
def test_lora_and_its_manifest(tiny, distill, write_config, tmp_path):
    settings = config(tiny)
    settings["train"] = {"max_steps": 4, "lora": {"r": 4, "alpha": 8}, "batch_size": 4}
    del settings["evaluate"]
    done = distill("run", write_config(settings))
    assert done.returncode == 0, done.stderr
    from transformers import AutoModelForCausalLM

    manifest = json.loads((tmp_path / "runs" / "e2e" / "train" / "manifest.json").read_text())
    AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / "e2e" / "train" / manifest["student"])


@pytest.mark.slow
def test_training_refuses_traces_that_do_not_fit(tiny, distill, write_config):
    settings = config(tiny)
    settings["train"] = {"max_steps": 4, "max_length": 60}
    del settings["evaluate"]
    done = distill("run", write_config(settings))
    assert done.returncode == 2
    assert "60" in done.stderr
    assert "Traceback" not in done.stderr
