"""The demo's report in a real browser: it names nothing outside and shows evidence in its two colours."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pellucid import demo

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("e2e") / "demo"
    demo.run(folder, demo.Plan.tiny(), say=lambda text: None, processes=1)
    window = browser.new_context(viewport={"width": 1000, "height": 900})
    opened = window.new_page()
    opened.goto((folder / "report.html").as_uri())
    yield opened
    window.close()


def test_page_is_whole_and_names_nothing_outside(page: Any) -> None:
    dom = page.content()
    assert "What this report cannot tell" in dom
    sources = re.findall(r'(?:src|href)="([^"]{1,8})', dom)
    assert sum(s.startswith("data:") for s in sources) > 10
    assert all(s.startswith(("data:", "#")) for s in sources)


def test_page_shows_evidence_for_and_against(page: Any) -> None:
    shot = Image.open(io.BytesIO(page.locator("#cases").screenshot())).convert("RGB")
    red, green, blue = np.moveaxis(np.asarray(shot).astype(int), -1, 0)
    assert ((red > blue + 80) & (red > green + 40)).sum() > 1000  # orange
    assert ((blue > red + 80) & (blue > green + 20)).sum() > 1000  # blue
    assert (np.minimum(np.minimum(red, green), blue) > 250).mean() > 0.3  # on white paper
