"""Unknown keys: names of other tools and keys at the wrong level are told where they belong."""

import pytest

from synth.config.key_hints import FOREIGN_KEYS
from synth.config.validate import load_run
from synth.core.errors import ConfigError


def config(section, key, value=1):
    """A whole config with one more key in a section, which is a dotted path."""
    whole = {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "tasks": [{"question": "1 + 1?"}]}]},
        "teachers": {"t": {"kind": "fake"}, "v": {"kind": "vllm", "model": "m"}},
        "generate": {"prompt": {"template": "plain"}, "sampling": {}},
        "filters": [{"length": {"tokens_max": 5}}],
        "student": {"model": "m", "prompt": {"template": "plain"}},
        "train": {"lora": {}},
    }
    here = whole
    for step in filter(None, section.split(".")):
        here = here[int(step)] if step.isdigit() else here[step]
    here[key] = value
    return whole


@pytest.mark.parametrize(
    ("section", "key", "says"),
    [
        ("train", "num_train_epochs", "here it is train.epochs"),
        ("", "num_train_epochs", "here it is train.epochs"),
        ("train", "per_device_train_batch_size", "here it is train.batch_size"),
        ("train", "gradient_accumulation_steps", "here it is train.gradient_accumulation"),
        ("train", "max_seq_length", "here it is train.max_length"),
        ("train", "lr", "here it is train.learning_rate"),
        ("", "learning_rate", "it belongs to train.learning_rate"),
        ("", "max_length", "it belongs to train.max_length"),
        ("train", "lora_r", "here it is train.lora.r"),
        ("train", "r", "it belongs to train.lora.r"),
        ("generate", "max_new_tokens", "here it is generate.sampling.max_tokens"),
        ("generate.sampling", "max_new_tokens", "here it is generate.sampling.max_tokens"),
        ("generate.sampling", "max_completion_tokens", "here it is generate.sampling.max_tokens"),
        ("generate", "top_p", "it belongs to generate.sampling.top_p"),
        ("generate", "n", "here it is generate.samples.max"),
        ("teachers.t", "temperature", "it belongs to generate.sampling.temperature"),
        ("generate", "max_model_len", "it belongs to teachers.NAME.max_model_len"),
        ("generate", "tensor_parallel_size", "it belongs to teachers.NAME.tensor_parallel_size"),
        ("", "gpu_memory_utilization", "it belongs to teachers.NAME.gpu_memory_utilization"),
        ("teachers.v", "tp", "here it is teachers.NAME.tensor_parallel_size"),
        ("generate", "base_url", "it belongs to teachers.NAME.base_url"),
        ("tasks", "limit", "it belongs to tasks.train.N.limit"),
        ("train", "epoch", "did you mean 'epochs'?"),
        ("train", "zzzz", "known: adam_beta1"),
    ],
)
def test_an_unknown_key_is_told_where_it_belongs(section, key, says):
    with pytest.raises(ConfigError) as error:
        load_run(config(section, key))
    [line] = [line for line in str(error.value).splitlines() if key in line]
    assert f"unknown key; {says}" in line


def test_what_is_promised_is_a_key_that_there_is():
    """Each place that the table names is one that a config may have."""
    from synth.config.key_hints import _places
    from synth.config.run import Run

    known = {".".join(place) for place in _places(Run)}
    known |= {place.rpartition(".")[2] for place in known}
    for foreign, here in FOREIGN_KEYS.items():
        place = here.split(",")[0].split(":")[0].split(" ")[0].removesuffix(";")
        if ".extra." not in place and ".engine." not in place and place != "a":
            assert place in known, (foreign, here)
