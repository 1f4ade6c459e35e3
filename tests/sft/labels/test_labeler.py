"""The teacher's labels are those of the right positions, exact, and the same files after a kill."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.data.dataset import Examples
from sft.data.encoding import Encoded
from sft.labels.labeler import Wanted, batches, estimate, label
from sft.labels.store import LabelStore, tokens_hash
from sft.labels.transformers import Reader, _lse, _topk
from synth.core.errors import UserError
from tests.helpers import forked_python

VOCABULARY = 97


def tiny(seed=0, **more):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.5, **more,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def examples(n=12, seed=0):
    """Prompt and completion, with a turn in the middle of some that carries no loss."""
    draw = np.random.default_rng(seed)
    made = []
    for i in range(n):
        ids = draw.integers(0, VOCABULARY, int(draw.integers(4, 40))).tolist()
        labels = [-100] * (len(ids) // 3) + ids[len(ids) // 3 :]
        if i % 3 == 0 and len(ids) > 12:
            labels[-5:-3] = [-100, -100]
        made.append(Encoded(ids, labels))
    return made


def held(data, ids=None):
    """Examples as training holds them."""
    import pyarrow as pa

    table = pa.table({"input_ids": [e.input_ids for e in data], "labels": [e.labels for e in data]})
    ids = ids or [str(i) for i in range(len(data))]
    labelled = [sum(label != -100 for label in e.labels[1:]) for e in data]
    lengths = [len(e.input_ids) for e in data]
    return Examples(table, ids, lengths, labelled, ids, ids, ids, [-1.0] * len(data), "")


def reference(model, example, temperatures):
    """Dense float64 logits, one example alone, no padding: by position of the token they predict."""
    exact = model.to(torch.float64)
    with torch.no_grad():
        z = exact(torch.tensor([example.input_ids])).logits[0]
    model.to(torch.float32)
    where = [t for t in range(1, len(example.labels)) if example.labels[t] != -100]
    z = torch.stack([z[t - 1] for t in where])
    return z.numpy(), np.stack([torch.logsumexp(z / t, -1).numpy() for t in temperatures], 1)


@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
@pytest.mark.parametrize("plain_head", [True, False])
def test_labels_equal_a_dense_float64_reference(plain_head, chunk_bytes):
    model, temperatures = tiny(), (1.0, 2.0, 4.0)
    reader = Reader(model, Wanted(k=9, temperatures=temperatures), chunk_bytes)
    assert reader.plain_head
    reader.plain_head = plain_head
    data = examples()
    for example, made in zip(data, reader.read(data), strict=True):
        z, lse = reference(model, example, temperatures)
        assert made.lse.shape == lse.shape and np.allclose(made.lse, lse, rtol=1e-5, atol=1e-5)
        order = np.argsort(-z, axis=1)[:, :9]
        assert np.allclose(made.top_logits, np.take_along_axis(z, order, 1), rtol=1e-5, atol=2e-5)
        # Ids are those of the reference, up to logits that are equal in float32.
        assert np.allclose(
            np.take_along_axis(z, made.top_ids.astype(int), 1),
            made.top_logits,
            rtol=1e-5,
            atol=2e-5,
        )
        assert all(len(set(row)) == 9 for row in made.top_ids.tolist())


def test_labels_stand_at_the_tokens_that_they_predict():
    """A model that always predicts the token after the one it reads: t + 1 from t, never t."""
    model = tiny(tie_word_embeddings=False)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        basis = torch.nn.functional.normalize(torch.randn(VOCABULARY, 32), dim=1)
        model.model.embed_tokens.weight.copy_(basis)
        model.lm_head.weight.copy_(20 * basis.roll(1, 0))
    ids = [(5 + i) % VOCABULARY for i in range(30)]
    example = Encoded(ids, [-100] * 7 + ids[7:])
    short = Encoded(ids[:9], [-100] * 4 + ids[4:9])
    for one, made in zip(
        (example, short), Reader(model, Wanted(k=3)).read([example, short]), strict=True
    ):
        wanted = [label for label in one.labels if label != -100]
        assert made.top_ids[:, 0].tolist() == wanted


def test_the_store_gives_back_what_the_teacher_said(tmp_path):
    model, data = tiny(), examples(30)
    ids = [f"r{i}" for i in range(30)]
    seen = []
    wanted = Wanted(k=9, batch_tokens=100)
    engine = Reader(model, wanted)
    label(engine, held(data, ids), tmp_path, "x", None, lambda *a: seen.append(a), shard_tokens=150)
    assert seen[0] == (0, seen[-1][1])
    store = LabelStore(tmp_path)
    total = sum(label != -100 for e in data for label in e.labels[1:])
    assert store.manifest["tokens"] == total == seen[-1][0] == seen[-1][1]
    assert len(store.manifest["shards"]) > 2
    assert store.manifest["vocabulary"] == VOCABULARY and store.manifest["teacher"] == "x"
    store.check([(id, tokens_hash(e)) for id, e in zip(ids, data, strict=True)], VOCABULARY)
    for id, example in zip(ids, data, strict=True):
        found = store.get(id, tokens_hash(example))
        z, lse = reference(model, example, (1.0, 2.0, 4.0))
        top = np.sort(z, axis=1)[:, ::-1][:, :9]
        assert np.allclose(found.top_logits, top, atol=0.1)
        for i, t in enumerate((1.0, 2.0, 4.0)):
            exact = np.exp(top / t - lse[:, i : i + 1])
            stored = np.exp(found.top_logits / t - found.lse[:, i : i + 1])
            assert np.abs(exact - stored).max() < 0.01
            assert np.abs(exact.sum(1) - stored.sum(1)).max() < 0.003


def test_padded_rows_of_the_vocabulary_do_not_count():
    model, data = tiny(), examples(4)
    made = Reader(model, Wanted(k=60, vocabulary=60)).read(data)
    for example, labels in zip(data, made, strict=True):
        z, _ = reference(model, example, (1.0,))
        assert labels.top_ids.max() < 60
        exact = torch.logsumexp(torch.tensor(z[:, :60]), -1).numpy()
        assert np.allclose(labels.lse[:, 0], exact, atol=1e-4)


@given(
    st.integers(1, 5), st.sampled_from([64, 512, 640, 1000]), st.integers(1, 9), st.integers(0, 99)
)
def test_the_search_in_blocks_finds_the_top_k_ties_and_nan_included(rows, size, k, seed):
    torch.manual_seed(seed)
    z = torch.randn(rows, size)
    z = z.round() if seed % 3 == 0 else z
    top, ids = _topk(z, k)
    assert torch.equal(top, z.topk(k).values) and torch.equal(z.gather(1, ids), top)
    assert all(len(set(row)) == k for row in ids.tolist())
    z[0, seed % size] = float("nan")
    assert _topk(z, k)[0][0].isnan().any()


@given(
    st.lists(st.sampled_from([0.25, 0.5, 0.7, 1.0, 2.0, 3.0, 4.0]), min_size=1, max_size=5),
    st.sampled_from([0.1, 5.0, 200.0]),
    st.integers(0, 99),
)
def test_logsumexp_equals_float64_at_every_set_of_temperatures(temperatures, scale, seed):
    torch.manual_seed(seed)
    z = torch.randn(4, 300) * scale + 10
    found = _lse(z, z.max(1, keepdim=True).values, temperatures)
    exact = torch.stack([torch.logsumexp(z.double() / t, -1) for t in temperatures], 1)
    assert torch.allclose(found.double(), exact, rtol=2e-6, atol=2e-6)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 1000))
def test_batches_have_every_example_once_longest_first_within_the_budget(lengths, budget):
    made = batches(lengths, budget)
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    widths = [max(lengths[i] for i in batch) for batch in made]
    assert widths == sorted(widths, reverse=True)
    assert all(len(b) == 1 or w * len(b) <= budget for b, w in zip(made, widths, strict=True))


def test_the_estimate_is_near_what_it_comes_to(tmp_path):
    model, data = tiny(), examples(60)
    engine = Reader(model, Wanted(k=9))
    found = estimate(engine, held(data))
    label(engine, held(data), tmp_path, "x")
    size = sum(f.stat().st_size for f in tmp_path.glob("*.bin"))
    assert found.examples == 60 and found.labelled == LabelStore(tmp_path).manifest["tokens"]
    assert found.tokens == sum(len(e.input_ids) for e in data)
    assert 0.6 * size < found.bytes < 2.5 * size
    assert 0 < found.seconds < 60


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(k=98), "k is 98; expected 1 to 97"),
        (Wanted(k=0), "k is 0"),
        (Wanted(k=4, vocabulary=98), "a vocabulary of 98, but the teacher has 97 logits"),
        (Wanted(k=4, temperatures=()), "temperatures"),
        (Wanted(k=4, temperatures=(0.0,)), "temperatures"),
    ],
)
def test_what_does_not_fit_the_teacher_is_refused(wanted, message):
    with pytest.raises(UserError, match=message):
        Reader(tiny(), wanted)


def test_bad_data_is_refused(tmp_path):
    model, data = tiny(), examples(2)
    engine = Reader(model, Wanted(k=4))
    for twice in (held(data, ["a", "a"]), held([])):
        with pytest.raises(UserError, match="an id of its own"):
            label(engine, twice, tmp_path, "x")
    with pytest.raises(UserError, match="record 'b' has no token with loss"):
        label(engine, held([data[0], Encoded([1, 2], [-100, -100])], ["a", "b"]), tmp_path, "x")
    with torch.no_grad():
        model.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(UserError, match=r"nan or infinite \(record"):
        label(engine, held(data), tmp_path, "x")
    assert not list(tmp_path.glob("*.bin"))


RUN = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from tests.sft.labels.test_labeler import examples, held, tiny
from sft.labels.labeler import Wanted, label
from sft.labels.transformers import Reader
slow = float(sys.argv[3])
def say(done, total):
    print(done, flush=True)
    time.sleep(slow)
label(Reader(tiny(), Wanted(k=9, batch_tokens=120)), held(examples(60)), Path(sys.argv[1]), "x",
      on_progress=say, shard_tokens=150)
"""


def files(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_an_interrupted_run_goes_on_to_the_same_files(tmp_path):
    engine, data = Reader(tiny(), Wanted(k=9, batch_tokens=100)), held(examples(30))

    def run(folder, stop_after=None):
        calls = []

        def say(done, total):
            calls.append(done)
            if len(calls) == stop_after:
                raise KeyboardInterrupt

        label(engine, data, folder, "x", on_progress=say, shard_tokens=150)
        return calls

    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", 6)
    whole = [LabelStore(tmp_path / "whole").manifest["tokens"]]
    assert list((tmp_path / "stopped").glob("*.bin"))
    # What lies there already is said at once, before anything is read.
    again = run(tmp_path / "stopped")
    assert 0 < again[0] < again[1] and again[-1:] == whole
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert run(tmp_path / "stopped") == []  # finished: nothing is read again
    with pytest.raises(UserError, match="labels of another kind"):
        label(engine, data, tmp_path / "stopped", "another")


@pytest.mark.slow
def test_two_kills_leave_the_same_files(tmp_path):
    here = str(Path(__file__).parents[3])

    def start(folder, slow):
        return forked_python.Popen(
            ["-c", RUN, folder, here, slow], stdout=subprocess.PIPE, text=True
        )

    whole = start(tmp_path / "whole", 0)
    assert len(whole.stdout.readlines()) and not whole.wait(120)
    for shards in (2, 4):
        process = start(tmp_path / "killed", 0.05)
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "killed").glob("*.bin"))) < shards:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not (tmp_path / "killed" / "manifest.json").exists()
    (tmp_path / "killed" / "labels-00004.partial").write_bytes(b"half of a shard")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*.bin")}
    last = start(tmp_path / "killed", 0)
    assert last.stdout.readlines() and not last.wait(120)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*.bin")}
    assert before.items() <= after.items()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_some_of_the_data_alone(tmp_path):
    data = held(examples(20))
    chosen = [3, 4, 11, 17]
    label(Reader(tiny(), Wanted(k=4)), data, tmp_path, "x", chosen)
    store = LabelStore(tmp_path)
    store.check((data.ids[i], tokens_hash(data[i])) for i in chosen)
    assert len(store) == len(chosen)
    with pytest.raises(UserError, match="no labels of record '5'"):
        store.get("5", tokens_hash(data[5]))


LITTLE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from tests.sft.labels.test_labeler import tiny
from sft.labels.labeler import Wanted
from sft.labels.transformers import Reader
from sft.data.encoding import Encoded
from synth.core.errors import UserError
reader = Reader(tiny(), Wanted(k=9))
reader.read([Encoded([1] * 9, [1] * 9)])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**23, used + 2**23))
try:
    reader.read([Encoded([1] * n, [1] * n) for n in (3000, 2999)])
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_too_little_memory_says_what_to_lower():
    done = subprocess.run(
        [sys.executable, "-c", LITTLE, str(Path(__file__).parents[3])],
        capture_output=True,
        text=True,
    )
    assert "for 2 traces of up to 3000 tokens; lower label.batch_tokens" in done.stdout, done.stderr
