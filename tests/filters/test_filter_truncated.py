import pytest


@pytest.mark.parametrize(
    ("finish", "unknown", "kind"),
    [
        ("stop", False, ""),
        ("length", False, "truncated"),
        ("MAX_TOKENS", False, "truncated"),
        ("unknown", False, ""),
        ("unknown", True, "finish reason unknown"),
        (None, False, ""),
        (None, True, "finish reason unknown"),
        ("tool_calls", True, ""),
    ],
)
def test_finish_reasons(make, record, finish, unknown, kind):
    decision = make("truncated", unknown=unknown)(record("a", finish=finish))
    assert decision.reason.split(":")[0] == kind
    assert decision.keep == (not kind)
