"""The documents name only files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
OURS = re.compile(
    r"(?<![\w/.-])((?:synth|filters|sft|tests|bench|configs|prompts|docs)/[\w./-]+\.(?:py|yaml|json|jinja|sh)\b)"
)
# Where a page shows how a file of the reader's own is called.
EXAMPLES = {
    "filters/x.py", "filters/NAME.py", "filters/apology.py", "synth/teachers/x.py",
    "synth/teachers/NAME.py", "synth/teachers/echo.py", "synth/tasks/x.py", "synth/traces/x.py",
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    named = set(OURS.findall(text)) - EXAMPLES
    assert not {name for name in named if not (ROOT / name).exists()}
    links = {link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text) if " " not in link}
    assert not {link for link in links if not (page.parent / link).exists()}
