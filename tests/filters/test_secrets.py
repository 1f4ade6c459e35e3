import base64
import random
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import secrets
from filters._text.pii import cn_id, iban, luhn
from filters.base import Context
from filters.secrets import Config, edit, find
from synth.core.record import Record, Task

ALL = frozenset(Config().kinds)
DRAW = random.Random(7)


def letters(n, alphabet=string.ascii_letters + string.digits):
    return "".join(DRAW.choice(alphabet) for _ in range(n))


TOKEN = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().strip("=")

FINDS = {
    "ana.lopez+news@mail.uni-sur.es": "email",
    "+49 30 1234567": "phone",
    "+1 (415) 555-2671": "phone",
    "+8613812345678": "phone",
    "(415) 555-2671": "phone",
    "415-555-2671": "phone",
    "DE89370400440532013000": "iban",
    "GB82 WEST 1234 5698 7654 32": "iban",
    "4111 1111 1111 1111": "card",
    "3782-822463-10005": "card",
    "219-09-9999": "ssn",
    "11010519491231002X": "cn_id",
    "93.184.216.34": "ip",
    "2606:2800:220:1:248:1893:25c8:1946": "ip",
    "AKIA" + letters(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"): "key",
    "ghp_" + letters(36): "key",
    "github_pat_" + letters(22) + "_" + letters(59): "key",
    "sk-proj-" + letters(48): "key",
    "sk-ant-api03-" + letters(80): "key",
    "xoxb-" + letters(12, string.digits) + "-" + letters(24): "key",
    "AIza" + letters(35): "key",
    "sk_live_" + letters(24): "key",
    "hf_" + letters(34): "key",
    f"{TOKEN}.{TOKEN}.{letters(43)}": "key",
    f"-----BEGIN RSA PRIVATE KEY-----\n{letters(64)}\n-----END RSA PRIVATE KEY-----": "key",
    "postgres://admin:hunter22@db.internal:5432/x": "password",
}


@pytest.mark.parametrize(("text", "kind"), FINDS.items(), ids=range(len(FINDS)))
def test_each_form_is_found_where_it_stands(text, kind):
    for before, after in (("", ""), ("write to ", ", please."), ("（", "）"), ("x\n", "\ny")):
        (span,) = find(before + text + after, ALL)
        assert span.kind == kind
        assert span.start == len(before)
        assert text.startswith((before + text + after)[span.start : span.end])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("My phone number is 030 1234567.", "phone"),
        ("电话：13812345678。", "phone"),
        ("the card 4111111111111111 was used", "card"),
        ("信用卡号 4111111111111111", "card"),
    ],
)
def test_a_word_before_a_bare_number_says_what_it_is(text, kind):
    (span,) = find(text, ALL)
    assert span.kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "DE89370400440532013001",
        "110105194912310021",
        "110105199913310021",
        "4111111111111111 - 1 is a number",
        "13812345678 + 1",
        "0.4111111111111111",
        "2^53 = 9007199254740992",
        "3.14159265358979323846",
        "800-200-4000 = -3400",
        "500-50-1000 = -550",
        "x = 5 +12345678",
        "y + 1234567890",
        "$+1 234 567 8901$",
        "section 1.2.3.4 and 10.0.0.1 and 192.168.1.1 and 256.1.1.1",
        "version 2.11.0.3-rc",
        "at 12:30:45 the ratio is 1:2:3:4:5:6:7:8",
        "me@example.com, you@host.test",
        "C = A@B.transpose() and x@y.T",
        "sk-learn-is-a-library-of-machine-learning-models",
        "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "https://user:password@host/x",
        "https://user:<token>@host/x",
        "https://host:8080/x@y",
        "1,000,000,000,000,000",
        "tel 12 34",
    ],
)
def test_numbers_and_placeholders_are_neither(text):
    assert find(text, ALL) == []


def test_check_digits_hold_for_one_ending_of_all():
    assert [luhn(f"400000000000000{d}") for d in range(10)].count(True) == 1
    assert sum(iban(f"DE{n:02}370400440532013000") for n in range(2, 99)) == 1
    assert sum(cn_id("11010519491231002" + d) for d in "0123456789X") == 1
    assert not cn_id("11010518991231002X")


def test_what_is_found_drops_and_is_never_repeated(make, record):
    secret = "hf_" + letters(34)
    decision = make("secrets")(record(f"ask ana@uni.es with {secret}", f"key {secret}"))
    assert decision.keep is False
    assert decision.reason == "secret: 1 email, 2 key"
    assert secret not in repr(decision)
    assert [span["part"] for span in decision.evidence["spans"]] == [
        "reasoning",
        "answer",
        "answer",
    ]
    assert make("secrets")(record("ask ana@uni.es")).reason == "personal data: 1 email"
    assert make("secrets", kinds=["key", "password"])(record("ask ana@uni.es")).keep is True


def test_masking_keeps_the_trace_and_hides_the_places(make, record):
    trace = record("ask ana@uni.es or +49 30 1234567.", "He is bob@uni.es, I think.")
    decision = make("secrets", mask=True)(trace)
    assert decision.keep is True
    assert decision.reason == "masked: 2 email, 1 phone"
    edit(Config(mask=True), trace, decision.evidence)
    assert trace.answer == "ask [EMAIL] or [PHONE]."
    assert trace.reasoning == "He is [EMAIL], I think."
    assert make("secrets", mask=True)(trace).evidence is None


def test_editing_another_text_is_refused(make, record):
    trace = record("ask ana@uni.es")
    evidence = make("secrets", mask=True)(trace).evidence
    edit(Config(), trace, evidence)
    assert trace.answer == "ask ana@uni.es"
    with pytest.raises(ValueError, match="not the text"):
        edit(Config(mask=True), record("short"), evidence)


def test_too_many_to_mask_are_dropped(make, record):
    decision = make("secrets", mask=True)(record("ana@uni.es " * 1001))
    assert decision.keep is False
    assert len(decision.evidence["spans"]) == 1000


PIECES = [*FINDS, "@", ".", "+", "-", "1", " ", "4111 ", "\x00", "\ud800", "字", "$", "://", ":"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_masking_writes_over_the_spans_and_nothing_else(text):
    trace = Record("r", Task("t", "q"), [], text, text)
    decision = secrets.build(Config(mask=True), Context())(trace)
    wanted = text
    for span in reversed(find(text, ALL)):
        wanted = wanted[: span.start] + f"[{span.kind.upper()}]" + wanted[span.end :]
    if decision.evidence:
        edit(Config(mask=True), trace, decision.evidence)
    assert trace.answer == trace.reasoning == wanted


def test_no_real_mathematics_is_taken_for_personal(rows):
    texts = [text for row in rows("math-cot-100.jsonl") for text in row["code"]]
    texts += [row["solution"] for row in rows("math500.jsonl")]
    texts += [row["answer"] for row in rows("gsm8k-test.jsonl")]
    texts += [row["question"] for row in rows("cmath-test.jsonl")]
    assert [text for text in texts if find(text, ALL)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["1", "a@", "a" * 63 + "@b.", "+1 2 ", "+" + "1" * 33 + " ", "+1(1)", "415-", "eyJaaaaaaaa.", "2001:",
     "-----BEGIN PRIVATE KEY-----", "http://a:b", "card ", "AB12 3456 ", "phone 12 ", "phone " + "1 " * 20, "x@" + "a-" * 20 + "."],
)  # fmt: skip
def test_time_is_linear(piece):
    text = piece * (500_000 // len(piece))
    start = time.process_time()
    find(text, ALL)
    assert time.process_time() - start < 5
