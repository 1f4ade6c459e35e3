"""Every filter has its page, and the index links all of them."""

from pathlib import Path

import pytest

from synth.core import plugins

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.parametrize("name", plugins.names("filter"))
def test_every_filter_has_a_page_that_the_index_links(name):
    page = DOCS / "filters" / f"{name}.md"
    assert page.is_file() and name in page.read_text(encoding="utf-8").splitlines()[0]
    assert f"(filters/{name}.md)" in (DOCS / "filters.md").read_text(encoding="utf-8")
