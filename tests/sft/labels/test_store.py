"""Label sets: nothing is lost but what is said to be, any record at any time, damage is refused."""

import json
import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.encoding import Encoded
from sft.labels import codec as label_codec
from sft.labels import store as label_store
from sft.labels.codec import Codebook, TeacherTopK, below_of, decode, encode, levels_of
from sft.labels.store import (
    LabelStore,
    begin,
    content_of,
    finish,
    shard_path,
    tokens_hash,
    write_shard,
)
from synth.core.errors import UserError

TEMPERATURES = (1.0, 2.0, 4.0)


def teacher(n, k, vocabulary, seed, scale=3.0, temperatures=TEMPERATURES):
    """Soft labels of random logits, and the logits."""
    draw = np.random.default_rng(seed)
    z = draw.normal(0, scale, (n, vocabulary)) - 2 * np.log(np.arange(1, vocabulary + 1))
    ids = np.argsort(-z, axis=1, kind="stable")[:, :k]
    top = z.max(1, keepdims=True)
    lse = [top[:, 0] / t + np.log(np.exp((z - top) / t).sum(1)) for t in temperatures]
    logits = np.take_along_axis(z, ids, 1)
    return TeacherTopK(
        ids.astype(np.int32), logits.astype(np.float32), np.stack(lse, 1).astype(np.float32)
    ), z


def by_id(labels):
    order = np.argsort(labels.top_ids, axis=1)
    return np.take_along_axis(labels.top_ids, order, 1), np.take_along_axis(
        labels.top_logits, order, 1
    )


@settings(max_examples=60)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 24),
    more=st.integers(0, 60),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 0.01, 1.0, 5.0, 300.0]),
    temperatures=st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=3),
)
def test_ids_come_back_exactly_and_logits_within_the_step(n, k, more, seed, scale, temperatures):
    labels, z = teacher(n, k, k + more, seed, scale, temperatures)
    book, kinds = Codebook.fit(labels.top_ids)
    found = decode(
        encode(labels, temperatures, book, kinds), temperatures, Codebook.unpack(book.pack())
    )
    ids, logits = by_id(labels)
    ids_found, logits_found = by_id(found)
    assert (ids == ids_found).all()
    assert (np.diff(found.top_logits, axis=1) <= 0).all()
    below = labels.top_logits[:, :1] - logits
    step = np.minimum(
        label_codec.STEP * np.exp(np.minimum(below, 50) / label_codec._TAU), label_codec.WIDEST
    )
    # Half a step, a second-order term where steps grow, and the rounding of float16 and float32.
    error = np.abs(below - (found.top_logits[:, :1] - logits_found))
    assert (error <= 0.55 * step + 1e-5 * np.abs(z).max()).all()
    for i, t in enumerate(temperatures):
        exact = 1 - np.exp(labels.top_logits / t - labels.lse[:, i : i + 1]).sum(
            1, dtype=np.float64
        )
        stored = 1 - np.exp(found.top_logits.astype(np.float64) / t - found.lse[:, i : i + 1]).sum(
            1
        )
        # The mass of the rest is not moved by the rounding of logits.
        assert np.allclose(stored, exact, rtol=0.01, atol=2e-5 * max(1, np.abs(z).max() / t))


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=50))
def test_levels_rise_with_the_distance_and_come_back(below):
    below = np.sort(np.minimum(below, label_codec._FAR))
    levels = levels_of(below)
    assert (np.diff(levels) >= 0).all()
    assert levels_of(np.zeros(1))[0] == 0 == below_of(np.zeros(1))[0]
    assert (levels_of(below_of(levels)) == levels).all()


def test_identical_logits_and_a_whole_vocabulary():
    labels = TeacherTopK(
        np.tile(np.arange(5, dtype=np.int32)[::-1], (3, 1)),
        np.zeros((3, 5), np.float32),
        np.full((3, 1), np.log(5), np.float32),
    )
    book, kinds = Codebook.fit(labels.top_ids)
    found = decode(encode(labels, (1.0,), book, kinds), (1.0,), book)
    assert (np.sort(found.top_ids, 1) == np.arange(5)).all()
    assert np.allclose(found.lse, np.log(5), atol=1e-6)


def example(index, length=12):
    ids = [(index * 7 + i) % 50 for i in range(length)]
    return Encoded(ids, [-100] * 4 + ids[4:])


def build(folder, records=30, shards=3):
    plan = {"teacher": "x", "k": 8, "temperatures": list(TEMPERATURES), "vocabulary": 64}
    begin(folder, plan)
    names = [f"r{i}\x00\u202e\ud800" for i in range(records)]
    made = [(id, tokens_hash(example(i)), teacher(8, 8, 64, i)[0]) for i, id in enumerate(names)]
    for shard in range(shards):
        write_shard(folder, shard, made[shard::shards], TEMPERATURES)
    finish(folder, shards)
    return made


def test_records_are_read_in_any_order_and_from_a_copy_in_another_process(tmp_path):
    made = build(tmp_path)
    store = pickle.loads(pickle.dumps(LabelStore(tmp_path)))
    assert len(store) == 30 and store.manifest["tokens"] == 240
    store.check([(id, tokens) for id, tokens, _ in made], vocabulary=64)
    for id, tokens, labels in reversed(made):
        found = store.get(id, tokens)
        assert (by_id(found)[0] == by_id(labels)[0]).all()
        assert found.lse.shape == (8, 3) and found.lse.dtype == np.float32


def test_labels_of_other_data_are_refused(tmp_path):
    made = build(tmp_path)
    store = LabelStore(tmp_path)
    id, tokens, _ = made[3]
    other = tokens_hash(example(3, 13))
    with pytest.raises(UserError, match="of other tokens"):
        store.get(id, other)
    with pytest.raises(UserError, match="of other tokens"):
        store.check([(id, tokens), (id, other)])
    with pytest.raises(UserError, match="no labels of record 'unknown'"):
        store.check([("unknown", tokens)])
    with pytest.raises(UserError, match="a vocabulary of 64, but the student's has 65"):
        store.check([], vocabulary=65)
    same_tokens_other_loss = Encoded(example(3).input_ids, [-100] * 5 + example(3).labels[5:])
    with pytest.raises(UserError, match="of other tokens"):
        store.get(id, tokens_hash(same_tokens_other_loss))


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    made = build(tmp_path, records=6, shards=1)
    path = shard_path(tmp_path, 0)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"labels-00000\.bin"):
            LabelStore(tmp_path).check([])
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
    with pytest.raises(UserError, match="damaged"):
        LabelStore(tmp_path).get(made[-1][0], made[-1][1])
    path.write_bytes(whole)
    LabelStore(tmp_path).check([(made[0][0], made[0][1])])


@pytest.mark.parametrize("name", ["labels-00001.bin", "rows.npy", "keys.npy"])
def test_a_cut_or_missing_file_is_refused(tmp_path, name):
    build(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-5])
    with pytest.raises(UserError):
        LabelStore(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError):
        LabelStore(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"shards": 3}'])
def test_a_broken_manifest_is_refused(tmp_path, text):
    build(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError):
        LabelStore(tmp_path)


def test_an_unfinished_set_and_another_plan_are_refused(tmp_path):
    plan = {"teacher": "x", "k": 8}
    assert not begin(tmp_path, plan)
    with pytest.raises(UserError, match="no finished label set"):
        LabelStore(tmp_path)
    with pytest.raises(UserError, match="k: 8 -> 9"):
        begin(tmp_path, {**plan, "k": 9})


def test_two_records_of_one_id_are_refused(tmp_path):
    plan = {"temperatures": [1.0], "vocabulary": 64}
    begin(tmp_path, plan)
    labels, _ = teacher(8, 8, 64, 0, temperatures=(1.0,))
    write_shard(tmp_path, 0, [("a", tokens_hash(example(0)), labels)] * 2, (1.0,))
    with pytest.raises(UserError, match="same id"):
        finish(tmp_path, 1)


def test_the_order_of_records_is_part_of_the_content():
    pairs = [("a", "00" * 32), ("b", "01" * 32)]
    assert content_of(pairs) == content_of(list(pairs)) != content_of(pairs[::-1])


READ = """
import json, sys
from pathlib import Path
from sft.labels.store import LabelStore

def peak():  # getrusage would begin with the peak of the tests' own process
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

store = LabelStore(Path(sys.argv[1]))
pairs = json.loads(Path(sys.argv[2]).read_text())
store.get(*pairs[0])
before = peak()
for id, tokens in pairs:
    store.get(id, tokens)
store.check(pairs)
print(peak() - before)
"""


def copied(folder, number, names):
    """Writes the first shard again as another one, with other ids: making labels takes longer."""
    rows, book = label_store._open_shard(shard_path(folder, 0))
    rows = rows.copy()
    rows["key"] = [label_store._key(name) for name in names]
    rows["shard"] = number
    table, head = rows.tobytes(), label_store._HEAD
    body = shard_path(folder, 0).read_bytes()[head.size + len(table) :]
    sums = (label_store._MAGIC, len(rows), zlib.crc32(table), len(book), zlib.crc32(book))
    shard_path(folder, number).write_bytes(head.pack(*sums) + table + body)


@pytest.mark.slow
def test_reading_all_of_a_set_needs_no_more_memory_than_reading_one_record(tmp_path):
    draw = np.random.default_rng(0)
    folder = tmp_path / "labels"
    begin(folder, {"temperatures": [1.0], "vocabulary": 151_936})
    records = []
    for i in range(16):
        ids = np.argsort(draw.random((64, 1024)), axis=1)[:, :64].astype(np.int32) * 148
        logits = -np.sort(draw.exponential(4, (64, 64))).astype(np.float32)
        lse = np.log(np.exp(logits).sum(1, keepdims=True)) + 0.1
        records.append((f"0/{i}", f"{i:064x}", TeacherTopK(ids, logits, lse.astype(np.float32))))
    write_shard(folder, 0, records, [1.0])
    shards = 250
    for shard in range(1, shards):
        copied(folder, shard, [f"{shard}/{i}" for i in range(16)])
    finish(folder, shards)
    size = sum(file.stat().st_size for file in folder.iterdir())
    pairs = [(f"{shard}/{i}", f"{i:064x}") for shard in range(shards) for i in range(16)]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs[::-1]))
    done = subprocess.run(
        [sys.executable, "-c", READ, folder, tmp_path / "pairs.json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    grown = int(done.stdout) * 1024
    assert grown < 0.25 * size and size > 20e6, (grown, size)
