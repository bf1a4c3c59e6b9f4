"""The generated pages are those of the catalog and the figures, and their links lead to files."""

import re

import pytest

from docs.tables import FOLDER, PAGES

every_page = pytest.mark.parametrize("name", PAGES)


@every_page
def test_page_is_up_to_date(name):
    assert (FOLDER / name).read_text() == PAGES[name](), "stale: run python -m docs.tables"


@every_page
def test_links_lead_to_files(name):
    links = re.findall(r"\]\((?!http)(.*?)\)", (FOLDER / name).read_text())
    assert links
    assert all((FOLDER / link).exists() for link in links)
