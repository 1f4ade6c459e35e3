"""What the training would refuse is found before: from configs and tokenizers, without weights."""

import json
import shutil

import pytest

from synth.config.validate import load_run
from synth.core.errors import ConfigError
from synth.stages.check_training import check_training
from tests.helpers.training.on_policy_runs import tiny, trained_bpe


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models without weights: what is read are configs and tokenizers."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, T5Config

    root = tmp_path_factory.mktemp("models")
    sizes = {"student": (600, 512), "big": (600, 512), "other": (500, 512), "narrow": (600, 24)}
    for seed, (name, (size, window)) in enumerate(sizes.items()):
        tokenizer = trained_bpe(size)
        tiny(tokenizer, None, seed, window=window, num_hidden_layers=3).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        (root / name / "model.safetensors").unlink()
    plain = trained_bpe(600)
    written = json.loads(plain.backend_tokenizer.to_str())
    shutil.copytree(root / "student", root / "unknown")
    text = json.dumps(written).replace("<|im_start|>", "<|a|>").replace("<|im_end|>", "<|b|>")
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text), eos_token="<|b|>"
    ).save_pretrained(root / "unknown")
    shutil.copytree(root / "student", root / "grown")
    plain.add_tokens(["<think>", "</think>"])
    plain.save_pretrained(root / "grown")
    shutil.copytree(root / "student", root / "encoder")
    T5Config(vocab_size=600).save_pretrained(root / "encoder")
    return root


@pytest.fixture
def check(tmp_path, models, write_config):
    def checked(**changes):
        student = {"model": str(models / "student"), "prompt": {"template": "plain"}}
        config = {
            "name": "r",
            "runs": str(tmp_path / "runs"),
            "traces": [{"source": "file", "path": "none.jsonl"}],
            "student": {**student, **changes.pop("student", {})},
            "train": {"max_steps": 2, **changes.pop("train", {})},
            **changes,
        }
        for place in (config["student"], *config["train"].get("teachers", {}).values()):
            if (models / place["model"]).exists():
                place["model"] = str(models / place["model"])
        run, source = load_run(str(write_config(config)))
        return check_training(run), source

    return checked


def refused(report, source):
    with pytest.raises(ConfigError) as caught:
        report.refuse(source)
    return str(caught.value)


def taught(method, model, **options):
    return {"method": method, "teachers": {"t": {"model": model}}, **options}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {"model": "unknown"}}, "student.chat_template: auto cannot choose"),
        ({"student": {"chat_template": "./nope.jinja"}}, "student.chat_template: no template and no file './nope.jinja'"),
        ({"student": {"chat_template": "llama3"}}, "ends a turn with '<|eot_id|>', which is no token"),
        ({"student": {"model": "/no/such"}}, "student.model: model /no/such: no such file or folder"),
        ({"student": {"model": "encoder"}}, "student.model: cannot load the model"),
        ({"student": {"model": "grown"}}, "student.model: the model has 600 embeddings, and its tokenizer gives '<think>' the id 600"),
        ({"student": {"model": "narrow"}}, "student.model: 24 tokens are all that fits"),
        ({"train": {"max_length": 9}}, "train.max_length: 9 tokens are all that fits"),
        ({"student": {"layers": 4}}, "student.layers: 4 layers of 3; give 2 to 3"),
        ({"student": {"rope": {"scaling": {"rope_type": "yarm"}}}}, "student.rope.scaling.rope_type: unknown kind 'yarm'"),
        ({"train": {"lora": {"target_modules": ["q_prj"]}}}, "train.lora.target_modules: the student has no layer 'q_prj'; did you mean 'q_proj'?"),
        ({"train": taught("soft_labels", "other")}, "train.teachers.t: the teacher has another tokenizer"),
        ({"train": taught("on_policy", "other", on_policy={"trainer": "distillation"})}, "train.on_policy.trainer: distillation needs one vocabulary"),
        ({"train": taught("on_policy", "big", on_policy={"max_new_tokens": 999})}, "train.on_policy: 1 of 1 prompts leave no room"),
        ({"train": taught("on_policy", "big", lora={"target_modules": ["lm_head"]})}, "lm_head gets no adapter"),
        ({"train": taught("hidden_states", "big", hidden_states={"layers": [[1, 9]]})}, "train.hidden_states: layers: the teacher has no layer 9"),
        ({"train": taught("soft_labels", "big"), "label": {"temperatures": [1]}}, "label.temperatures: train.soft_labels.temperature is 2"),
        ({"train": taught("soft_labels", "/no/such")}, "train.teachers.t.model: model /no/such: no such file"),
    ],
)  # fmt: skip
def test_what_training_refuses_is_found_before(check, changes, said):
    report, source = check(**changes)
    message = refused(report, source)
    assert said in message
    assert "config.yaml:" in message.partition(": ")[0]  # the line, before the key


def test_all_that_is_wrong_is_said_at_once(check):
    report, source = check(
        train=taught("soft_labels", "other", max_length=9, lora={"target_modules": ["nope"]})
    )
    message = refused(report, source)
    assert all(key in message for key in ("train.max_length", "train.teachers.t", "train.lora"))
    assert message.count("config.yaml:") == 3


def test_a_template_that_cannot_be_masked_is_found(check, tmp_path):
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}\nTEXT<|im_end|>\n{% endfor %}"
    path = tmp_path / "own.jinja"
    for text, said in (
        ("{{ m.content }}", "own.jinja has no {% generation %} marks"),
        (
            "{% generation %}{{ m.content | trim | upper }}{% endgeneration %}",
            "the template changes the texts of the conversation",
        ),
        (
            "{% generation %}{{ m.content }}{% endgeneration %}",
            "the template must put the assistant's content and the token that ends the turn",
        ),
    ):
        path.write_text(turns.replace("TEXT", text))
        report, source = check(student={"chat_template": str(path)})
        assert said in refused(report, source)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "student: window: 512 tokens; "),
        ({"train": {"lora": {"r": 2}}}, "student: train.lora: adapters of "),
        ({"train": taught("soft_labels", "big")}, "student: train.teachers.t: 600 tokens in common"),
        ({"train": taught("on_policy", "big", on_policy={"max_new_tokens": 99})}, "600 tokens in common"),
        ({"train": taught("on_policy", "other", on_policy={"max_new_tokens": 99})}, "the loss goes across them (gold)"),
        ({"train": taught("hidden_states", "big"), "student": {"layers": 2}}, "layers of student and t"),
        ({"train": {"max_length": 999}}, "student: vocabulary: 600 tokens, 600 embeddings"),
    ],
)  # fmt: skip
def test_what_can_be_trained_is_said_to_be_checked(check, changes, said):
    report, source = check(**changes)
    report.refuse(source)
    assert any(said in line for line in report.checked), report
    assert not report.unchecked
    longer = changes.get("train", {}).get("max_length") == 999
    assert [line for line in report.notes if "train.max_length: 999 is more" in line] == (
        report.notes if longer else []
    )
    assert len(report.notes) == longer


@pytest.mark.parametrize("template", ["choice.en", "code.zh", "mine.jinja"])
def test_a_prompt_with_columns_of_the_data_is_rendered_without_them(check, tmp_path, template):
    own = "---\ndescription: x\nversion: 1\nvariables: {question: q, n: a number}\n---\n{{ n + 1 }} {{ question }}"
    (tmp_path / "mine.jinja").write_text(own)
    if template == "mine.jinja":
        template = str(tmp_path / template)
    report, source = check(student={"prompt": {"template": template}})
    report.refuse(source)
    assert any("the mask holds on an example" in line for line in report.checked)


def test_models_of_a_chain_are_looked_at_as_they_will_be(check, models):
    chain = {
        "big": {
            "student": {
                "model": str(models / "big"), "layers": 2, "prompt": {"template": "plain"},
            },
            "train": {"max_steps": 1},
        }
    }  # fmt: skip
    report, source = check(chain=chain, train=taught("soft_labels", "trained:big"))
    report.refuse(source)
    report, source = check(
        chain=chain,
        train=taught("hidden_states", "trained:big", hidden_states={"layers": [[1, 3]]}),
    )
    assert "train.hidden_states: layers: the teacher has no layer 3" in refused(report, source)
    chain["big"]["train"]["max_length"] = 9
    report, source = check(chain=chain)
    assert "chain.big.train.max_length: 9 tokens" in refused(report, source)


def test_what_cannot_be_looked_at_is_said_once(check):
    report, source = check(
        student={"model": "someone/unknown-1B"}, train=taught("soft_labels", "someone/unknown-7B")
    )
    report.refuse(source)
    (line,) = report.unchecked
    assert line.startswith("not checked: someone/unknown-1B (student): no folder of that name is")


def test_teachers_that_may_write_far_more_than_fits_are_found(check, tmp_path):
    tasks = {"train": [{"source": "inline", "tasks": [{"question": "1 + 1?", "answer": 2}]}]}
    generate = {"prompt": {"template": "boxed.en"}}
    asked = {"tasks": tasks, "teachers": {"t": {"kind": "fake"}}, "traces": None}
    report, source = check(**asked, generate=generate, train={"max_length": 60})
    message = refused(report, source)
    assert "generate.sampling.max_tokens: teachers may write 4,096 tokens" in message
    report, source = check(**asked, generate=generate)
    report.refuse(source)
    assert any("max_tokens is 4,096, and there is room for" in line for line in report.notes)
    report, source = check(**asked, generate=generate, filters=[{"length": {"tokens_max": 200}}])
    report.refuse(source)
    assert not report.notes


def test_a_run_is_refused_before_anything_is_bought(distill, models, write_config, tmp_path):
    path = write_config(
        {
            "name": "r",
            "tasks": {"train": [{"source": "inline", "tasks": [{"question": "1?", "answer": 1}]}]},
            "teachers": {"t": {"kind": "fake"}},
            "generate": {"prompt": {"template": "boxed.en"}},
            "student": {"model": str(models / "unknown"), "prompt": {"template": "boxed.en"}},
            "train": {"max_steps": 1},
        }
    )
    line = path.read_text().splitlines().index(' "student": {') + 1
    for command in ("run", "validate"):
        done = distill(command, path)
        assert done.returncode == 2, done.stderr
        assert f"config.yaml:{line}: student.chat_template: auto cannot choose" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "runs").exists()
