import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from filters import perplexity
from filters.base import Context
from filters.perplexity import losses_of, prompt_of
from synth.core.errors import UserError
from synth.core.reasoning import join_trace

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer(template=CHAT, bos="<s>"):
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = ["<s>", "</s>", *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    fast.bos_token = bos
    fast.chat_template = template
    return fast


def make_model(positions=4096, **options):
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=258, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=positions,
        initializer_range=0.1, **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


MODEL = make_model()
DENSE = copy.deepcopy(MODEL).double()
TOKENIZER = make_tokenizer()
STUDENT = Context(student=lambda: (MODEL, TOKENIZER))
TEXT = "3 times 7 is 21, because 7 + 7 is 14 and 7 more is 21. "


def dense(prompt, trace, model=DENSE):
    """One pass in float64 over everything, and the whole block of logits."""
    ids = torch.tensor([prompt + trace])
    with torch.inference_mode():
        chances = model(ids).logits[0].log_softmax(-1)
    first = max(1, len(prompt))
    return [-chances[i - 1, ids[0, i]].item() for i in range(first, ids.shape[1])]


def figures(trace, context=STUDENT, **options):
    return perplexity.build(perplexity.Config(**options), context)(trace)


@pytest.mark.parametrize("length", [1, 2, 511, 512, 513, 2000])
def test_losses_are_those_of_one_dense_pass(length):
    prompt = prompt_of(TOKENIZER, "What is 3 times 7?")
    trace = TOKENIZER(TEXT * 50, add_special_tokens=False)["input_ids"][:length]
    assert losses_of(MODEL, prompt, trace, 4096) == pytest.approx(dense(prompt, trace), abs=1e-5)
    assert losses_of(MODEL, [], trace, 4096) == pytest.approx(dense([], trace), abs=1e-5)


def test_the_figures_are_the_papers(record):
    trace = record("21", TEXT, question="What is 3 times 7?")
    ids = TOKENIZER(join_trace(TEXT, "21"), add_special_tokens=False)["input_ids"]
    with_it = dense(TOKENIZER("<user>What is 3 times 7?</s><assistant>")["input_ids"], ids)
    without = dense(TOKENIZER("<user></s><assistant>")["input_ids"], ids)
    found = figures(trace)
    assert found.values["perplexity"] == pytest.approx(math.exp(sum(with_it) / len(ids)), rel=1e-5)
    assert found.values["ifd"] == pytest.approx(sum(with_it) / sum(without), abs=1e-5)
    assert found.values["surprise"] == pytest.approx(max(with_it), abs=1e-5)
    worst = with_it.index(max(with_it))
    assert found.evidence["surprise"]["token"] == worst
    assert found.evidence["tokens"] == found.evidence["read"] == len(ids)
    end = join_trace(TEXT, "21")[: worst + 1].split()[-1]
    assert found.evidence["surprise"]["up_to_it"].endswith(end[-5:])


def test_without_a_template_the_question_stands_before(record):
    plain = make_tokenizer(template=None)
    assert prompt_of(plain, "q") == [0, *plain("q\n\n")["input_ids"]]
    assert prompt_of(plain, "") == [0]
    bare = make_tokenizer(template=None, bos=None)
    assert prompt_of(bare, "") == [1]


def test_long_traces_go_by_windows_that_repeat_half(record):
    prompt = prompt_of(TOKENIZER, "What is 3 times 7?")
    trace = TOKENIZER(TEXT * 12, add_special_tokens=False)["input_ids"]
    found = losses_of(MODEL, prompt, trace, 128)
    kept = prompt[-32:]
    wanted = dense(kept, trace[: 128 - len(kept)])
    start = len(wanted)
    while start < len(trace):
        seen = trace[start - 64 : start + 128 - len(kept) - 64]
        wanted += dense(kept, seen)[64:]
        start = len(wanted)
    assert len(wanted) == len(trace)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_the_model_is_never_shown_more_than_it_takes():
    small = make_model(positions=64)
    seen = []
    small.register_forward_pre_hook(
        lambda _, __, kw: seen.append(
            kw["input_ids"].shape[1]
            + (0 if kw["past_key_values"] is None else kw["past_key_values"].get_seq_length())
        ),
        with_kwargs=True,
    )
    assert len(losses_of(small, list(range(200)), [5] * 300, 4096)) == 300
    assert max(seen) <= 64


def test_logits_of_a_long_trace_are_made_in_pieces(monkeypatch):
    monkeypatch.setattr(perplexity, "_LOGITS", 258 * 40)
    shapes = []
    hook = MODEL.lm_head.register_forward_hook(lambda *a: shapes.append(a[2].shape[1]))
    trace = TOKENIZER(TEXT * 20, add_special_tokens=False)["input_ids"]
    try:
        found = losses_of(MODEL, [0], trace, 4096)
    finally:
        hook.remove()
    assert max(shapes) == 40
    assert found == pytest.approx(dense([0], trace), abs=1e-5)


def test_bounds_decide_and_name_the_figure(make, record):
    trace = record("21", TEXT, question="What is 3 times 7?")
    values = figures(trace).values
    kept = make("perplexity", STUDENT, ifd_max=values["ifd"] + 0.1)(trace)
    assert kept.keep is True
    assert make("perplexity", STUDENT, ifd_max=values["ifd"] - 0.1)(trace).reason.startswith(
        "question does not help: ifd "
    )
    high = make("perplexity", STUDENT, perplexity_max=values["perplexity"] - 1, ifd_max=None)
    assert high(trace).reason.startswith("unlikely under the student: perplexity ")
    assert figures(trace, ifd=False, ifd_max=None).values["ifd"] is None
    with pytest.raises(ValueError, match="no bound on it"):
        perplexity.Config(ifd=False, ifd_min=0.5)


def test_of_a_very_long_trace_the_start_is_read(record):
    found = figures(record(TEXT * 100), tokens_max=100)
    assert found.evidence["read"] == 100
    assert found.evidence["tokens"] == len(TEXT) * 100


@pytest.mark.parametrize("text", ["\ud800", "\x00" * 300, "\u202e字" * 200, " "])
def test_hostile_text_has_figures(record, text):
    values = figures(record(text, text, question=text)).values
    assert values["perplexity"] >= 1
    assert all(math.isfinite(value) for value in values.values())


def test_an_empty_trace_has_none(record):
    assert figures(record("")).values == {"perplexity": None, "ifd": None, "surprise": None}


def test_threads_get_the_same(record):
    check = perplexity.build(perplexity.Config(), STUDENT)
    traces = [record(TEXT * (i % 3 + 1), question=f"{i}?") for i in range(12)]
    alone = [check(trace).values for trace in traces]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda trace: check(trace).values, traces)) == alone


def test_a_model_that_cannot_read_on_is_refused():
    class NoCache(torch.nn.Module):
        config, device = MODEL.config, MODEL.device

        def forward(self, input_ids, past_key_values, use_cache):
            return type("Output", (), {"logits": MODEL(input_ids).logits})()

    with pytest.raises(UserError, match="no keys and values"):
        losses_of(NoCache(), [0], [5, 6], 100)


@pytest.mark.slow
def test_a_real_student_is_helped_by_the_question(record, smollm2_folder):
    from synth.core.models import load_model, load_tokenizer

    made = load_model(smollm2_folder), load_tokenizer(smollm2_folder)
    student = Context(student=lambda: made)
    question = "How many legs do four spiders have?"
    fits = record("A spider has 8 legs, so four spiders have 4 * 8 = 32 legs.", question=question)
    strays = record("The capital of France is Paris, and it lies on the Seine.", question=question)
    fit, stray = figures(fits, student).values, figures(strays, student).values
    assert fit["ifd"] < 0.9
    assert stray["ifd"] > fit["ifd"] + 0.1
    assert fit["perplexity"] < stray["perplexity"]
