import importlib.util
import string
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from filters import toxicity
from filters._models import classifier as _classifier
from filters.base import Context
from synth.core.errors import UserError
from tests.helpers.tiny_models import save_bert, save_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    labels = {0: "fine", 1: "toxic", 2: "odd"}
    return save_bert(tmp_path_factory.mktemp("bert"), id2label=labels)


def dense(folder, text):
    """Every window by itself, cut by hand from the bytes: one token a byte, [CLS] and [SEP]."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = [0]
    while starts[-1] + 62 < len(ids):
        starts.append(starts[-1] + 62 - 16)
    with torch.inference_mode():
        rows = [model(torch.tensor([[1, *ids[s : s + 62], 2]])).logits[0] for s in starts]
    return [row.softmax(-1)[1].item() for row in rows], starts


def test_the_worst_window_of_both_parts_counts(make, record, bert):
    text = "a calm start. " * 12 + "".join(string.printable[:90]) + "and a calm end. " * 12
    scores, starts = dense(bert, text)
    worst = max(range(len(scores)), key=scores.__getitem__)
    check = make("toxicity", model=bert, score_max=None, window=64, overlap=16)
    decision = check(record("short", text))
    alone, _ = dense(bert, "short")
    assert len(starts) > 5
    assert max(scores) > alone[0]
    assert decision.evidence == {
        "part": "reasoning",
        "start": starts[worst],
        "end": starts[worst] + 62,
        "windows": len(starts) + 1,
    }
    figures = toxicity.build(toxicity.Config(model=bert), Context())(record("short", text))
    assert figures.values["score"] == pytest.approx(max(scores), abs=1e-5)


def test_the_bound_decides(make, record, bert):
    (score,), _ = dense(bert, "some words")
    kept = make("toxicity", model=bert, score_max=score + 0.01)(record("some words"))
    gone = make("toxicity", model=bert, score_max=score - 0.01)(record("some words"))
    assert kept.keep is True
    assert gone.keep is False
    assert gone.reason.startswith("toxic: score ")
    assert gone.threshold == pytest.approx(score - 0.01)


def test_nothing_to_judge_is_no_figure(make, record, bert):
    decision = make("toxicity", model=bert)(record("  \n", ""))
    assert decision.keep is True
    assert decision.score is None


@pytest.mark.parametrize(
    "text", ["\x00" * 500, "\ud800 lone", "\u202e rtl", "字" * 3000, "x" * 20_000]
)
def test_hostile_text_has_a_score(make, record, bert, text):
    decision = make("toxicity", model=bert)(record(text, text))
    assert 0 <= decision.score <= 1


def test_threads_share_one_model(make, record, bert):
    check = make("toxicity", model=bert)
    texts = [f"text number {i} " * (i % 7 + 1) for i in range(40)]
    alone = [check(record(text)).score for text in texts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda text: check(record(text)).score, texts))
    assert together == alone


def test_an_unknown_label_names_the_nearest(make, record, bert):
    with pytest.raises(UserError, match="did you mean 'toxic'"):
        make("toxicity", model=bert, label="toxik")(record("x"))


def test_a_model_without_a_head_is_refused(tmp_path, make, record):
    folder = save_bert(tmp_path, transformers.BertModel)
    with pytest.raises(UserError, match=r"no trained classifier; its files lack classifier\.bias"):
        make("toxicity", model=folder)(record("x"))


def test_a_missing_folder_and_an_overlong_overlap_are_the_users_mistakes(make, record):
    with pytest.raises(UserError, match="no such file or folder"):
        make("toxicity", model="./nowhere")(record("x"))
    with pytest.raises(ValueError, match="more than half"):
        toxicity.Config(model="m", window=64, overlap=33)


def test_what_is_lacking_is_said(monkeypatch):
    config = toxicity.Config(model="m")
    assert toxicity.check(config) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(toxicity.check(config)) == 2


def test_one_output_and_several_labels_are_read_as_the_model_means_them(tmp_path):
    one = _classifier.load(save_bert(tmp_path / "one", num_labels=1))
    many = _classifier.load(
        save_bert(tmp_path / "many", num_labels=3, problem_type="multi_label_classification")
    )
    assert one.probabilities([0.0]) == [0.5]
    assert many.probabilities([0.0, 0.0, 800.0]) == [0.5, 0.5, 1.0]
    assert many.probabilities([-800.0, 0.0, 0.0])[0] == 0.0


def test_a_decoder_without_a_padding_token_scores_the_last_token(tmp_path):
    size = save_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=1, pad_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    classifier = _classifier.load(str(tmp_path))
    inputs = [[1, 7, 9], [1, 8, 10], [1, 7]]
    rows = classifier.logits(inputs)
    model = transformers.LlamaForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        for ids, row in zip(inputs, rows, strict=True):
            assert row == pytest.approx(model(torch.tensor([ids])).logits[0].tolist(), abs=1e-6)


def test_importing_it_loads_no_torch():
    import subprocess

    code = "import sys, filters.toxicity; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
