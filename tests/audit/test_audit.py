"""A whole audit of a small run: what is written, what it is held to, and that nothing of it can change unseen."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pellucid import study
from pellucid.audit import audit as verb
from pellucid.audit.audit import KIND, Order, audit, refuse_failed
from pellucid.audit.policy import read_policy
from pellucid.cli import verify
from pellucid.data import open_data
from pellucid.errors import AuditFailed, BadInput, IntegrityError, OptionError
from pellucid.models import storage
from pellucid.record import Table
from pellucid.reporting.audit import AuditPage

POLICY = """\
purpose: {intended_use: To be tested.}
zones: [corners, "sample:marker"]
subgroups: [marker]
minimum_n: 10
limits:
  performance.auc: {at_least: 0}
  data.shared_patients: {at_most: 0}
  data.same_inputs: {at_most: 0}
"""


@pytest.fixture(scope="module")
def done(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Order, AuditPage]:
    """One audit with all that an audit can do; printing apart, which takes a browser."""
    folder = tmp_path_factory.mktemp("audits")
    (folder / "policy.yaml").write_text(POLICY)
    policy, lines = read_policy(folder / "policy.yaml")
    order = Order(
        trained, folder / "out", policy=policy, lines=lines, policy_text=POLICY, mend="sample:marker", command="pellucid audit eyes --policy policy.yaml"
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "print_pdf", lambda html, pdf: bool(pdf.write_bytes(b"%PDF-1.4 a print")))
        page = audit(order)
    return order, page


def test_nine_blocks_and_every_file_is_in_the_manifest(done: tuple[Order, AuditPage]) -> None:
    order, page = done
    assert [block.number for block in page.blocks] == list(range(1, 10))
    told = json.loads((order.out / "audit.json").read_text())
    assert [block["title"] for block in told["blocks"]] == [block.title for block in page.blocks]
    manifest = storage.read_manifest(order.out)
    assert manifest["kind"] == KIND
    own = {p.name for p in order.out.iterdir() if p.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == own | {"mended/manifest.json", "mended/mended.json"}
    assert manifest["records"] == 41  # of forty decisions, and what they have in common


def test_every_figure_has_n_an_interval_and_a_command(done: tuple[Order, AuditPage]) -> None:
    order, page = done
    assert len(page.figures()) > 40
    for key, (figure, sheet) in page.figures().items():
        interval = figure.interval
        assert sheet.command.startswith("pellucid "), key
        assert interval.n > 0, key
        assert interval.groups > 0, key
        assert interval.low <= interval.mean + 1e-12, key
        assert interval.mean <= interval.high + 1e-12, key
    html = (order.out / "audit.html").read_text()
    assert len(re.findall(r'class="basis"[^>]*>n \d+', html)) == sum(1 for b in page.blocks for _ in b.figures())


def test_classes_are_counted_in_every_subgroup(done: tuple[Order, AuditPage]) -> None:
    _, page = done
    (sheet,) = [s for s in page.blocks[2].sheets if s.title == "Subgroups and classes"]
    data = open_data("lesionlab:fundus", n_images=40, size=64, rho=0.9, marker="letter")
    samples = [data[i] for i in range(40)]
    for column, name, n, patients, healthy, lesion in sheet.rows:
        own = [s for s in samples if str(s.meta["marker"]) == name]
        assert (column, n, patients) == ("marker", len(own), len({s.group for s in own}))
        assert (healthy, lesion) == (sum(s.label == 0 for s in own), sum(s.label == 1 for s in own))
    assert len(sheet.rows) == 2


def test_what_nobody_provided_is_said_and_there_is_no_badge(done: tuple[Order, AuditPage]) -> None:
    order, page = done
    purpose = next(block for block in page.blocks if block.title == "Purpose")
    assert purpose.facts["intended use"] == "To be tested."
    assert purpose.facts["out of scope"] is None
    for name in ("audit.html", "model-card.md"):
        text = (order.out / name).read_text()
        assert "not provided" in text
        assert "To be tested." in text
        assert "compliant" not in text.lower()
        assert "certified" not in text.lower()


def test_rules_are_cited_with_state_date_and_basis(done: tuple[Order, AuditPage]) -> None:
    order, page = done
    html = (order.out / "audit.html").read_text()
    assert len(page.regulations) == 5
    for rule in page.regulations:
        assert all(rule[part] for part in ("name", "asks", "state", "basis"))
        assert re.search(r"20\d\d", rule["name"] + rule["state"])
        assert rule["name"].replace("'", "&#39;") in html
    assert page.checked in html
    assert html.count("secondary source") >= 5


def test_the_figures_are_those_of_the_run_evaluated_otherwise(done: tuple[Order, AuditPage], trained: Path) -> None:
    """The same out-of-fold predictions by the other verb."""
    import torch

    order, page = done
    chosen = {"methods": (), "metrics": (), "batch_size": 8, "seed": 0}
    table = study.evaluate_out_of_fold(
        trained, chosen, device=torch.device("cpu"), folder_out=order.out.parent / "parts", progress=lambda done, total: None
    )  # fmt: skip
    wanted = {row.metric: row.interval.mean for row in Table((), table.predictions).performance()}
    found = {key: figure.interval.mean for key, (figure, _) in page.figures().items()}
    for metric in ("auc", "accuracy", "balanced_accuracy"):
        assert found[f"performance.{metric}"] == pytest.approx(wanted[metric])
    records = [json.loads(line) for line in (order.out / "decisions.jsonl").read_text().splitlines()]
    probabilities = {p.sample: p.probabilities for p in table.predictions}
    assert len(records) == 41
    for record in records[1:]:
        assert record["probabilities"] == pytest.approx(list(probabilities[record["sample"]]), abs=1e-6)


def test_mending_is_told_under_three_conditions(done: tuple[Order, AuditPage]) -> None:
    order, page = done
    figures = page.figures()
    for condition in ("as_they_are", "zone_goes_with_the_class", "zone_goes_against_the_class"):
        before, after, change = (
            figures[f"mending.{condition}.accuracy.{side}"][0].interval for side in ("before", "after", "difference")
        )
        assert change.mean == pytest.approx(after.mean - before.mean)
    assert study.is_study(order.out / "mended")
    assert json.loads((order.out / "mended" / "mended.json").read_text())["zone"] == "sample:marker"


def test_one_changed_byte_in_any_artefact_is_found(done: tuple[Order, AuditPage], tmp_path: Path) -> None:
    order, _ = done
    out = Path(shutil.copytree(order.out, tmp_path / "out"))
    assert verify.run(out, as_json=True) is None
    artefacts = sorted(p for p in out.rglob("*") if p.is_file())
    assert len(artefacts) > 15
    for path in artefacts:
        whole = path.read_bytes()
        at = len(whole) // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(IntegrityError):
            verify.run(out)
        path.write_bytes(whole)
    verify.run(out)


def test_one_changed_byte_in_any_decision_is_found_and_the_decision_named(
    done: tuple[Order, AuditPage], tmp_path: Path
) -> None:
    order, _ = done
    shutil.copytree(order.out, tmp_path / "out")
    path = tmp_path / "out" / "decisions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for k, line in enumerate(lines):
        at = line.index(b'"previous"') - 4
        changed = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]
        path.write_bytes(b"".join([*lines[:k], changed, *lines[k + 1 :]]))
        with pytest.raises(IntegrityError, match=f"record {k + 1} is not"):
            verify.run(tmp_path / "out")


def test_limits_that_are_met_pass_and_one_that_is_not_is_named_with_its_line(done: tuple[Order, AuditPage]) -> None:
    _, page = done
    assert all(line.met for line in page.limits)
    refuse_failed(page, Path("policy.yaml"))
    failed = replace(
        page, limits=(page.limits[0], replace(page.limits[1], met=False), replace(page.limits[2], met=False))
    )
    with pytest.raises(AuditFailed) as error:
        refuse_failed(failed, Path("policy.yaml"))
    assert error.value.message == "policy.yaml, line 7: data.shared_patients at most 0 is not met."
    assert "One more limit is not met." in error.value.why


def test_an_audit_that_fails_half_way_leaves_no_manifest_of_the_one_before(
    done: tuple[Order, AuditPage], tmp_path: Path
) -> None:
    """Else it would vouch for records that are no longer there."""
    order, _ = done
    out = Path(shutil.copytree(order.out, tmp_path / "out"))
    wrong = replace(
        order,
        out=out,
        mend=None,
        policy=order.policy.changed(tags=False, zones=(), subgroups=(), limits={"performance.acu": {"at_least": 0}}),
    )
    with pytest.raises(OptionError, match=r"limits 'performance\.acu'"):
        audit(wrong)
    assert not (out / "manifest.json").exists()


def test_what_cannot_be_audited_is_refused_before_any_work(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run"):
        audit(Order(tmp_path / "none", tmp_path / "out"))
    with pytest.raises(OptionError, match="no zone 'cornres'"):
        audit(Order(trained, tmp_path / "out", mend="cornres"))
    policy = Order(trained, tmp_path).policy
    with pytest.raises(OptionError, match="no class 'lesoin'"):
        audit(Order(trained, tmp_path / "out", policy=policy.changed(positive="lesoin")))
    with pytest.raises(OptionError, match="network without data"):
        audit(Order(trained / "fold-0", tmp_path / "out"))
    with pytest.raises(OptionError, match="holds 2 networks"):
        audit(Order(trained, tmp_path / "out", source="lesionlab:fundus"))
    assert not (tmp_path / "out").exists()


def test_a_damaged_run_is_refused(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    weights = run / "fold-0" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        audit(Order(run, tmp_path / "out"))
