"""The demo's report in a real browser: it names nothing outside and shows evidence in its two colours."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid import demo

pytestmark = pytest.mark.e2e

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("e2e") / "demo"
    demo.run(folder, demo.Plan.tiny(), say=lambda text: None, processes=1)
    return folder / "report.html"


def browse(page: Path, *more: str) -> subprocess.CompletedProcess[str]:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "no Chromium on this machine: install the package 'chromium'"
    flags = [*FLAGS, f"--user-data-dir={page.parent / 'profile'}", *more, page.as_uri()]
    return subprocess.run([browser, *flags], capture_output=True, text=True, timeout=120, check=True)


def test_page_is_whole_and_names_nothing_outside(report: Path) -> None:
    dom = browse(report, "--dump-dom").stdout
    assert "What this report cannot tell" in dom
    sources = re.findall(r'(?:src|href)="([^"]{1,8})', dom)
    assert sum(s.startswith("data:") for s in sources) > 10
    assert all(s.startswith(("data:", "#")) for s in sources)


def test_page_shows_evidence_for_and_against(report: Path) -> None:
    shot = report.parent / "shot.png"
    browse(report, f"--screenshot={shot}", "--window-size=1000,12000")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    assert ((red > blue + 80) & (red > green + 40)).sum() > 1000  # orange
    assert ((blue > red + 80) & (blue > green + 20)).sum() > 1000  # blue
    assert (pixels.min(-1) > 250).mean() > 0.3  # on white paper
