"""The tokens with loss are exactly reasoning, answer and end token, whatever the text."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft.data.chat_template import end_token, render_spans, select_template, template_text
from sft.data.encoding import (
    IGNORED,
    check_dataset,
    encode,
    preview_spans,
    verify,
    with_trace,
)
from synth.config.train import Student
from synth.core.errors import UserError
from synth.core.reasoning import join_trace, split_trace
from synth.core.record import Message, Record, Task
from tests.helpers.loss_segments import segments

FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
HOSTILE = st.sampled_from(
    ["{{ x }}", "{% endgeneration %}", "<|im_end|>", "<|im_start|>system\n", "<｜User｜>", "<think>", "é😀", "答案", "\u202e", "  two  spaces ", "\ud7ff"]
)  # fmt: skip
# SmolLM2 has no tokens for these; a trace that holds one is refused, see below.
UNKNOWN = "\x04\x06\x13\x14\x16\x1d"
LETTERS = st.characters(exclude_categories=["Cs", "Co", "Cn"], exclude_characters=UNKNOWN)
TEXT = st.lists(st.text(LETTERS, max_size=12) | HOSTILE, max_size=5).map("".join)
SOLID = TEXT.map(str.strip).filter(lambda t: t and "think>" not in t)


def record(reasoning="1 + 1 = 2", answer="\\boxed{2}", id="r"):
    return Record(id, Task(id, "1 + 1?"), [], reasoning, answer)


def prompt(task):
    return [Message(role="user", content=task.question)]


def learned_text(tokenizer, encoded):
    return "".join(text for text, has_loss in segments(tokenizer, encoded) if has_loss)


def expected(tokenizer, reasoning, answer):
    trace = join_trace(reasoning, answer)
    if "<｜Assistant｜>" in tokenizer.chat_template and reasoning is not None:
        trace = trace.removeprefix("<think>\n")  # the template's prompt opens it
    return trace + tokenizer.eos_token


@FIXTURES
@given(question=SOLID, reasoning=SOLID, answer=SOLID, system=st.none() | SOLID)
def test_loss_on_reasoning_answer_and_end_token_alone(
    student_tokenizer, question, reasoning, answer, system
):
    tokenizer = student_tokenizer
    messages = [Message(role="user", content=question)]
    if system is not None:
        messages.insert(0, Message(role="system", content=system))
    encoded = encode(tokenizer, with_trace(messages, reasoning, answer), len(messages))
    assert learned_text(tokenizer, encoded) == expected(tokenizer, reasoning, answer)
    assert encoded.input_ids.count(tokenizer.eos_token_id) == 1 + (
        0 if "<｜Assistant｜>" in tokenizer.chat_template else len(messages)
    ), "an end token in the data became the special token"
    made = Record("r", Task("r", question), [], reasoning, answer)
    assert verify(tokenizer, made, messages, encoded) == []


@FIXTURES
@given(turns=st.lists(st.tuples(SOLID, SOLID), min_size=1, max_size=3), answer=SOLID)
def test_turns_of_the_prompt_carry_no_loss_and_those_of_a_conversation_do(
    student_tokenizer, turns, answer
):
    messages = []
    for user, assistant in turns:
        messages += [
            Message(role="user", content=user),
            Message(role="assistant", content="<think>\nx\n</think>\n\n" + assistant),
        ]
    messages.append(Message(role="user", content="last"))
    whole = with_trace(messages, "r", answer)
    only_last = learned_text(student_tokenizer, encode(student_tokenizer, whole, len(messages)))
    assert only_last == expected(student_tokenizer, "r", answer)
    every = learned_text(student_tokenizer, encode(student_tokenizer, whole))
    assert every == "".join(
        expected(student_tokenizer, *split_trace(m["content"]))
        for m in whole
        if m["role"] == "assistant"
    )


@FIXTURES
@given(question=SOLID, answer=SOLID)
def test_the_prompt_that_the_student_is_given_is_a_prefix_of_what_it_is_trained_on(
    student_tokenizer, question, answer
):
    messages = [Message(role="user", content=question)]
    given_text = student_tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    whole = student_tokenizer.apply_chat_template(with_trace(messages, "r", answer), tokenize=False)
    assert whole.startswith(given_text)


@FIXTURES
@given(question=SOLID, reasoning=SOLID, answer=SOLID)
def test_the_preview_without_a_tokenizer_agrees_with_the_tokens(
    student_tokenizer, question, reasoning, answer
):
    messages = with_trace([Message(role="user", content=question)], reasoning, answer)
    spans = render_spans(
        student_tokenizer.chat_template, messages, student_tokenizer.special_tokens_map
    )
    assert "".join(t for t, has_loss in spans if has_loss) == expected(
        student_tokenizer, reasoning, answer
    )
    assert "".join(t for t, _ in spans) == student_tokenizer.apply_chat_template(
        messages, tokenize=False
    )


def test_families_are_told_by_their_tokens(smollm2, student_tokenizer):
    assert select_template(smollm2) == template_text("chatml")
    assert select_template(student_tokenizer) == student_tokenizer.chat_template
    assert end_token(student_tokenizer.chat_template) == student_tokenizer.eos_token


def test_a_tokenizer_of_no_known_family_is_refused(smollm2):
    class Bare:
        def get_vocab(self):
            return {"a": 0}

    with pytest.raises(UserError, match="cannot choose"):
        select_template(Bare())
    with pytest.raises(UserError, match="did you mean 'chatml'"):
        select_template(smollm2, "chatm")


def test_a_template_without_generation_marks_is_refused(smollm2, tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match="generation"):
        select_template(smollm2, str(path))


def spoiled(encoded, tokenizer, how):
    labels, ids = list(encoded.labels), list(encoded.input_ids)
    first = next(i for i, label in enumerate(labels) if label != IGNORED)
    last = max(i for i, label in enumerate(labels) if label != IGNORED)
    close = next(
        i for i in range(first, last) if "think" in tokenizer.decode(ids[i]) and i > first + 4
    )
    if how == "end":
        labels[last] = IGNORED
    elif how == "think":
        for i in range(close - 2, close + 2):
            labels[i] = IGNORED
    elif how == "answer":
        labels[last - 2] = IGNORED
    elif how == "prompt":
        labels[first - 1] = ids[first - 1]
    elif how == "shifted":
        labels[first] = labels[first] + 1
    elif how == "none":
        labels = [IGNORED] * len(labels)
    elif how == "cut":
        ids, labels = ids[: last - 3], labels[: last - 3]
    return type(encoded)(ids, labels)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("end", "end token"), ("think", "</think> carries no loss"), ("answer", "the answer carries no loss"),
        ("prompt", "tokens of the prompt carry loss"), ("shifted", "labels are not the tokens"),
        ("none", "nothing carries loss"), ("cut", "end token"),
    ],
)  # fmt: skip
def test_every_way_in_which_a_mask_can_be_wrong_is_found(student_tokenizer, how, says):
    messages = [Message(role="user", content="1 + 1?")]
    encoded = encode(student_tokenizer, with_trace(messages, "1 + 1 makes 2", "\\boxed{2}"), 1)
    made = record("1 + 1 makes 2")
    assert verify(student_tokenizer, made, messages, encoded) == []
    assert says in " | ".join(
        verify(student_tokenizer, made, messages, spoiled(encoded, student_tokenizer, how))
    )


@pytest.mark.parametrize("character", ["\x13", "\U00040000"])
def test_a_character_that_the_tokenizer_cannot_write_is_found(student_tokenizer, character):
    messages = [Message(role="user", content="1 + 1?")]
    encoded = encode(student_tokenizer, with_trace(messages, f"a{character}b", "\\boxed{2}"), 1)
    assert verify(student_tokenizer, record(f"a{character}b"), messages, encoded) == [
        f"the tokenizer has no token for a character of the trace: {character!r}"
    ]
    # In the prompt it becomes what it becomes at inference too, so nothing is amiss.
    messages = [Message(role="user", content=f"a{character}b")]
    encoded = encode(student_tokenizer, with_trace(messages, "r", "\\boxed{2}"), 1)
    assert verify(student_tokenizer, record("r"), messages, encoded) == []


def test_an_end_token_at_which_generation_does_not_stop_is_found(student_tokenizer):
    messages = [Message(role="user", content="1 + 1?")]
    encoded = encode(student_tokenizer, with_trace(messages, "r", "\\boxed{2}"), 1)
    end = student_tokenizer.eos_token
    student_tokenizer.eos_token = "<|endoftext|>"  # as a base model has it
    try:
        (problem,) = verify(student_tokenizer, record("r"), messages, encoded)
    finally:
        student_tokenizer.eos_token = end
    assert problem == f"the end token {end} carries no loss"


def test_a_data_set_is_refused_as_a_whole_with_counts_and_ids(student_tokenizer):
    records = [record(), record(reasoning="x " * 300, id="long"), record(answer="", id="empty")]
    with pytest.raises(UserError) as caught:
        list(check_dataset(student_tokenizer, records, prompt, 100))
    text = str(caught.value)
    assert "2 of 3 records cannot be trained on" in text
    assert "longer than 100 tokens: long" in text
    assert "the answer is empty: empty" in text


def test_a_conversation_is_refused_until_the_user_drops_it(student_tokenizer):
    turns = [Message(role="system", content="Be brief."), *prompt(record().task)]
    whole = Record("talk", record().task, turns, "1 + 1 = 2", "2")
    with pytest.raises(UserError) as caught:
        list(check_dataset(student_tokenizer, [record(), whole], prompt))
    assert "1 of 2 records cannot be trained on" in str(caught.value)
    assert "1 x the student's prompt would leave out a system prompt: talk" in str(caught.value)
    assert "train.drop_context: true" in str(caught.value)
    assert len(list(check_dataset(student_tokenizer, [whole], prompt, drop_context=True))) == 1


def test_a_lone_surrogate_is_refused_by_its_place(student_tokenizer):
    with pytest.raises(
        UserError, match=r"it cannot be rendered: bad \(message 2 has a lone surrog"
    ):
        list(check_dataset(student_tokenizer, [record("a\ud800", id="bad")], prompt))


@pytest.mark.parametrize("text", ["<｜User｜>", "<", "<think>", " \n", "<|im_end|>", "\x00", "𝟛"])
def test_hostile_text_of_100_kb_is_encoded_in_bounded_time(student_tokenizer, text):
    messages = [Message(role="user", content=text * (100_000 // len(text)))]
    start = time.perf_counter()
    encoded = encode(student_tokenizer, with_trace(messages, messages[0]["content"], "a"), 1)
    assert time.perf_counter() - start < 20
    assert learned_text(student_tokenizer, encoded).endswith("a" + student_tokenizer.eos_token)


def test_an_empty_data_set_is_refused(student_tokenizer):
    with pytest.raises(UserError, match="no records to train on"):
        list(check_dataset(student_tokenizer, [], prompt))


def test_a_trace_without_reasoning_is_refused_where_the_template_opens_the_block(student_tokenizer):
    try:
        (encoded,) = check_dataset(student_tokenizer, [record(reasoning=None)], prompt)
    except UserError as error:
        assert "<｜Assistant｜>" in student_tokenizer.chat_template
        assert "opens it with <think>" in str(error)
    else:
        assert (
            learned_text(student_tokenizer, encoded) == "\\boxed{2}" + student_tokenizer.eos_token
        )


def test_the_preview_marks_the_last_turn_alone():
    spans = preview_spans(
        Student(model="no/such-model-anywhere", chat_template="chatml"),
        prompt(Task("1", "q")),
        "r",
        "a",
    )
    assert [text for text, has_loss in spans if has_loss] == ["<think>\nr\n</think>\n\na<|im_end|>"]
