"""The embedded teacher answers as plain `generate` does, whatever shares its batch."""

import pytest

from synth.core.errors import UserError
from synth.core.record import Request
from synth.teachers import transformers as teacher_module
from synth.teachers._transformers import batching as decoding
from synth.teachers.base import RequestRejected
from tests.helpers.embedded_teacher import (
    GREEDY,
    MIXED,
    SHARED,
    WINDOW,
    ask,
    finish,
    greedy_alone,
    save,
    text,
    torch,
)


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [SHARED, MIXED], ids=["shared", "mixed"])
@pytest.mark.parametrize(("batch_size", "rounds"), [(8, 1), (3, 1), (3, 2), (1, 1)])
def test_greedy_is_what_generate_gives_alone(llama, smollm2, prompts, batch_size, rounds):
    # Different lengths: rows leave and others take their places.
    limits = [12, 3, 20, 7, 1, 15, 9][: len(prompts)]
    found = ask(
        llama,
        [
            Request(messages, {"temperature": 0, "max_tokens": limit})
            for messages, limit in zip(prompts, limits, strict=True)
        ],
        batch_size,
        rounds,
    )
    for messages, limit, raw in zip(prompts, limits, found, strict=True):
        assert text(raw) == greedy_alone(llama, smollm2, messages, limit)
        assert raw["usage"]["completion_tokens"] == limit
        assert finish(raw) == "length"


@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_context_sways_the_tiny_models(model, request):
    # Else the comparisons with `generate` would pass with any attention.
    path = request.getfixturevalue(model)
    firsts = ask(path, [Request(m, {"temperature": 0, "max_tokens": 1}) for m in SHARED])
    assert len({text(raw) for raw in firsts}) > 1


def test_usage_and_form(llama, smollm2):
    (raw,) = ask(llama, [Request(SHARED[0], {"temperature": 0, "max_tokens": 2})])
    prompt = smollm2.apply_chat_template(SHARED[0], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert raw["model"] == llama
    assert raw["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 2}
    assert raw["choices"][0]["message"]["role"] == "assistant"


def test_end_tokens_end_an_answer(llama, smollm2, tmp_path):
    from transformers import AutoModelForCausalLM, GenerationConfig

    whole = text(ask(llama, [Request(SHARED[0], GREEDY)])[0])
    second = smollm2(whole)["input_ids"][1]
    model = AutoModelForCausalLM.from_pretrained(llama)
    model.generation_config = GenerationConfig(eos_token_id=[2, second], pad_token_id=2)
    path = save(tmp_path / "ends", smollm2, model)
    (raw,) = ask(path, [Request(SHARED[0], GREEDY)])
    assert finish(raw) == "stop"
    assert text(raw) == greedy_alone(path, smollm2, SHARED[0], 12).replace(
        smollm2.decode([second]), ""
    )
    assert whole.startswith(text(raw))
    assert raw["usage"]["completion_tokens"] <= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0.9}, {"top_p": 0.9, "top_k": 40}, {"top_p": 0.5, "repetition_penalty": 1.3}],
    ids=str,
)
def test_sampling_does_not_hang_on_batch_mates(llama, sampling):
    request = Request(SHARED[2], {"max_tokens": 10, **sampling}, sample=3)
    mates = [Request(m, {"max_tokens": 8, "temperature": 1.2}, i) for i, m in enumerate(MIXED)]
    greedy = [Request(m, GREEDY) for m in SHARED[:2]]
    alone = text(ask(llama, [request])[0])
    assert alone == text(ask(llama, [*mates, request, *greedy])[len(mates)])
    assert alone == text(ask(llama, [*greedy, *mates, request], batch_size=2)[-1])


def test_sample_and_seed_change_the_answer(llama):
    sampling = {"max_tokens": 10}
    requests = [Request(SHARED[0], sampling, sample=i) for i in range(4)]
    requests += [Request(SHARED[0], {**sampling, "seed": i}) for i in range(4)]
    assert len({text(raw) for raw in ask(llama, requests)}) == len(requests)


@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_stop_strings(model, request):
    path = request.getfixturevalue(model)
    whole = text(ask(path, [Request(SHARED[0], GREEDY)])[0])
    stop = whole[4:7]
    stopped, other, single = ask(
        path,
        [
            Request(SHARED[0], {**GREEDY, "stop": ["never met", stop]}),
            Request(SHARED[0], GREEDY),
            Request(SHARED[0], {**GREEDY, "stop": stop}),
        ],
    )
    assert text(stopped) == text(single) == whole[: whole.index(stop)]
    assert finish(stopped) == "stop"
    assert text(other) == whole


def test_max_tokens_ends_at_the_window(llama):
    long = [{"role": "user", "content": "sea " * 340}]
    (raw,) = ask(llama, [Request(long, {"temperature": 0})])
    assert finish(raw) == "length"
    assert sum(raw["usage"].values()) == WINDOW


def test_a_prompt_longer_than_the_window_is_refused_alone(llama):
    long = [{"role": "user", "content": "sea " * WINDOW}]
    refused, fine = ask(llama, [Request(long, GREEDY), Request(SHARED[0], GREEDY)])
    assert isinstance(refused, RequestRejected)
    assert f"window of {WINDOW}" in str(refused)
    assert text(fine)


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"temprature": 1}, "'temprature'; did you mean 'temperature'?"),
        ({"temperature": -1}, "sampling.temperature"),
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"stop": 3}, "sampling.stop"),
    ],
)
def test_wrong_parameters_are_the_users_mistake(llama, sampling, said):
    (error,) = ask(llama, [Request(SHARED[0], sampling)])
    assert isinstance(error, UserError)
    assert said in str(error)


def test_no_chat_template(llama, tmp_path, smollm2):
    from transformers import AutoModelForCausalLM

    path = save(tmp_path / "base", smollm2, AutoModelForCausalLM.from_pretrained(llama))
    (tmp_path / "base" / "chat_template.jinja").unlink()
    (error,) = ask(path, [Request(SHARED[0], GREEDY)])
    assert isinstance(error, UserError)
    assert "no chat template" in str(error)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert text(ask(path, [Request(SHARED[0], GREEDY)], chat_template=template)[0])


def test_a_template_that_refuses_the_prompt(llama):
    template = "{{ raise_exception('roles must alternate') }}"
    (error,) = ask(llama, [Request(SHARED[0], GREEDY)], chat_template=template)
    assert isinstance(error, UserError)
    assert "roles must alternate" in str(error)


def test_a_common_beginning_is_computed_once(llama, smollm2, monkeypatch):
    computed = []
    forward = decoding.Slots.forward

    def counted(self, slots, ids, starts):
        computed.append(sum(map(len, ids)))
        return forward(self, slots, ids, starts)

    monkeypatch.setattr(decoding.Slots, "forward", counted)
    raws = ask(llama, [Request(m, {**GREEDY, "max_tokens": 1}) for m in SHARED])
    prompts = [raw["usage"]["prompt_tokens"] for raw in raws]
    # The first prompt whole, then what is its own of each other one.
    assert sum(computed) < prompts[0] + 25 * len(prompts)


# Models that decode by slots, and those that only `generate` can decode.


def engine(path):
    config = teacher_module.Config(model=path, dtype="float32", device="cpu")
    with torch.inference_mode():
        return type(
            decoding.choose_engine(
                decoding.Loaded(
                    "tiny",
                    **config.model_dump(exclude={"batch_size", *teacher_module.Config.shared()}),
                ),
                4,
            )
        )


def test_which_engine(llama, gemma3, monkeypatch):
    assert engine(llama) is decoding.Slots
    assert engine(gemma3) is decoding.Whole
    grouped = decoding._grouped_attention
    monkeypatch.setattr(
        decoding, "_grouped_attention", lambda *a, **k: (grouped(*a, **k)[0] * 0, None)
    )
    # The name is bound when the function is registered, so a wrong one shows in the trial.
    assert engine(llama) is decoding.Whole


@pytest.mark.parametrize("batch_size", [2, 8])
def test_sliding_windows_are_right(gemma3, smollm2, batch_size):
    limits = [12, 3, 20, 7, 1]
    requests = [
        Request(m, {"temperature": 0, "max_tokens": n}) for m, n in zip(MIXED, limits, strict=True)
    ]
    for request, raw in zip(requests, ask(gemma3, requests, batch_size), strict=True):
        limit = request.sampling["max_tokens"]
        assert text(raw) == greedy_alone(gemma3, smollm2, request.messages, limit)
        assert raw["usage"]["completion_tokens"] == limit


@pytest.mark.slow
def test_learned_positions_are_right(tmp_path, smollm2):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(smollm2), n_embd=64, n_layer=2, n_head=4, n_positions=WINDOW,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    path = save(tmp_path / "gpt2", smollm2, GPT2LMHeadModel(config))
    for messages, raw in zip(MIXED, ask(path, [Request(m, GREEDY) for m in MIXED]), strict=True):
        assert text(raw) == greedy_alone(path, smollm2, messages, 12)
