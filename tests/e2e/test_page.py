"""The page of `pellucid serve` in a real browser: what it draws and says are the server's numbers, and drawing asks nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

import pellucid as pl
from e2e.kit import SIDE, Visit, number, numbers, running
from pellucid.data import open_data
from pellucid.networks import reading_for

pytestmark = pytest.mark.e2e
Visits = Callable[..., Visit]


def ledger_of(visit: Visit) -> list[float]:
    return [number(text) for text in visit.page.locator("#ledger tbody .number").all_inner_texts()]


# --- a picture -------------------------------------------------------------------------------------------------------


def test_a_photograph_is_explained_with_the_servers_numbers(visits: Visits, test_data: Path) -> None:
    import torch

    from pellucid.app.served import open_all
    from pellucid.app.server import create_app

    weights, photo = (
        test_data / "weights/mobilenet_v2-b0353104.pth",
        test_data / "photographs_imagenet/n01558993_robin.jpg",
    )
    if not (weights.exists() and photo.exists()):
        pytest.skip("PELLUCID_TEST_DATA holds neither the photograph nor the network for it")
    models = open_all(["torchvision:mobilenet_v2"], weights=weights, device=torch.device("cpu"))
    with running(create_app(models)) as site:
        visit = visits(site).go()
        told = visit.open(photo)
        assert visit.text("#headline").startswith("robin")
        assert "not calibrated" in visit.text("#headline")
        assert sum(ledger_of(visit)) == pytest.approx(told["score"], abs=1e-3)
        other = visit.asking(
            "/v1/explain", lambda: (visit.page.fill("#target", "zebra"), visit.page.press("#target", "Enter"))
        )
        assert other["target"]["text"] == "zebra"
        against = visit.asking(
            "/v1/explain", lambda: (visit.page.fill("#against", "robin"), visit.page.press("#against", "Enter"))
        )
        assert against["target"]["text"] == "zebra against robin"
        logits = dict(zip(told["prediction"]["classes"], told["prediction"]["logits"], strict=True))
        assert number(visit.text("#ledger-score")) == pytest.approx(logits["zebra"] - logits["robin"], abs=1e-3)


def test_ledger_adds_up_and_is_that_of_the_json_and_of_python(
    visit: Visit, inputs: Path, served: dict[str, Any]
) -> None:
    told = visit.open(inputs / "eye.png", model="eyes")
    rows = ledger_of(visit)
    network = served["eyes"].network
    x = open_data(inputs / "eye.png", **reading_for(network, str(inputs / "eye.png"), {}))[0].input[None]
    assert rows == pytest.approx([row.value for row in pl.explain(network, x).ledger(5).rows], abs=6e-5)
    assert rows == pytest.approx([row["value"] for row in told["ledger"]], abs=5.1e-5)
    assert number(visit.text("#ledger-sum")) == pytest.approx(sum(rows), abs=1e-9)
    assert number(visit.text("#ledger-sum")) == pytest.approx(told["score"], abs=5e-5 * (len(rows) + 1))
    assert number(visit.text("#ledger-score")) == pytest.approx(told["score"], abs=5.1e-5)


def test_class_and_method_are_switched(visit: Visit, inputs: Path) -> None:
    first = visit.open(inputs / "eye.png", model="eyes")
    drawn = visit.pixels()
    other = next(name for name in first["prediction"]["classes"] if name not in first["target"]["text"])
    visit.silently(lambda: visit.page.click(f".class-row:has-text('{other}')"))  # all classes are in one pass
    second = visit.explained(other)
    assert number(visit.text("#ledger-score")) == pytest.approx(second["score"], abs=5.1e-5)
    assert (visit.pixels() != drawn).any()
    third = visit.asking("/v1/explain", lambda: visit.page.select_option("#method", "grad_cam"))
    assert (third["method"], third["target"]["text"]) == ("grad_cam", other)
    assert "adds up" not in visit.text("#ledger")
    assert "do not add up" in visit.text("#ledger")
    visit.silently(lambda: visit.page.go_back())  # the page still has that answer
    assert visit.page.input_value("#method") == "evidence"
    assert number(visit.text("#ledger-score")) == pytest.approx(second["score"], abs=5.1e-5)


@pytest.mark.parametrize(("name", "value"), [("opacity", 0.3), ("threshold", 0.5)])
def test_sliders_draw_without_asking(visit: Visit, inputs: Path, name: str, value: float) -> None:
    visit.open(inputs / "eye.png", model="eyes")
    drawn, beside = visit.pixels(), visit.pixels("#input-pane")
    visit.silently(lambda: visit.slide(name, value))
    assert (visit.pixels() != drawn).mean() > 0.01
    assert (visit.pixels("#input-pane") == beside).all()
    assert f"{name}={value}" in visit.page.url


def test_without_opacity_the_grey_input_is_left(visit: Visit, inputs: Path) -> None:
    told = visit.open(inputs / "eye.png", model="eyes")
    visit.silently(lambda: visit.slide("opacity", 0))
    grey = 255 * np.tensordot([0.299, 0.587, 0.114], numbers(told["input"]["values"]), 1)
    shown = visit.pixels()
    side = shown.shape[0] / SIDE
    centres = ((np.arange(SIDE) + 0.5) * side).astype(int)
    seen = shown[np.ix_(centres, centres)]
    assert np.abs(seen[..., :3] - grey[..., None]).max() < 3


def test_smoothing_zoom_and_scale_draw_without_asking(visit: Visit, inputs: Path) -> None:
    visit.open(inputs / "eye.png", model="eyes")
    seen = [visit.pixels()]
    for act in (
        lambda: visit.page.uncheck("#smooth"),
        lambda: visit.page.click("#zoom-in"),
        lambda: visit.drag((0.5, 0.5), (0.2, 0.3)),
    ):
        visit.silently(act)
        seen.append(visit.pixels())
        assert (seen[-1] != seen[-2]).any()
    visit.silently(lambda: visit.page.click("#zoom-fit"))
    assert (visit.pixels() == seen[1]).all()
    visit.silently(lambda: visit.page.select_option("#scale", "classes"))
    assert len(visit.told("/v1/explain")) == 3  # with the other two classes
    every = np.abs(np.concatenate([numbers(told["map"]).ravel() for told in visit.told("/v1/explain")]))
    assert number(visit.text("#bar-marks li:first-child").lstrip("\N{GREATER-THAN OR EQUAL TO} ")) == pytest.approx(
        np.percentile(every, 99.5, method="higher"), rel=0.06
    )


def test_a_cell_says_what_it_adds_and_sees(visit: Visit, inputs: Path) -> None:
    told = visit.open(inputs / "eye.png", model="eyes")
    cells = numbers(told["map"])
    start, jump = told["geometry"]["start"], told["geometry"]["jump"]
    visit.silently(lambda: visit.click_at(0.3, 0.7))
    row, column = (round((share * SIDE - 0.5 - s) / j) for share, s, j in zip((0.7, 0.3), start, jump, strict=True))
    assert number(visit.text("#cell-value")) == pytest.approx(cells[row, column], abs=5.1e-5)
    assert f"row {row + 1}, column {column + 1} of" in visit.text("#readout")
    centre, field = start[1] + jump[1] * column + 0.5, told["receptive_field"][1]
    sees = f"it sees x {max(centre - field / 2, 0):.0f} to {min(centre + field / 2, SIDE):.0f}"
    assert sees in visit.text("#readout")
    visit.page.focus("#evidence-pane")
    visit.silently(lambda: visit.page.keyboard.press("ArrowRight"))
    assert number(visit.text("#cell-value")) == pytest.approx(cells[row, column + 1], abs=5.1e-5)
    assert visit.text("#readout") in visit.page.text_content("#live")
    visit.silently(lambda: visit.page.keyboard.press("Escape"))
    assert visit.page.locator("#cell-value").count() == 0


def test_no_positive_evidence_is_said(visit: Visit, inputs: Path) -> None:
    visit.open(inputs / "eye.png", model="against")
    visit.silently(lambda: visit.page.select_option("#target", "second"))
    told = visit.explained("second against first")
    assert told["empty"]
    assert numbers(told["map"]).max() <= 0
    assert "No positive evidence" in visit.text("#remark")
    red, blue = (visit.pixels()[..., c].astype(int) for c in (0, 2))
    assert ((red - blue) > 60).mean() < 0.001  # nothing is orange


# --- tools below the picture -----------------------------------------------------------------------------------------


def test_a_region_is_erased_and_put_back(visit: Visit, inputs: Path) -> None:
    before = visit.open(inputs / "eye.png", model="eyes")
    visit.page.click("[data-tool=erase]")
    after = visit.asking("/v1/explain", lambda: visit.drag((0.25, 0.25), (0.6, 0.6)))
    box = [int(v) for v in parse_qs(urlsplit(visit.page.url).fragment)["erase"][0].split(",")]
    assert box == pytest.approx([16, 16, 39, 39], abs=1)
    changed = numbers(after["input"]["values"]) != numbers(before["input"]["values"])
    rows, columns = np.nonzero(changed.any(0))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(box, abs=1)
    visit.page.wait_for_selector(".before-after")
    cells = visit.page.locator(".before-after tbody tr:last-child td").all_inner_texts()
    assert [number(c) for c in cells] == pytest.approx(
        [before["score"], after["score"], after["score"] - before["score"]], abs=1e-4
    )
    visit.silently(lambda: visit.page.click("text=Put everything back"))
    assert "erase=" not in visit.page.url


def test_a_box_is_erased_by_numbers(visit: Visit, inputs: Path) -> None:
    visit.open(inputs / "eye.png", model="eyes")
    visit.page.click("#tab-eraser")
    for name, value in {"left": 8, "top": 16, "right": 24, "bottom": 40}.items():
        visit.page.fill(f".box-form input[name={name}]", str(value))
    visit.asking("/v1/explain", lambda: visit.page.click("text=Erase this box"))
    assert "erase=8%2C16%2C24%2C40" in visit.page.url


def test_methods_stand_beside_the_controls(visit: Visit, inputs: Path) -> None:
    visit.open(inputs / "eye.png", model="eyes")
    told = visit.asking("/v1/compare", lambda: visit.page.click("#compare"))
    visit.page.wait_for_selector(".scores")
    names = visit.page.locator(".scores tbody th").all_inner_texts()
    assert len(names) == len(told["scores"]) == visit.page.locator("#panel-methods .pane canvas").count()
    controls = [s["method"].replace("_", " ") for s in told["scores"] if s["control"]]
    assert len(controls) >= 2
    assert [n.split("\n")[0].removesuffix("control").strip() for n in names[-len(controls) :]] == controls
    shown = visit.page.locator(".scores tbody tr:first-child td").all_inner_texts()
    first = told["scores"][0]["metrics"]
    assert [number(text) for text in shown] == pytest.approx([first[m["name"]] for m in told["metrics"]], abs=5.1e-4)


def test_layers_show_channels_and_filters(visit: Visit, inputs: Path) -> None:
    visit.open(inputs / "eye.png", model="eyes")
    told = visit.asking("/v1/feature-maps", lambda: visit.page.click("#tab-layers"))
    visit.page.wait_for_selector("#channels .tile-said")
    said = visit.page.locator("#channels .tile-said").all_inner_texts()
    assert [number(text) for text in said] == pytest.approx([c["contribution"] for c in told["channels"]], abs=5.1e-4)
    layer = visit.page.locator("#look-layer option").first.get_attribute("value")
    visit.page.select_option("#look-layer", layer)
    visit.page.wait_for_selector("h4:has-text('Filters of')")


def test_two_models_answer_beside_each_other(visit: Visit, inputs: Path) -> None:
    first = visit.open(inputs / "eye.png", model="eyes")
    second = visit.asking("/v1/explain", lambda: visit.page.click("#tab-models"))
    visit.page.wait_for_selector("#panel-models .before-after")
    assert second["model"] == visit.page.input_value("#second") == "other-eyes"
    scores = visit.page.locator("#panel-models tr:has-text('Score') td").all_inner_texts()
    assert second["target"]["index"] == first["target"]["index"]
    assert [number(text) for text in scores] == pytest.approx([first["score"], second["score"]], abs=5.1e-5)


# --- other inputs ----------------------------------------------------------------------------------------------------


def test_twelve_bits_are_windowed_in_the_browser(visit: Visit, inputs: Path) -> None:
    told = visit.open(inputs / "chest.dcm", model="chests")
    values = numbers(told["input"]["values"])[0]
    assert len(np.unique(values)) > 256
    drawn = visit.pixels("#input-pane")
    centre, width = float(np.median(values)), float(np.ptp(values)) / 4
    visit.silently(lambda: (visit.slide("centre", centre), visit.slide("width", width)))
    assert (visit.pixels("#input-pane") != drawn).mean() > 0.1
    state = {k: float(v[0]) for k, v in parse_qs(urlsplit(visit.page.url).fragment).items() if k in ("centre", "width")}
    shown = visit.pixels("#input-pane")
    at = ((np.arange(SIDE) + 0.5) * shown.shape[0] / SIDE).astype(int)
    expected = np.clip(255 * (values - state["centre"] + state["width"] / 2) / state["width"], 0, 255)
    assert np.abs(shown[np.ix_(at, at)][..., 0] - expected).max() < 3
    visit.page.click("#tool-window")
    visit.silently(lambda: visit.drag((0.5, 0.5), (0.3, 0.3)))
    assert (visit.pixels("#input-pane") != shown).any()


def test_a_signal_is_drawn_along_time(visit: Visit, inputs: Path) -> None:
    told = visit.open(inputs / "beats.txt", model="beats")
    assert visit.page.locator("#input-figure").is_hidden()
    drawn = visit.pixels()
    assert len(np.unique(drawn.reshape(-1, 4), axis=0)) > 50
    visit.silently(lambda: visit.click_at(0.5, 0.3))
    cells = numbers(told["map"])
    place = int(re.search(r"step (\d+) of", visit.text("#readout")).group(1)) - 1  # type: ignore[union-attr]
    assert abs(place - len(cells) / 2) <= 2
    assert number(visit.text("#cell-value")) == pytest.approx(cells[place], abs=5.1e-5)
    visit.page.click("[data-tool=erase]")
    after = visit.asking("/v1/explain", lambda: visit.drag((0.4, 0.3), (0.6, 0.3)))
    assert number(visit.page.locator(".before-after tbody tr:last-child td").nth(1).inner_text()) == pytest.approx(
        after["score"], abs=5.1e-5
    )
    visit.page.click("[data-tool=pick]")
    slid = visit.asking(
        "/v1/explain",
        lambda: visit.page.eval_on_selector("#slice", "(s) => { s.value = 2; s.dispatchEvent(new Event('change')); }"),
    )
    assert slid["input"]["slice"] == 2


def test_a_real_heartbeat_is_explained(visit: Visit, test_data: Path) -> None:
    beats = test_data / "ecg5000/ECG5000_TRAIN.txt"
    if not beats.exists():
        pytest.skip("PELLUCID_TEST_DATA holds no heartbeats")
    told = visit.open(beats, model="beats")
    assert told["input"]["slices"] == 500
    assert sum(ledger_of(visit)) == pytest.approx(told["score"], abs=1e-3)


def test_slices_of_a_volume_are_drawn_without_asking(visit: Visit, inputs: Path) -> None:
    told = visit.open(inputs / "volume.nii.gz", model="volumes")
    values = numbers(told["input"]["values"])[0]
    visit.silently(lambda: visit.slide("slice", 3))
    first = visit.pixels("#input-pane")
    visit.silently(lambda: visit.slide("slice", 4))
    assert (visit.pixels("#input-pane") != first).any()
    low, high = values.min(), values.max()
    down, across = (((np.arange(16) + 0.5) * n / 16).astype(int) for n in first.shape[:2])
    expected = 255 * (values[3] - low) / (high - low)
    assert np.abs(first[np.ix_(down, across)][..., 0] - expected).max() < 3


def test_several_files_make_a_strip(visit: Visit, inputs: Path) -> None:
    visit.page.select_option("#model", "eyes")
    visit.page.set_input_files("#files", [inputs / "eye.png", inputs / "another.png"])
    visit.page.wait_for_selector(".thumb:not([disabled]) >> nth=1")
    visit.settle()
    first = visit.page.url
    visit.page.locator(".thumb").nth(1).click()
    visit.settle()
    assert len(visit.told("/v1/explain")) == 2 * 3  # each input once for each class
    assert visit.page.url != first
    assert visit.page.locator(".thumb[aria-current]").inner_text().startswith("another.png")


# --- files, address, failures, tokens --------------------------------------------------------------------------------

MAGIC = {
    "png": b"\x89PNG",
    "npz": b"PK\x03\x04",
    "nifti": b"\x1f\x8b",
    "dicom-pm": b"DICM",
    "dicom-seg": b"DICM",
    "pdf": b"%PDF",
}


@pytest.mark.parametrize("format", MAGIC)
def test_exports(visit: Visit, inputs: Path, format: str) -> None:
    visit.open(inputs / "chest.dcm", model="chests")
    with visit.page.expect_download() as offered:
        visit.page.click(f"[data-format={format}]")
    data = Path(offered.value.path()).read_bytes()
    assert data[128 if "dicom" in format else 0 :].startswith(MAGIC[format])
    assert offered.value.suggested_filename.startswith("chest-evidence.")


def test_a_photograph_is_no_ground_for_a_dicom_result(visit: Visit, inputs: Path) -> None:
    visit.open(inputs / "eye.png", model="eyes")
    visit.page.click("[data-format=dicom-pm]")
    visit.page.wait_for_selector(".problem-hint")
    assert "DICOM" in visit.text(".problem-title")
    visit.forgive(422)


def test_an_address_shows_the_same_view_again(visits: Visits, site: str, inputs: Path) -> None:
    first = visits(site).go()
    first.open(inputs / "eye.png", model="other-eyes")
    first.silently(lambda: first.page.select_option("#target", "severe"))
    first.slide("opacity", 0.4)
    first.page.uncheck("#smooth")
    first.settle()
    second = visits(site)
    told = second.asking("/v1/explain", lambda: second.go(first.page.url.split("/")[-1]))
    assert (told["model"], told["target"]["text"]) == ("other-eyes", "severe")
    assert (second.pixels() == first.pixels()).all()


def test_what_the_server_has_forgotten_is_sent_again(
    visit: Visit, inputs: Path, served: dict[str, Any], site: str
) -> None:
    visit.open(inputs / "eye.png", model="eyes")
    gone = {
        "type": "about:blank",
        "title": "The input is not known.",
        "status": 404,
        "detail": "",
        "hint": "Send the file again.",
    }
    left = [1]  # the next question fails once

    def forget(route: Any) -> None:
        if left.pop() if left else 0:
            route.fulfill(status=404, content_type="application/problem+json", body=json.dumps(gone))
        else:
            route.continue_()

    visit.page.route("**/v1/explain", forget)
    visit.page.select_option("#method", "grad_cam")
    visit.page.wait_for_selector("#headline-note:has-text('grad cam')")
    visit.page.wait_for_selector("#ledger:has-text('do not add up')")
    visit.forgive(404)


def test_failures_come_with_a_hint(visit: Visit, inputs: Path) -> None:
    visit.page.set_input_files("#files", inputs / "broken.png")
    visit.page.wait_for_selector(".problem")
    assert "broken.png" in visit.text(".problem-title")
    assert visit.text(".problem-hint")
    visit.page.click("text=Dismiss")
    assert visit.page.locator(".problem").count() == 0
    visit.page.goto(f"{visit.site}/#input=0123456789abcdef0123456789abcdef")
    visit.page.reload()
    visit.page.wait_for_selector(".problem")
    assert visit.page.locator("#choose").is_visible()
    visit.forgive(404, 422)


def test_a_token_is_asked_for_and_sent(visits: Visits, served: dict[str, Any], inputs: Path) -> None:
    from pellucid.app.limits import digest_of
    from pellucid.app.server import create_app
    from pellucid.app.service import Settings

    with running(create_app(served, Settings(token=digest_of("a-token-of-the-tests")))) as site:
        visit = visits(site)
        visit.page.goto(site)
        visit.page.wait_for_selector("#token[open]")
        visit.page.fill("#token-value", "a-token-of-the-tests")
        visit.page.press("#token-value", "Enter")
        visit.open(inputs / "eye.png", model="eyes")
        assert visit.text("#headline")
        visit.forgive(401)


def test_cases_of_a_data_set_open(visits: Visits, served: dict[str, Any], inputs: Path, tmp_path: Path) -> None:
    from pellucid.app.server import create_app
    from pellucid.app.service import Settings

    for k, name in enumerate(("eye.png", "another.png")):
        (tmp_path / "data" / ("healthy", "mild")[k]).mkdir(parents=True)
        shutil.copy(inputs / name, tmp_path / "data" / ("healthy", "mild")[k] / name)
    models = {name: served[name] for name in ("eyes", "other-eyes")}
    with running(create_app(models, Settings(data=str(tmp_path / "data")))) as site:
        visit = visits(site).go()
        visit.page.wait_for_selector(".case >> nth=1", timeout=30_000)
        listed = next(told for told in reversed(visit.told("/v1/gallery")) if len(told["items"]) == 2)
        assert [i["loss"] for i in listed["items"]] == sorted((i["loss"] for i in listed["items"]), reverse=True)
        shown = visit.page.locator(".case-name").all_inner_texts()
        assert shown == [item["name"] for item in listed["items"]]
        told = visit.asking("/v1/explain", lambda: visit.page.locator(".case").first.click())
        assert told["input_id"] == listed["items"][0]["input_id"]


# --- for everybody ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [360, 390, 768])
def test_small_screens_do_not_scroll_sideways(visits: Visits, site: str, inputs: Path, width: int) -> None:
    visit = visits(site, viewport={"width": width, "height": 780}, has_touch=True).go()
    for file, model in (("eye.png", "eyes"), ("beats.txt", "beats")):
        visit.open(inputs / file, model=model)
        for tab in ("methods", "eraser", "layers", "models", "about"):
            visit.page.click(f"#tab-{tab}")
            visit.page.wait_for_timeout(300)
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, tab
    visit.page.click("#tab-methods")
    visit.asking("/v1/compare", lambda: visit.page.click("#compare"))
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_is_reached_by_keyboard(visit: Visit, inputs: Path) -> None:
    visit.open(inputs / "eye.png", model="eyes")
    visit.page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        reached.append(
            visit.page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
        ring = visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none" or reached[-1] == "BODY", reached[-1]
    wanted = {"model", "open", "share", "evidence-pane", "show", "scale", "opacity", "threshold", "smooth", "class-row", "target", "against", "method", "tab-methods"}  # fmt: skip
    assert wanted <= set(reached)
    visit.page.focus("#tab-methods")
    visit.page.keyboard.press("ArrowRight")
    assert visit.page.locator("#panel-eraser").is_visible()
    assert visit.page.evaluate("document.activeElement.id") == "tab-eraser"


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core from the npm registry, kept for the next time."""
    kept = Path(tempfile.gettempdir()) / "pellucid-axe" / "axe.min.js"
    if not kept.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not here to fetch axe-core")
        with tempfile.TemporaryDirectory() as folder:
            ended = subprocess.run(
                [npm, "pack", "--silent", "axe-core@4"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            archives = list(Path(folder).glob("*.tgz"))
            if ended.returncode or not archives:
                pytest.skip(f"axe-core cannot be fetched: {ended.stderr.strip()[-200:]}")
            with tarfile.open(archives[0]) as archive:
                source = archive.extractfile("package/axe.min.js")
                assert source is not None
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(source.read())
    return kept.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visits: Visits, site: str, inputs: Path, axe: str, scheme: str) -> None:
    visit = visits(site, color_scheme=scheme).go()

    def check(where: str) -> None:
        visit.page.wait_for_timeout(400)
        visit.page.evaluate(axe)
        found = visit.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        bad = [
            (v["id"], v["nodes"][0]["html"][:200])
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert bad == [], where

    check("empty")
    visit.open(inputs / "chest.dcm", model="chests")
    visit.click_at(0.4, 0.4)
    visit.asking("/v1/compare", lambda: visit.page.click("#compare"))
    visit.page.wait_for_selector(".scores")
    check("methods")
    for tab in ("eraser", "layers", "models", "about"):
        visit.page.click(f"#tab-{tab}")
        check(tab)
    visit.page.set_input_files("#files", inputs / "broken.png")
    visit.page.wait_for_selector(".problem")
    visit.forgive(422)
    check("problem")
    visit.open(inputs / "beats.txt", model="beats")
    check("signal")


# --- the modules against the Python that they repeat -----------------------------------------------------------------


def test_colours_are_those_of_the_reports(visit: Visit) -> None:
    from pellucid.render.colour import diverging

    shares = np.linspace(-1.2, 1.2, 241)
    drawn = visit.page.evaluate("async (shares) => { const { diverging } = await import('/static/colour.js'); return shares.map(diverging); }", shares.tolist())  # fmt: skip
    assert np.abs(np.array(drawn) - diverging(shares, 1.0).astype(int)).max() <= 1


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_cells_are_placed_as_in_python(visit: Visit, rank: int) -> None:
    import torch

    from pellucid import spatial

    size, grid = (21, 30, 26)[:rank], (4, 5, 3)[:rank]
    start, jump = (2.5, -1.0, 6.0)[:rank], (6.0, 7.5, 8.0)[:rank]
    geometry = spatial.Geometry(grid, size, start, jump, registered=True)
    cells = torch.randn(grid, generator=torch.Generator().manual_seed(0))
    ask = """async ([map, geometry, smooth, slice]) => {
      const { atSamples } = await import('/static/field.js');
      return [...atSamples({ ...map, values: Float32Array.from(map.values) }, geometry, { smooth, slice })];
    }"""
    told = {"shape": list(grid), "values": cells.flatten().tolist()}
    owners = geometry.nearest_cell()
    nearest = cells[torch.meshgrid(*owners, indexing="ij")]
    for smooth, whole in ((True, spatial.upsample(cells, geometry)), (False, nearest)):
        for slice in (0, 11) if rank == 3 else (0,):
            drawn = visit.page.evaluate(ask, [told, geometry.as_dict(), smooth, slice])
            expected = whole[slice] if rank == 3 else whole
            assert drawn == pytest.approx(expected.flatten().tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_numbers_arrive_as_they_were_sent(visit: Visit, kind: Any) -> None:
    import torch

    from pellucid.app.answers import numbers as sent

    values = torch.cat([torch.randn(50), torch.tensor([0.0, -0.0, 6e-8, 1e-5, 2047.0, -60000.0])]).view(2, 28)
    told = sent(values, kind).model_dump()
    shape, drawn = visit.page.evaluate(
        "async (told) => { const { decode } = await import('/static/arrays.js'); const d = decode(told); return [d.shape, [...d.values]]; }",
        told,
    )
    assert shape == [2, 28]
    assert (np.array(drawn) == numbers(told).ravel()).all()


def test_full_colour_is_where_the_reports_have_it(visit: Visit) -> None:
    import torch

    from pellucid.explanation import Explanation
    from pellucid.render.overlay import scales
    from pellucid.spatial import Geometry
    from pellucid.targets import ClassTarget

    noise = torch.randn(1, 20, 30, generator=torch.Generator().manual_seed(0))
    for cells in (
        noise,
        noise * 1e-6,
        torch.zeros(1, 20, 30),
        torch.nn.functional.pad(noise[:, :1, :2], (0, 28, 0, 19)),
    ):
        geometry = Geometry.of_samples((20, 30))
        e = Explanation(cells, geometry, ClassTarget(torch.zeros(1, dtype=torch.long)), torch.zeros(1), torch.zeros(1, 2), "evidence", complete=True)  # fmt: skip
        drawn = visit.page.evaluate(
            "async (values) => (await import('/static/scale.js')).limitOf([{ values: Float32Array.from(values), unit: 'logit' }])",
            cells.flatten().tolist(),
        )
        assert drawn == pytest.approx(scales([e])["logit"], rel=1e-6)


def test_blending_is_that_of_the_reports(visit: Visit) -> None:
    """Grey picture, evidence over it: the same colours as `render.overlay` paints."""
    from pellucid.render.overlay import Drawing, blend

    ground = np.arange(0, 256, 5, dtype=np.uint8)[None]
    values = np.linspace(-1.3, 1.3, ground.shape[1])[None]
    ask = """async ([ground, values]) => {
      const { drawEvidence } = await import('/static/picture.js');
      const width = values.length;
      const canvas = Object.assign(document.createElement('canvas'), { width, height: 1 });
      const pen = canvas.getContext('2d');
      ground.forEach((g, x) => { pen.fillStyle = `rgb(${g}, ${g}, ${g})`; pen.fillRect(x, 0, 1, 1); });
      const geometry = { start: [0, 0], jump: [1, 1], input_size: [1, width] };
      const map = { shape: [1, width], values: Float32Array.from(values) };
      pen.drawImage(drawEvidence(map, geometry, { limit: 1, opacity: 0.85, threshold: 0, smooth: false, alone: false }), 0, 0);
      return [...pen.getImageData(0, 0, width, 1).data];
    }"""
    drawn = np.array(visit.page.evaluate(ask, [ground[0].tolist(), values[0].tolist()])).reshape(-1, 4)[:, :3]
    expected = blend(Drawing(ground, values), 1.0, 0.85)[0].astype(int)
    assert np.abs(drawn - expected).max() <= 2


def test_pictures_in_the_documents_are_small() -> None:
    images = list((Path(__file__).parents[2] / "docs" / "images").glob("serve-*"))
    for path in images:
        assert path.stat().st_size < 200_000
        with Image.open(path) as picture:
            picture.verify()
