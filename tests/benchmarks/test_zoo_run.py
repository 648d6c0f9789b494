"""`python -m benchmarks.zoo`: what is run, what is concluded from it, and what survives a stop."""

from __future__ import annotations

import csv
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.zoo import __main__ as command
from benchmarks.zoo import networks, records, tables, workers
from benchmarks.zoo.records import Record, Store
from benchmarks.zoo.survey import Facts, signature, survey
from torch import nn

FACTS = Facts("timm:a", "fam", "Net", 1000, (3, 224, 224), False, "fam.Net head(Linear)")
GOOD = Record(
    "timm:a", "converted", "c0de", kind="exact", size=(3, 128, 128), float32=1e-6, float64=3e-15, grid=(4, 4),
    stride=(32.0, 32.0), registered=True, receptive_field=(500.0, 500.0), cut="the output of 'x'", head="fc", seconds=2.0,
)  # fmt: skip
NO = Record("timm:a", "refused", "c0de", message="The network's output is (2, 5, 7).", reason=records.POOLED)


def member(name: str, parameters: int = 1000, sign: str = "s", **more: Any) -> Facts:
    return replace(FACTS, name=name, parameters=parameters, signature=sign, **more)


def test_names_are_those_of_the_libraries() -> None:
    pytest.importorskip("torchvision")
    found = networks.names("torchvision")
    assert len(set(found)) == len(found) == 89
    assert {"torchvision:resnet18", "torchvision:mvit_v2_s", "torchvision:r3d_18"} <= set(found)
    assert not [n for n in found if "quantized" in n or "rcnn" in n or "deeplab" in n or "raft" in n]


def test_facts_come_without_weights() -> None:
    pytest.importorskip("torchvision")
    facts = survey("torchvision:vit_h_14")  # 2.5 GB of weights, were there any
    # The number of parameters is published with the weights.
    assert (facts.parameters, facts.token_head, facts.family) == (632_045_800, True, "vision_transformer")
    assert (survey("torchvision:resnet18").parameters, survey("torchvision:resnet18").token_head) == (11_689_512, False)
    assert survey("torchvision:r3d_18").size == (3, 16, 224, 224)
    # Later networks have weights again, also after a constructor that fails.
    assert survey("torchvision:no_such_network").error
    assert nn.Linear(1, 1).weight.device.type == "cpu"


def test_signatures_join_sizes_and_part_heads_and_blocks() -> None:
    pytest.importorskip("torchvision")
    resnet, deeper, bottleneck, convnext, larger = (
        survey(f"torchvision:{n}").signature
        for n in ("resnet18", "resnet34", "resnet50", "convnext_tiny", "convnext_base")
    )
    assert resnet == deeper
    assert convnext == larger
    assert len({resnet, bottleneck, convnext}) == 3


class _Net(nn.Module):
    def __init__(self, width: int, norm: nn.Module, pool: str) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(3)))
        self.norm, self.head = norm, nn.Linear(width, 2 * width)
        self.global_pool = pool


def test_a_signature_tells_norms_and_pooling_apart() -> None:
    same = signature(_Net(4, nn.Identity(), "avg"))
    assert same == signature(_Net(8, nn.Dropout(), "avg"))
    assert same != signature(_Net(4, nn.LayerNorm(4), "avg"))
    assert same != signature(_Net(4, nn.Identity(), "token"))
    assert signature(_Net(4, nn.LayerNorm(4), "avg")) != signature(_Net(4, nn.BatchNorm1d(4), "avg"))


@pytest.mark.parametrize(
    ("name", "token", "heads", "attach"),
    [
        ("timm:vit_tiny_patch16_224", True, 1, False),
        ("timm:test_vit2", False, 1, False),
        ("timm:crossvit_tiny_240", True, 2, False),
        ("timm:efficientvim_m1", False, 4, False),
        ("timm:vit_small_patch14_dinov2", True, 1, True),
        ("timm:vit_small_patch16_dinov3", False, 1, True),
        ("timm:levit_128s", False, 2, False),
        ("timm:vit_tiny_r_s16_p8_224", True, 1, False),  # its constructor runs the stem
        ("timm:swinv2_cr_tiny_224", False, 1, False),  # its constructor reads weights
    ],
)
def test_what_feeds_the_head(name: str, token: bool, heads: int, attach: bool) -> None:
    pytest.importorskip("timm")
    facts = survey(name)
    assert (facts.token_head, facts.heads, facts.attach, facts.error) == (token, heads, attach, "")


def test_perturbed_weights_are_neutral_nowhere_and_the_same_every_time() -> None:
    def made(seed: int) -> nn.Sequential:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(8, 3), nn.Linear(8, 3))
        nn.init.zeros_(net[0].bias)
        nn.init.zeros_(net[2].weight)
        nn.init.trunc_normal_(net[3].weight, std=1e-5)
        net.gamma = nn.Parameter(1e-6 * torch.ones(4))
        networks.perturb(net, seed)
        return net

    net, again, other = made(1), made(1), made(2)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(net[2].weight, other[2].weight)
    assert net[1].running_mean.abs().min() > 0
    assert net[1].running_var.std() > 0
    assert (net[0].bias != 0).all()
    assert net[1].weight.std() > 0
    for layer in (net[2], net[3]):
        assert float(layer.weight.detach().std()) == pytest.approx(8**-0.5, rel=0.5)
    assert net.gamma.min() >= 0.1
    torch.manual_seed(0)
    assert torch.equal(net[0].weight, nn.Conv2d(3, 4, 3).weight)  # weights with a spread of their own stay


def test_inputs_are_small_first_and_sized_by_option_where_fixed() -> None:
    assert [s for s, _ in networks.inputs((3, 224, 224), False)] == [(3, 128, 128), (3, 112, 112), (3, 224, 224)]
    assert [o for _, o in networks.inputs((3, 224, 224), True)] == [{"img_size": 128}, {"img_size": 112}, {}]
    assert list(networks.inputs((3, 112, 112), True)) == [((3, 112, 112), {})]
    assert [s for s, _ in networks.inputs((3, 16, 112, 112), False)] == [(3, 16, 64, 64), (3, 16, 112, 112)]
    assert networks.example((3, 16, 64, 64), 0).shape == (1, 3, 16, 64, 64)


@pytest.mark.parametrize(
    ("message", "facts", "reason"),
    [
        ("Only 1 of the 49 places of x reach the logits: a class token reads the map.", {}, records.TOKEN),
        ("No grid of places was found.", {"token_head": True}, records.TOKEN),
        ("No grid of places was found.", {"token_head": True, "heads": 2}, records.HEADS),
        ("The network's output is (2, 49, 320).\nLogits are needed.", {"heads": 4}, records.POOLED),
        ("The network cannot be traced.\nIt reads a value.", {}, records.TRACE),
        ("The head is not linear: gelu.\nA line.", {}, "other: The head is not linear: gelu."),
    ],
)
def test_reasons_are_told_apart(message: str, facts: dict[str, Any], reason: str) -> None:
    assert records.reason_class(message, replace(FACTS, **facts)) == reason


@pytest.mark.parametrize(
    ("change", "facts", "said"),
    [
        ({}, {}, ""),
        ({"float64": 2e-9}, {}, "float64"),
        ({"float64": None}, {}, "float64"),
        ({"float64": float("nan")}, {}, "float64"),
        ({"float32": 2e-4, "kind": "exact_at_this_image"}, {}, "float32"),
        ({}, {"token_head": True}, "class token"),
        ({"float64": 1.0, "kind": "retrain"}, {}, ""),
        ({"float64": None, "outcome": "refused"}, {"token_head": True}, ""),
    ],
)
def test_planted_wrong_conversions_are_found(change: dict[str, Any], facts: dict[str, Any], said: str) -> None:
    found = records.wrong(replace(GOOD, **change), replace(FACTS, **facts))
    assert (said in found) if said else found == ""


def test_the_smallest_and_one_more_are_run() -> None:
    facts = [member("timm:c", 30), member("timm:a", 10), member("timm:b", 20), member("timm:d", 5, "t")]
    assert records.plan(facts, {}) == ["timm:d", "timm:a", "timm:b"]
    known = {n: replace(GOOD, name=n) for n in ("timm:a", "timm:b", "timm:d")}
    assert records.plan(facts, known) == []
    assert records.plan(facts, {"timm:b": known["timm:b"]}) == ["timm:d", "timm:a"]
    assert records.plan(facts, known, every=("timm",)) == ["timm:c"]


def test_a_run_without_a_verdict_calls_for_another_but_not_for_ever() -> None:
    facts = [member(f"timm:{i}", i) for i in range(20)]
    slow = {"timm:0": replace(GOOD, name="timm:0", outcome="over the time limit", kind=None)}
    assert records.plan(facts, slow) == ["timm:1", "timm:2"]
    failing = {f"timm:{i}": replace(GOOD, outcome="failed") for i in range(records.TRIES)}
    assert records.plan(facts, failing) == []


def test_members_that_disagree_are_all_run_and_none_is_assigned() -> None:
    facts = [member(f"timm:{i}", i) for i in range(4)]
    known = {"timm:0": GOOD, "timm:1": replace(GOOD, kind="exact_at_this_image")}
    assert records.plan(facts, known) == ["timm:2", "timm:3"]
    assert [r.kind for r in records.rows(facts, known)] == ["exact", "exact_at_this_image", "not run", "not run"]
    known["timm:1"] = replace(NO, reason=records.TOKEN)
    known["timm:0"] = replace(NO, reason=records.HEADS)
    assert records.plan(facts, known) == ["timm:2", "timm:3"]


def test_giants_are_never_run_and_take_the_verdict_of_their_signature() -> None:
    facts = [member("timm:a"), member("timm:giant", records.LARGEST + 1), member("timm:lone", 10**10, "t")]
    assert records.plan(facts, {}, every=("timm",)) == ["timm:a"]
    found = {r.facts.name: r for r in records.rows(facts, {"timm:a": GOOD})}
    assert (found["timm:giant"].kind, found["timm:giant"].by) == ("exact", "assigned from timm:a")
    assert found["timm:lone"].kind == "not run"
    assert found["timm:lone"].note == found["timm:giant"].note == "skipped: over 200 M parameters"


def test_nothing_is_concluded_from_a_wrong_conversion() -> None:
    facts = [member("timm:a", 10), member("timm:b", 20)]
    bad = {"timm:a": replace(GOOD, float64=1e-3)}
    assert [r.kind for r in records.rows(facts, bad)] == ["exact", "not run"]
    assert len(tables.wrongs(records.rows(facts, bad))) == 1


def test_the_same_signature_in_another_library_says_nothing() -> None:
    facts = [member("timm:a"), member("torchvision:a")]
    assert [(r.facts.name, r.kind) for r in records.rows(facts, {"timm:a": GOOD})] == [
        ("torchvision:a", "not run"),
        ("timm:a", "exact"),
    ]


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for what in (GOOD, replace(FACTS, name="torchvision:b")):
        store.keep(what)
    assert store.record("timm:a") == GOOD
    assert store.facts("torchvision:b") == replace(FACTS, name="torchvision:b")
    store.forget("timm:a")
    assert store.record("timm:a") is None


# What workers do in the tests below, by name.


def _work(facts: Facts, folder: Path) -> None:
    name = facts.name.partition(":")[2]
    if name.startswith("slow"):
        while True:
            pass
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("large"):
        held = torch.ones(2**28)
        time.sleep(60 + float(held[0]))
    Store(folder).keep(replace(GOOD, name=facts.name))


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="time and memory are read from /proc")


@linux
def test_a_name_over_its_limits_or_killed_leaves_a_record_and_harms_no_other(tmp_path: Path) -> None:
    store, said = Store(tmp_path), []
    wanted = [member(f"timm:{n}") for n in ("good1", "slow", "killed", "large", "good2")]
    workers.run(wanted, store, workers.Limits(seconds=3, memory=1200, jobs=2), said.append, _work, "c0de")
    outcomes = {r.name.partition(":")[2]: r.outcome for r in said}
    assert outcomes == {
        "good1": "converted",
        "slow": "over the time limit",
        "killed": "failed",
        "large": "over the memory limit",
        "good2": "converted",
    }
    killed = store.record("timm:killed")
    assert killed is not None
    assert "-9" in killed.message


def test_a_stopped_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    store, done = Store(tmp_path), []
    facts = [member(f"timm:{n}", i, str(i)) for i, n in enumerate(("a", "b", "slow", "c"))]

    def stop(record: Record) -> None:
        done.append(record.name)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workers.run(facts, store, workers.Limits(jobs=2), stop, _work)
    known = {f.name: r for f in facts if (r := store.record(f.name))}
    assert sorted(known) == sorted(done) == ["timm:a", "timm:b"]
    assert records.plan(facts, known) == ["timm:slow", "timm:c"]
    assert not list(tmp_path.rglob("*.part"))


def rows() -> list[records.Row]:
    facts = [
        member("torchvision:r1", 10, family="resnet"),
        member("timm:a", 10, attach=True),
        member("timm:b", 20),
        member("timm:giant", 10**9),
        member("timm:enc", 10, "enc"),
        member("timm:odd", 10, "odd"),
    ]
    known = {
        "torchvision:r1": replace(GOOD, name="torchvision:r1", float64=1e-15),
        "timm:a": GOOD,
        "timm:b": replace(GOOD, name="timm:b", float64=7e-15, registered=False, receptive_field=None),
        "timm:enc": replace(NO, name="timm:enc"),
        "timm:odd": replace(NO, name="timm:odd", outcome="over the time limit", message="Ended after 120 s."),
    }
    return records.rows(facts, known)


def test_the_list_has_every_name_and_figures_of_its_own_run_only() -> None:
    lines = {line["name"]: line for line in csv.DictReader(tables.as_csv(rows()).splitlines())}
    assert len(lines) == 6
    assert (
        lines["timm:a"] | {"kind": "exact", "by": "run", "head_attached": "yes", "float64": "3e-15"} == lines["timm:a"]
    )
    assert (lines["timm:a"]["grid"], lines["timm:a"]["stride"], lines["timm:a"]["registered"]) == ("4", "32", "yes")
    assert (lines["timm:b"]["receptive_field"], lines["timm:b"]["registered"]) == ("not known", "no")
    giant = lines["timm:giant"]
    assert (giant["kind"], giant["by"], giant["float64"], giant["parameters"]) == (
        "exact",
        "assigned from timm:a",
        "",
        str(10**9),
    )
    assert (lines["timm:enc"]["reason"], lines["timm:enc"]["kind"]) == (records.POOLED, "refused")
    assert (lines["timm:odd"]["kind"], lines["timm:odd"]["note"]) == ("not run", "over the time limit")


def test_the_page_counts_what_the_list_holds() -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    page = tables.as_markdown(rows(), "python -m benchmarks.zoo", ["c0de"], complete=False)
    assert "was stopped" in page
    assert "| timm | 5 | 3 (60.0 %) | 0 | 0 | 1 (20.0 %) | 1 (20.0 %) | 0 |" in page
    assert "| torchvision | 1 | 1 (100.0 %) | 0 | 0 | 0 | 0 | 0 |" in page
    assert "| timm | 3 | 1 | 1 over the time limit; 1 skipped: over 200 M parameters | 1 |" in page
    assert "| timm fam | 5 | 3 | 3 |  |  | 1 | 1 | 1.0e-06 | 7.0e-15 |" in page
    assert "| 1 of 2 | no classifier or pooled vector (1) |" in page
    assert "| wrong conversions: 0 | 0 | met |" in page
    assert "| timm: at least 80 % exact or exact at this image | 3 of 5 (60.0 %) | missed |" in page
    assert "was stopped" not in tables.as_markdown(rows(), "python -m benchmarks.zoo", ["c0de"])


@pytest.fixture
def two_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The command on two small names instead of all."""
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    known = {"torchvision": ["torchvision:shufflenet_v2_x0_5"], "timm": ["timm:test_resnet"]}
    monkeypatch.setattr(networks, "names", known.__getitem__)
    return ["--folder", str(tmp_path / "zoo"), "--out", str(tmp_path / "docs"), "--jobs", "1"]


def test_the_command_runs_what_is_missing_and_writes_the_page(
    two_names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*two_names, "--only", "test_*"]) == 0
    assert "1 names to run" in capsys.readouterr().out
    assert not (tmp_path / "docs").exists()  # a part of the names makes no page
    assert command.main(two_names) == 0
    said = capsys.readouterr().out
    assert "1 names to run" in said
    assert "shufflenet_v2_x0_5" in said
    record = Store(tmp_path / "zoo").record("torchvision:shufflenet_v2_x0_5")
    assert record is not None
    assert (record.kind, record.grid, record.registered) == ("exact", (4, 4), True)
    assert 0 < (record.float64 or 1) <= 1e-13
    page = (tmp_path / "docs" / "models.md").read_text()
    assert "| timm | 1 | 1 (100.0 %)" in page
    assert command.main([*two_names, "--redo", "no_such*"]) == 0
    assert "to run" not in capsys.readouterr().out
    # A record that says exact while the figures say otherwise fails the command and is named.
    Store(tmp_path / "zoo").keep(replace(record, float64=1e-3))
    assert command.main([*two_names, "--tables"]) == 1
    assert "WRONG torchvision:shufflenet_v2_x0_5: float64 parity is 0.001" in capsys.readouterr().out
    assert "| wrong conversions: 0 | 1 | missed |" in (tmp_path / "docs" / "models.md").read_text()
