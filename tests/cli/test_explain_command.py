"""`pellucid explain`: pictures, numbers and ledgers that add up to what the network says, file by file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pellucid as pl
from cli.kit import CLASSES, Ended, Run, fresh, picture, small
from pellucid.cli.explain import _places
from pellucid.data.image_file import read_image
from pellucid.models import storage, zoo


@pytest.fixture
def explain(run: Run, model: Path, tmp_path: Path) -> Run:
    def call(source: object, *more: object, model: object = model) -> Ended:
        ended = run("explain", source, "--model", model, "--out", tmp_path / "out", *more)
        assert ended.code == 0, ended.err
        return ended

    return call


def index(folder: Path) -> Any:
    return json.loads((folder / "out" / "index.json").read_text())


def adds_up(row: Any) -> None:
    """The rows add up to the score, and so they do without the measured rest."""
    parts = {r["what"]: r["value"] for r in row["ledger"]["rows"]}
    allowed = 1e-5 * max(1, abs(row["score"]))
    assert abs(sum(r["value"] for r in row["ledger"]["rows"]) - row["score"]) <= allowed
    assert abs(parts["residual (rounding)"]) <= allowed


def test_ledgers_add_up_to_the_networks_own_logits(explain: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    explain(pictures)
    rows = index(tmp_path)["explained"]
    assert [r["name"] for r in rows] == [f"p{k:02d}.png" for k in range(20)]
    network = pl.load(model)
    for row in rows:
        x = read_image(pictures / row["name"], size=64, crop="resize").input  # as the model's own preprocessing says
        with torch.no_grad():
            logits = network(x[None])[0]
        best = int(logits.argmax())
        assert (row["prediction"], row["target"], row["method"]) == (CLASSES[best], CLASSES[best], "evidence")
        assert abs(row["score"] - float(logits[best])) <= 1e-5 * max(1, abs(row["score"]))
        adds_up(row)
        with np.load(tmp_path / "out" / row["numbers"]) as stored:
            np.testing.assert_allclose(stored["logits"][0], logits, atol=1e-4)
            assert stored["map"].shape == (1, 8, 8)
        with Image.open(tmp_path / "out" / row["picture"]) as shown:
            assert shown.format == "PNG"
            assert min(shown.size) > 64
    assert len({r["score"] for r in rows}) == 20  # the pictures are told apart


def test_one_picture_prints_its_ledger(explain: Run, pictures: Path) -> None:
    ended = explain(pictures / "p03.png")
    assert "p03.png" in ended.out
    values = dict(re.findall(r"^(\w[\w ()]*?) {2,}([+-]\d+\.\d+)", ended.out, flags=re.M))
    assert values["sum"] == values["score"]
    assert "explains itself" in ended.err


def test_a_second_run_gives_the_same_files(explain: Run, run: Run, pictures: Path, tmp_path: Path) -> None:
    explain(pictures / "p00.png")
    first = {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    explain(pictures / "p00.png")
    assert first == {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    explain(pictures / "p01.png")
    assert [r["name"] for r in index(tmp_path)["explained"]] == ["p01.png"]
    assert run("verify", tmp_path / "out").code == 0


def test_every_flipped_file_is_noticed(explain: Run, run: Run, pictures: Path, tmp_path: Path) -> None:
    explain(pictures / "p00.png")
    for path in sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        whole = path.read_bytes()
        path.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
        assert run("verify", tmp_path / "out").code == 5, path.name
        path.write_bytes(whole)
    assert run("verify", tmp_path / "out").code == 0


def test_one_bad_file_among_twenty(explain: Run, pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "in")
    (folder / "p07.png").write_text("words")
    ended = explain(folder, "--batch-size", 5)
    found = index(tmp_path)
    assert len(found["explained"]) == 19
    assert [(s["name"], s["path"]) for s in found["skipped"]] == [("p07.png", str(folder / "p07.png"))]
    assert "skipped p07.png" in ended.err
    assert explain(folder, "--json").json["skipped"] == found["skipped"]
    assert not (tmp_path / "out" / "p07.png.png").exists()


def test_a_bad_first_batch_does_not_stop_the_rest(explain: Run, pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "in")
    storage.save_model(small(), tmp_path / "plain")
    for k in range(2):
        (folder / f"p{k:02d}.png").write_text("words")
    explain(folder, "--batch-size", 2, "size=64", model=tmp_path / "plain")
    found = index(tmp_path)
    assert (len(found["explained"]), len(found["skipped"])) == (18, 2)
    assert "converted exactly" in found["explained_as"]


def test_inputs_of_one_name_keep_apart(explain: Run, labelled: Path, tmp_path: Path) -> None:
    explain(labelled)
    rows = index(tmp_path)["explained"]
    assert {"dark/0.png", "light/0.png"} <= {r["name"] for r in rows}
    assert len({r["picture"] for r in rows}) == len({r["numbers"] for r in rows}) == 12
    shown = {r["name"]: (tmp_path / "out" / r["picture"]).read_bytes() for r in rows}
    assert shown["dark/0.png"] != shown["light/0.png"]


class Named:
    """A data set of nothing but names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def facts(self, index: int) -> Any:
        from pellucid.sample import Facts

        return Facts(self.names[index], None, "")


def test_file_names_are_safe_and_unique() -> None:
    names = [
        "a/b.png",
        "a__b.png",
        "x",
        "x.png",
        "X.PNG",
        "..",
        "../up",
        "index.json",
        "manifest.json",
        "a b:c*?",
        "é.png",
        "",
        "q" * 300,
    ]
    places = _places(Named(*names))  # type: ignore[arg-type]
    used = [path.casefold() for place in places for path in (place, f"{place}.png")]
    assert len(set(used)) == len(used) == 2 * len(names)
    assert not {"index.json", "manifest.json"} & set(used)
    assert all(place and not place.startswith(".") and not set(place) & set('/\\:*?"<>| ') for place in places)
    assert max(map(len, places)) <= 110
    assert (places[0], places[10]) == ("a__b.png", "é.png")


@pytest.mark.parametrize(("given", "meant"), [("plum", "plum"), ("1", "pear"), ("0", "apple")])
def test_the_target_may_be_a_name_or_a_number(
    explain: Run, pictures: Path, tmp_path: Path, given: str, meant: str
) -> None:
    explain(pictures / "p02.png", "--target", given)
    (row,) = index(tmp_path)["explained"]
    assert row["target"] == meant
    adds_up(row)
    with np.load(tmp_path / "out" / row["numbers"]) as stored:
        assert row["score"] == pytest.approx(float(stored["logits"][0][CLASSES.index(meant)]), rel=1e-6)


def test_names_from_a_file_replace_the_models(explain: Run, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("uno\ndos\n\ntres\n")
    explain(pictures / "p02.png", "--classes", tmp_path / "names.txt", "--target", "dos")
    (row,) = index(tmp_path)["explained"]
    assert row["target"] == "dos"
    assert row["prediction"] in ("uno", "dos", "tres")


def test_another_method_with_its_options(explain: Run, pictures: Path, tmp_path: Path) -> None:
    """Grad-CAM of a layer, against the product of pooled gradients and features written out."""
    net = small()
    storage.save_model(net, tmp_path / "plain")
    explain(
        pictures / "p04.png",
        "--method",
        "grad_cam",
        "layer=features.1",
        "rectify=true",
        "size=64",
        model=tmp_path / "plain",
    )
    found = index(tmp_path)
    assert "grad_cam needs no conversion" in found["explained_as"]
    (row,) = found["explained"]
    assert row["ledger"] is None
    x = read_image(pictures / "p04.png", size=64).input[None]
    features = net.features[:2](x).detach().requires_grad_()
    logits = net.head(net.features[2:](features).flatten(2).mean(2))
    (slope,) = torch.autograd.grad(logits.max(), features)
    wanted = (slope.mean((2, 3), keepdim=True) * features).sum(1).clamp_min(0)
    with np.load(tmp_path / "out" / row["numbers"]) as stored:
        np.testing.assert_allclose(stored["map"], wanted.detach(), rtol=1e-3, atol=1e-6)


def test_a_plain_network_is_converted_unless_it_is_to_stay(explain: Run, pictures: Path, tmp_path: Path) -> None:
    storage.save_model(small(), tmp_path / "plain", classes=CLASSES)
    ended = explain(pictures / "p00.png", "size=64", model=tmp_path / "plain")
    assert "converted exactly" in ended.err
    (converted,) = index(tmp_path)["explained"]
    adds_up(converted)
    ended = explain(pictures / "p00.png", "size=64", "--no-convert", model=tmp_path / "plain")
    assert "--no-convert" in ended.err
    (kept,) = index(tmp_path)["explained"]
    assert (kept["method"], kept["ledger"]) == ("grad_cam", None)
    assert (kept["prediction"], kept["score"]) == (converted["prediction"], pytest.approx(converted["score"], rel=1e-6))


def test_a_network_that_cannot_be_converted_stays_a_black_box(explain: Run, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    ended = explain(pictures / "p00.png", "size=96", model="torchvision:alexnet")
    assert "stays a black box" in ended.err
    assert "at random" in ended.err
    assert index(tmp_path)["explained"][0]["method"] == "grad_cam"


def test_a_table_and_drawn_images(explain: Run, tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / "in" / f"{k}.png", k)
    table = tmp_path / "t.csv"
    table.write_text("file,id\nin/0.png,first\nin/1.png,second\nin/2.png,third\n")
    explain(table, "path=file", "label=null", "name=id")
    assert [r["name"] for r in index(tmp_path)["explained"]] == ["first", "second", "third"]
    explain("lesionlab:fundus", "n_images=2", "seed=5")
    found = index(tmp_path)
    assert len(found["explained"]) == 2
    assert found["reading"] == {"size": 64, "n_images": 2, "seed": 5}


def test_the_models_own_reading_gives_way_to_what_is_asked(explain: Run, pictures: Path, tmp_path: Path) -> None:
    explain(pictures / "p00.png", "size=[48,96]")
    found = index(tmp_path)
    assert found["reading"] == {"size": [48, 96], "crop": "resize"}
    with np.load(tmp_path / "out" / found["explained"][0]["numbers"]) as stored:
        assert stored["map"].shape == (1, 6, 12)


def test_a_dry_run_writes_nothing(explain: Run, pictures: Path, tmp_path: Path) -> None:
    assert "20 inputs" in explain(pictures, "--dry-run").err
    assert not (tmp_path / "out").exists()


def test_quiet_says_the_result_only(explain: Run, pictures: Path) -> None:
    ended = explain(pictures, "--quiet")
    assert ended.err == ""
    assert len(ended.out.strip().splitlines()) == 20


def test_a_model_of_our_own_needs_no_torchvision(model: Path, pictures: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pellucid.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    print([m for m in ('torch', 'torchvision', 'timm', 'matplotlib', 'sklearn', 'lightning_fabric') if m in sys.modules], file=sys.stderr)"
    )
    ended = fresh(code, "explain", pictures / "p00.png", "--model", model, "--out", tmp_path / "out", "--quiet")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.strip() == "['torch']"


@pytest.mark.slow
def test_real_photographs(run: Run, test_data: Path, tmp_path: Path) -> None:
    """At least 150 of 200 right; no answer changed by conversion; every ledger adds up to the original's logit."""
    weights = test_data / "weights" / "mobilenet_v2-b0353104.pth"
    name = "torchvision:mobilenet_v2"
    folder = test_data / "photographs_imagenet"
    assert run("explain", folder, "--model", name, "--weights", weights, "--out", tmp_path / "out").code == 0
    found = index(tmp_path)
    assert "converted exactly" in found["explained_as"]
    original = zoo.build(name, weights=weights)
    right = changed = 0
    for row in found["explained"]:
        adds_up(row)
        with torch.no_grad():
            logits = original(read_image(folder / row["name"]).input[None])[0]
        with np.load(tmp_path / "out" / row["numbers"]) as stored:
            changed += int(stored["logits"][0].argmax()) != int(logits.argmax())
        assert abs(row["score"] - float(logits.max())) <= 1e-5 * max(1, abs(row["score"]))
        right += plain(row["prediction"]) == plain(row["name"].partition("_")[2].rpartition(".")[0])
    assert len(found["explained"]) == 200
    assert right >= 150
    assert changed == 0


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def test_one_real_photograph(run: Run, test_data: Path, tmp_path: Path) -> None:
    photo = test_data / "photographs_imagenet" / "n02132136_brown_bear.jpg"
    weights = test_data / "weights" / "mobilenet_v2-b0353104.pth"
    ended = run(
        "explain", photo, "--model", "torchvision:mobilenet_v2", "--weights", weights, "--out", tmp_path / "out"
    )
    assert ended.code == 0
    (row,) = index(tmp_path)["explained"]
    assert row["prediction"] == "brown bear"
    adds_up(row)


def test_null_compares_sizes_with_inputs_of_the_same_spectrum(
    explain: Run, run: Run, model: Path, pictures: Path, tmp_path: Path
) -> None:
    ended = explain(pictures / "p00.png", "--null", 19)
    (row,) = index(tmp_path)["explained"]
    assert row["null"]["draws"] == 19
    assert row["null"]["kind"] == "phases"
    assert "19 random-phase inputs" in row["text"]
    assert row["text"] in ended.out
    e = pl.Explanation.load(tmp_path / "out" / "p00.png")
    assert e.null is not None
    assert e.null.as_dict()["p_value"] == pytest.approx(row["null"]["p_value"])
    before = index(tmp_path)
    refused = run("explain", pictures / "p00.png", "--model", model, "--out", tmp_path / "out", "--null", 5)
    assert refused.code != 0
    assert "5 draws are too few" in refused.err
    assert index(tmp_path) == before
    assert (tmp_path / "out" / "manifest.json").exists()
    explain(pictures / "p00.png")
    assert index(tmp_path)["explained"][0]["null"] is None
