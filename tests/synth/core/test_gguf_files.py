"""GGUF files are read fast, as the gguf package and transformers read them, and once a process."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("gguf")
pytest.importorskip("transformers")

import gguf
from gguf.gguf_reader import GGUFReader

from synth.core.errors import UserError
from synth.core.models import load_config, load_tokenizer, loading

TOKENS = [chr(code) for code in range(ord("!"), ord("~") + 1)] + ["ab", "<|end|>"]


def write_model(path, chat_template="{{ messages }}", layers=2):
    """Writes the header of a llama: config and tokenizer, no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["a b"])
    writer.add_token_types([1] * (len(TOKENS) - 1) + [3])
    writer.add_bos_token_id(len(TOKENS) - 1)
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_chat_template(chat_template)
    finish(writer)
    return str(path)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def parts_of(reader):
    return {
        name: ([part.tolist() for part in field.parts], field.data, field.types)
        for name, field in reader.fields.items()
    }


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(), min_size=1),
    whole=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1),
    real=st.lists(st.floats(width=32, allow_nan=False), min_size=1),
    flags=st.lists(st.booleans(), min_size=1),
)
def test_every_field_is_what_the_gguf_package_reads(tmp_path_factory, texts, whole, real, flags):
    path = tmp_path_factory.mktemp("gguf") / "fields.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, values in {"texts": texts, "whole": whole, "real": real, "flags": flags}.items():
        writer.add_array(name, values)
    writer.add_string("after", "the arrays")
    finish(writer)
    before = parts_of(GGUFReader(path))
    with loading("the model"):  # which makes the package's reader the fast one
        fast = gguf.GGUFReader
    assert fast is not GGUFReader
    assert parts_of(fast(path)) == before


def test_each_call_gives_a_tokenizer_and_a_config_of_its_own(tmp_path):
    model = write_model(tmp_path / "m.gguf")
    tokenizer, config = load_tokenizer(model), load_config(model)
    size = len(tokenizer)
    tokenizer.chat_template, config.num_hidden_layers = "changed", 9
    tokenizer.add_tokens(["<new>"])
    again = load_tokenizer(model)
    assert (again.chat_template, len(again)) == ("{{ messages }}", size)
    assert again.encode("ab!") == [TOKENS.index("ab"), 0]
    assert again.eos_token == "<|end|>"
    assert load_config(model).num_hidden_layers == 2


def test_a_file_is_parsed_once(tmp_path):
    path = tmp_path / "m.gguf"
    model = write_model(path)
    load_tokenizer(model), load_config(model)
    status = path.stat()
    path.write_bytes(bytes(status.st_size))  # nothing that could be parsed
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_tokenizer(model).encode("ab") == [TOKENS.index("ab")]
    assert load_config(model).num_hidden_layers == 2


def test_a_file_that_took_the_place_of_another_is_read(tmp_path):
    path = tmp_path / "m.gguf"
    model = write_model(path)
    load_tokenizer(model), load_config(model)
    write_model(path, chat_template="{{ other }}", layers=3)
    assert load_tokenizer(model).chat_template == "{{ other }}"
    assert load_config(model).num_hidden_layers == 3


def test_what_is_no_gguf_file_is_one_message_each_time(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_text("text")
    for _ in range(2):
        with pytest.raises(UserError, match="cannot load the model"):
            load_tokenizer(str(path))
