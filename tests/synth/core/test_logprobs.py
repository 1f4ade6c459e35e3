"""Soft labels: read, packed, joined, laid beside the records, and refused where they do not fit."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.config.generate import Sampling
from synth.core.errors import UserError
from synth.core.logprobs import (
    EMPTY,
    LabelWriter,
    TopLogprobs,
    hash_tokens,
    joined,
    pack,
    read_logprobs,
    take_labels,
    unpack,
)
from synth.store.responses import ResponseStore
from tests.helpers.scripted_teacher import Scripted, ask_with, completion, run, tasks


def entry(id, logprob, top):
    said = [{"token": f"token_id:{i}", "logprob": p, "bytes": None} for i, p in top]
    return {"token": f"token_id:{id}", "logprob": logprob, "bytes": None, "top_logprobs": said}


def with_logprobs(content):
    raw = completion("x")
    raw["choices"][0]["logprobs"] = {"content": content}
    return raw


def random_labels(n, k, seed=0):
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(n, 50)) * 3
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logprobs, 1)[:, :k]
    chosen = draw.integers(0, 50, n)
    return TopLogprobs(
        chosen.astype(np.int32),
        logprobs[np.arange(n), chosen].astype(np.float32),
        order.astype(np.int32),
        np.take_along_axis(logprobs, order, 1).astype(np.float32),
    )


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("token_ids", "chosen", "top_ids", "top_logprobs", "temperature")
    )


def test_they_are_read_likeliest_first_and_taken_out_of_the_response():
    raw = with_logprobs([entry(5, -1.0, [(7, -2.0), (5, -1.0)]), entry(9, -0.5, [(9, -0.5)])])
    labels = take_labels(raw)
    assert labels.token_ids.tolist() == [5, 9]
    assert labels.top_ids.tolist() == [[5, 7], [9, -1]]
    assert labels.top_logprobs.tolist() == [[-1.0, -2.0], [-0.5, EMPTY]]
    assert "logprobs" not in raw["choices"][0]


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "returned no logprobs"),
        ([{"token": "the", "logprob": -1.0}], "tokens without ids"),
        ([{"token": "token_id:x", "logprob": -1.0}], "invalid literal"),
        ([{"token": "token_id:1"}], "another form"),
        ([7], "another form"),
    ],
)
def test_what_is_none_is_said_so(content, says):
    with pytest.raises(ValueError, match=says):
        take_labels(with_logprobs(content))


@given(st.integers(0, 30), st.integers(1, 8), st.integers(0, 5))
def test_packing_loses_nothing(n, k, seed):
    labels = random_labels(n, k, seed)
    assert same(unpack(pack(labels)), labels)


def test_damage_is_noticed():
    packed = bytearray(pack(random_labels(20, 4)))
    packed[-6] ^= 1
    with pytest.raises(ValueError):
        unpack(bytes(packed))


def test_pieces_are_joined_and_the_narrower_filled():
    whole = joined([random_labels(3, 2), random_labels(4, 5)])
    assert whole.top_ids.shape == (7, 5)
    assert (whole.top_ids[:3, 2:] == -1).all()
    assert np.isneginf(whole.top_logprobs[:3, 2:]).all()


def test_the_hash_is_of_the_ids_alone_whatever_holds_them():
    assert hash_tokens([1, 2, 3]) == hash_tokens(np.array([1, 2, 3], np.int64))
    assert hash_tokens([1, 2, 3]) != hash_tokens([1, 2, 4])


def test_side_files_read_back_to_half_precision_of_a_float64_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(LabelWriter, "ROWS_PER_SHARD", 4)
    monkeypatch.setattr(LabelWriter, "HELD", 60)
    written = {f"r{i}": random_labels(i, 6, seed=i) for i in range(11)}
    writer = LabelWriter(tmp_path)
    for id, labels in written.items():
        writer.write(id, labels)
    writer.close()
    assert len(list(tmp_path.iterdir())) == 3
    read = dict(read_logprobs(tmp_path))
    assert list(read) == list(written)
    for id, labels in written.items():
        assert np.array_equal(read[id].token_ids, labels.token_ids)
        assert np.array_equal(read[id].top_ids, labels.top_ids)
        exact = labels.top_logprobs.astype(np.float64)
        assert np.allclose(read[id].top_logprobs, exact, rtol=2**-11, atol=1e-7)


def test_tokens_that_are_not_those_of_the_hash_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = LabelWriter(tmp_path)
    writer.write("r", random_labels(5, 3))
    writer.close()
    [shard] = tmp_path.iterdir()
    table = pq.read_table(shard)
    place = table.schema.get_field_index("token_ids")
    wrong = pa.array([[1, 2, 3, 4, 5]], table.schema.field("token_ids").type)
    pq.write_table(table.set_column(place, table.schema.field(place), wrong), shard)
    with pytest.raises(UserError, match="not those it was made for"):
        list(read_logprobs(tmp_path))


def test_they_are_stored_once_beside_the_response_and_a_rerun_has_them(tmp_path):
    content = [entry(5, -1.0, [(5, -1.0), (7, -2.0)])]
    teacher = Scripted(lambda r, n: json.loads(json.dumps(with_logprobs(content))))
    ask = ask_with(teacher, sampling=Sampling(max_tokens=9, top_logprobs=2))
    got, _ = run(ask, tasks(2), tmp_path / "s")
    assert teacher.requests[0].sampling["logprobs"] is True
    assert teacher.requests[0].sampling["top_logprobs"] == 2
    key = got[0][1][0].generation.key
    with ResponseStore(tmp_path / "s") as store:
        assert unpack(store.labels(key)).token_ids.tolist() == [5]
        assert "logprobs" not in store.get(key).raw["choices"][0]


def test_an_answer_without_the_labels_asked_for_does_not_count(tmp_path):
    ask = ask_with(Scripted(lambda r, n: "x"), sampling=Sampling(top_logprobs=2), retries=1)
    _, counts = run(ask, tasks(1), tmp_path / "s")
    assert counts.failed == {"malformed response": 1}


@pytest.mark.slow
def test_the_run_lays_them_beside_its_records(api, distill, write_config, tmp_path):
    answer = api.completion("\\boxed{1}")
    answer["choices"][0]["logprobs"] = {"content": [entry(5, -1.0, [(5, -1.0), (7, -2.0)])]}
    api.reply = lambda body: (200, {}, answer)
    config = {
        "name": "r", "tasks": {"train": [{"source": "inline", "tasks": [{"question": "q", "answer": 1}]}]},
        "teachers": {"t": {"kind": "openai", "model": "m", "base_url": api.url}},
        "generate": {"prompt": {"template": "plain"}, "sampling": {"top_logprobs": 2}},
        "filters": ["truncated"],
    }  # fmt: skip
    done = distill("run", write_config(config))
    assert done.returncode == 0, done.stderr
    assert api.received[0]["return_tokens_as_token_ids"] is True
    from synth.core.dataset import read_split

    [(id, labels)] = read_logprobs(tmp_path / "runs/r/generate/labels")
    [record] = read_split(tmp_path / "runs/r/generate", "train")
    assert id == record.id
    assert labels.top_ids.tolist() == [[5, 7]]
    assert labels.temperature == 1.0
