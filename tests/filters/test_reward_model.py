import pytest
from pydantic import ValidationError

from filters import reward_model
from filters.base import Context, Decision, decide
from filters.reward_model import Config
from synth.core.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def save(folder, labels=1, template=None):
    """A tiny model with random weights, which reads bytes."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = ["[PAD]", "[END]", *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]"
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(pieces), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_labels=labels, pad_token_id=0, max_position_embeddings=256, initializer_range=0.5,
    )  # fmt: skip
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {
        "one": save(tmp_path_factory.mktemp("one")),
        "two": save(tmp_path_factory.mktemp("two"), labels=2),
        "chat": save(tmp_path_factory.mktemp("chat"), template=TEMPLATE),
    }


def judge(trace, **options):
    config = Config(**options)
    found = reward_model.build(config, Context())(trace)
    return found if isinstance(found, Decision) else decide(found, config)


def by_hand(folder, text):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0]


def test_the_score_is_the_models_one_output(models, record):
    trace = record("It is 4.", question="2 + 2?")
    expected = by_hand(models["one"], "2 + 2?\n\nIt is 4.")[0].item()
    kept = judge(trace, model=models["one"], score_min=expected - 0.1)
    assert kept.keep is True and kept.score == pytest.approx(expected, abs=1e-5)
    dropped = judge(trace, model=models["one"], score_min=expected + 0.1)
    assert dropped.keep is False and dropped.reason.startswith("low reward: score")
    assert judge(trace, model=models["one"]).keep is True


def test_of_several_labels_the_score_is_a_probability(models, record):
    trace = record("It is 4.", question="2 + 2?")
    expected = by_hand(models["two"], "2 + 2?\n\nIt is 4.").softmax(-1)
    for place in range(2):
        found = judge(trace, model=models["two"], label=f"LABEL_{place}")
        assert found.keep and found.evidence == {"tokens": 16}
        low = judge(trace, model=models["two"], label=f"LABEL_{place}", score_min=0.0)
        assert low.score == pytest.approx(expected[place].item(), abs=1e-5)


def test_the_chat_template_is_used_where_there_is_one(models, record):
    trace = record("It is 4.", question="2 + 2?")
    chat = judge(trace, model=models["chat"], score_min=-99)
    assert chat.score == pytest.approx(
        by_hand(models["chat"], "<user>2 + 2?<assistant>It is 4.")[0].item(), abs=1e-5
    )
    plain = judge(trace, model=models["chat"], score_min=-99, chat_template=False)
    assert plain.score == pytest.approx(
        by_hand(models["chat"], "2 + 2?\n\nIt is 4.")[0].item(), abs=1e-5
    )


def test_which_part_of_the_trace_is_read(models, record):
    trace = record("It is 4.", "Two and two.", question="2 + 2?")
    tokens = {
        text: judge(trace, model=models["one"], text=text).evidence["tokens"]
        for text in ("both", "answer", "reasoning")
    }
    assert tokens["both"] > tokens["answer"] and tokens["both"] > tokens["reasoning"]


@pytest.mark.parametrize(
    ("answer", "options", "why"),
    [
        ("x" * 300, {}, "too long for the model"),
        ("x" * 100, {"tokens_max": 50}, "too long for the model"),
        ("x" * 3_000_000, {}, "too long for the model"),
        ("", {}, "no text"),
        ("x", {"text": "reasoning"}, "no reasoning"),
    ],
)
def test_what_cannot_be_scored(models, record, answer, options, why):
    assert judge(record(answer), model=models["one"], **options).reason == f"cannot tell: {why}"


@pytest.mark.parametrize("answer", ["\x00\ud800", "\u202e[END][PAD]", "答案是4"])
def test_any_text_has_a_score(models, record, answer):
    assert judge(record(answer), model=models["one"]).keep is True


def test_the_users_mistakes(models, record, tmp_path):
    with pytest.raises(UserError, match="has several labels"):
        judge(record("x"), model=models["two"])
    with pytest.raises(UserError, match="did you mean 'LABEL_1'"):
        judge(record("x"), model=models["two"], label="LABEL_9x1")
    assert "no such file" in reward_model.check(Config(model=str(tmp_path / "no")))[0]
    assert reward_model.check(Config(model=models["one"])) == []
    with pytest.raises(ValidationError):
        Config(model="x", text="all")
