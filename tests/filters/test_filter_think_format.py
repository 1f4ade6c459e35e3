import pytest


@pytest.mark.parametrize(
    ("reasoning", "answer", "options", "reason"),
    [
        ("1+1=2", "2", {}, ""),
        (None, "2", {}, "no reasoning"),
        (" \n", "2", {}, "no reasoning"),
        (None, "2", {"require_reasoning": False}, ""),
        ("a <think> b", "2", {}, "stray think tag: <think> in the reasoning"),
        ("a", "b</think>2", {}, "stray think tag: </think> in the answer"),
        ("a", " ", {}, "no answer"),
        ("a", "", {"final_answer": "none"}, ""),
        ("a", "2", {"final_answer": "boxed"}, "no boxed answer"),
        ("a", "", {"final_answer": "boxed"}, "no answer"),
        (r"\boxed{2}", "2", {"final_answer": "boxed"}, "no boxed answer"),
        ("a", r"\boxed{\frac{1}{2}}", {"final_answer": "boxed"}, ""),
        ("a", r"\boxed{ }", {"final_answer": "boxed"}, "empty box"),
        ("a", r"\boxed{\frac{1}{2}", {"final_answer": "boxed"}, "no boxed answer"),
    ],
)
def test_format(make, record, reasoning, answer, options, reason):
    decision = make("think_format", **options)(record(answer, reasoning))
    assert decision.reason == reason
    assert decision.keep == (not reason)
