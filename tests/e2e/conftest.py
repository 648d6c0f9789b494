"""The page in a real browser, in front of small networks of every rank."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from e2e.kit import SIDE, Visit, against_itself, running, softcam

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("served")
    eyes = {"size": SIDE, "crop": "resize", "mean": [0.4, 0.18, 0.08], "std": [0.27, 0.13, 0.07]}
    chests = {"size": SIDE, "crop": "resize", "mean": [0.484] * 3, "std": [0.27] * 3}
    networks = {
        "eyes": softcam(2, SIDE, 3, ("healthy", "mild", "severe"), preprocessing=eyes),
        "other-eyes": softcam(2, SIDE, 3, ("healthy", "mild", "severe"), seed=1, preprocessing=eyes),
        "chests": softcam(2, SIDE, 3, ("clear", "opacity"), preprocessing=chests),
        "beats": softcam(1, 140, 1, ("normal", "early", "late")),
        "volumes": softcam(3, 16, 1, ("ill", "well"), preprocessing={"size": 16}),
        "against": against_itself(),
    }
    for name, network in networks.items():
        network.save(place / name)
    return [str(place / name) for name in networks]


@pytest.fixture(scope="session")
def served(folders: list[str]) -> dict[str, Any]:
    from pellucid.app.served import open_all

    return open_all(folders, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def site(served: dict[str, Any]) -> Iterator[str]:
    from pellucid.app.server import create_app

    with running(create_app(served)) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium on this machine: install the package 'chromium'"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def visits(browser: Any) -> Iterator[Callable[..., Visit]]:
    """`visits(site, **context)`: a visit in a window of its own; in the end none may have complained or strayed."""
    made: list[Visit] = []

    def start(site: str, **context: Any) -> Visit:
        window = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}, **context})
        made.append(Visit(window.new_page(), site))
        return made[-1]

    yield start
    for visit in made:
        visit.page.context.close()
        assert visit.errors == []
        assert visit.hosts <= {urlsplit(visit.site).netloc}


@pytest.fixture
def visit(visits: Callable[..., Visit], site: str) -> Visit:
    return visits(site).go()


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """eye.png, another.png, chest.dcm (12 bits), beats.txt, volume.nii.gz and broken.png."""
    from pellucid.data.lesionlab import LesionLab
    from pellucid.data.lesionlab.dicom_export import encoded

    place = tmp_path_factory.mktemp("inputs")
    eyes = LesionLab("fundus", n_images=2, size=SIDE)
    for index, name in enumerate(("eye.png", "another.png")):
        Image.fromarray(np.rint(255 * eyes.recipe(index).picture().transpose(1, 2, 0)).astype(np.uint8)).save(
            place / name
        )
    (place / "chest.dcm").write_bytes(encoded(LesionLab("xray", n_images=1, size=SIDE).recipe(0)))
    waves = [np.sin(np.linspace(0, 9 + k, 140)) for k in range(3)]
    (place / "beats.txt").write_text("\n".join("1," + ",".join(f"{v:.5f}" for v in wave) for wave in waves))
    (place / "broken.png").write_bytes((place / "eye.png").read_bytes()[:300])
    nibabel = pytest.importorskip("nibabel")
    cube = np.random.default_rng(0).normal(100, 30, (16, 16, 16)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(cube, np.eye(4)), place / "volume.nii.gz")
    return place
