"""The verbs `explain` and `evaluate`: what they refuse, that parts make the whole, and that models stay as they were."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid import api
from pellucid.errors import BadInput, LayerError, OptionError, TargetError
from pellucid.methods import METHODS
from pellucid.record import Table
from pellucid.sample import Facts, Sample
from reference.nets import GapNet, SelfExplaining, Squeezed, inputs
from reference.untouched import unchanged


@dataclass(frozen=True)
class Samples:
    """Noise with a mask; some of them cannot be read, some have no mask."""

    n: int = 7
    bad: tuple[int, ...] = ()
    blind: tuple[int, ...] = ()
    labels: tuple[Any, ...] = (0, 1)
    fingerprint: str = "noise"
    classes: tuple[str, ...] = ("no", "yes")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadInput(f"File {index} is damaged.")
        mask = torch.zeros(16, 16, dtype=torch.bool)
        mask[4:9, 6:12] = True
        return Sample(
            inputs(2, 1, seed=index)[0], label=self.labels[index % len(self.labels)], mask=None if index in self.blind else mask, name=f"s{index}", group=f"p{index // 2}",
        )  # fmt: skip

    def facts(self, index: int) -> Facts:
        return Facts(f"s{index}", index % 2, f"p{index // 2}")


def two(**options: Any) -> nn.Module:
    return SelfExplaining(GapNet(2, classes=2, **options)).eval()


# explain


def test_the_method_follows_from_the_network() -> None:
    assert pl.explain(two(), inputs(2)).method == "evidence"
    assert pl.explain(GapNet(2).eval(), inputs(2)).method == "grad_cam"


@pytest.mark.parametrize("method", METHODS)
def test_unknown_options_are_refused_by_name(method: str) -> None:
    with pytest.raises(OptionError, match=f"'{method}' has no option 'colour'"):
        pl.explain(two(), inputs(2), method=method, colour="red")
    with pytest.raises(OptionError, match="has no option 'generator'"):
        pl.explain(two(), inputs(2), method=method, generator=torch.Generator())


def test_unknown_names_suggest_the_nearest() -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"method": "gradcam"}, OptionError, "grad_cam"),
        ({"method": "grad_cam", "layer": "feature"}, LayerError, "model.features"),
        ({"method": "grad_cam", "rectfy": True}, OptionError, "rectify"),
        ({"target": "yess", "classes": ("no", "yes")}, TargetError, "yes"),
    ]
    for options, kind, meant in cases:
        with pytest.raises(kind) as error:
            pl.explain(two(), inputs(2), **options)
        assert error.value.hint == f"Did you mean '{meant}'?"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "target",
    [
        [0, 1, 0],
        torch.tensor([0, 1]),
        ["no", "yes"],
        pl.ClassTarget(torch.tensor([1, 0])),
        pl.ContrastTarget(torch.tensor([1, 0]), 0),
    ],
)
def test_the_number_of_targets_has_to_fit(target: Any) -> None:
    with pytest.raises(TargetError, match=r"There are \d targets for 4 inputs"):
        pl.explain(two(), inputs(2, 4), target, classes=("no", "yes"))


def test_classes_that_are_not_there() -> None:
    for target in (2, -1, [0, 1, 5]):
        with pytest.raises(TargetError, match="There is no class"):
            pl.explain(two(), inputs(2), target)


@pytest.mark.parametrize(
    ("x", "what"),
    [
        ([[1.0]], "is a list"),
        (torch.zeros(4), "has shape"),
        (torch.zeros(0, 2, 8, 8), "has shape"),
        (torch.zeros(1, 2, 8, 8, dtype=torch.long), "holds torch.int64 values"),
        (torch.full((1, 2, 8, 8), float("nan")), "not finite"),
        (torch.full((1, 2, 8, 8), -float("inf")), "not finite"),
    ],
)
def test_inputs_that_cannot_be_explained(x: Any, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        pl.explain(two(), x)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "random_map"])
@pytest.mark.parametrize("target", [None, 1, [0, 1, 1, 0, 1], ["yes", "no", "no", "no", "yes"]])
def test_parts_make_the_whole(method: str, target: Any) -> None:
    x = inputs(2, 5)
    whole = pl.explain(two(), x, target, method=method, classes=("no", "yes"))
    parts = pl.explain(two(), x, target, method=method, classes=("no", "yes"), batch_size=2)
    for name in ("map", "score", "logits", "constant", "common"):
        mine, theirs = getattr(parts, name), getattr(whole, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert parts.target.as_dict() == whole.target.as_dict()
    assert (parts.method, parts.options, parts.geometry) == (whole.method, whole.options, whole.geometry)
    one = pl.explain(
        two(),
        x[3:4],
        None if target is None else [target[3]] if isinstance(target, list) else target,
        method=method,
        classes=("no", "yes"),
    )
    torch.testing.assert_close(one.map[0], whole.map[3], rtol=1e-5, atol=1e-6)


def test_a_single_logit_in_parts() -> None:
    net = Squeezed(GapNet(2)).eval()
    x = inputs(2, 5)
    whole, parts = (pl.explain(net, x, batch_size=size) for size in (None, 2))
    torch.testing.assert_close(parts.score, whole.score)
    torch.testing.assert_close(parts.score, net(x).abs().detach())  # what the network says, said for itself


def test_chance_follows_the_seed() -> None:
    first, again, other = (pl.explain(two(), inputs(2), method="random_map", seed=s).map for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_provenance_says_how_to_repeat_it() -> None:
    net = two()
    net.preprocessing = {"size": 16}
    e = pl.explain(net, inputs(2), method="grad_cam", layer="model.features", seed=3)
    assert e.options == {"layer": "model.features"}
    known = {k: e.provenance[k] for k in ("seed", "layer", "network", "preprocessing", "task", "device", "dtype")}
    assert known == {
        "seed": 3, "layer": "model.features", "network": "SelfExplaining", "preprocessing": {"size": 16}, "task": "multiclass", "device": "cpu", "dtype": "float32",
    }  # fmt: skip


class Breaks(nn.Module):
    """A network that fails at its second pass of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.net = GapNet(2, classes=2)
        self.drop = nn.Dropout()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes % 2 == 0:
            raise RuntimeError("half way")
        return self.drop(self.net(x))  # type: ignore[no-any-return]


def used(net: nn.Module) -> nn.Module:
    """In training mode, with gradients, a frozen parameter and a hook: all of it the user's."""
    net.train()
    next(iter(net.children())).eval()
    for k, parameter in enumerate(net.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5) if k else None
    list(net.parameters())[-1].requires_grad_(False)
    net.register_forward_hook(lambda module, args, output: None)
    return net


@pytest.mark.parametrize("method", METHODS)
def test_explain_leaves_the_network_alone(method: str) -> None:
    net = used(two())
    with unchanged(net):
        pl.explain(net, inputs(2), method=method)
    with unchanged(net), torch.inference_mode():
        pl.explain(net, inputs(2), method=method)
    with unchanged(net), pytest.raises(TargetError):
        pl.explain(net, inputs(2), 9, method=method)


@pytest.mark.parametrize("method", ["grad_cam", "saliency"])
def test_an_error_half_way_leaves_the_network_alone(method: str) -> None:
    net = used(Breaks())
    with unchanged(net):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="half way"):
                pl.explain(net, inputs(2, 4), 1, method=method, batch_size=1)
    assert net.passes >= 2  # type: ignore[operator]


# evaluate


def table(dataset: Any = None, **options: Any) -> Table:
    return pl.evaluate(
        two(), dataset or Samples(), **{"methods": ["evidence", "random_map"], "batch_size": 3, **options}
    )


def test_every_sample_method_and_metric_has_its_record() -> None:
    found = table(methods=["evidence", "saliency"], metrics=["sparseness", "deletion"])
    rows = {(r.sample, r.method, r.metric, r.part) for r in found.records}
    parts = [("sparseness", ""), ("deletion", "probability"), ("deletion", "log_odds")]
    assert rows == {(f"s{i}", m, *p) for i in range(7) for m in ("evidence", "saliency") for p in parts}
    assert all(r.status == "ok" and r.value is not None for r in found.records)
    assert {(r.sample, r.group) for r in found.records} == {(f"s{i}", f"p{i // 2}") for i in range(7)}


def test_predictions_are_the_networks_own() -> None:
    net = two()
    found = pl.evaluate(net, Samples(), methods=[], batch_size=3)
    for i, p in enumerate(found.predictions):
        with torch.no_grad():
            wanted = net(Samples()[i].input[None]).double().softmax(1)[0].tolist()
        assert (p.sample, p.label) == (f"s{i}", i % 2)
        assert p.probabilities == pytest.approx(wanted, abs=1e-6)


def test_two_classes_are_scored_on_their_log_odds() -> None:
    """All methods answer one question; the value of a metric is that of the explanation made by hand."""
    net, samples = two(), Samples(n=3)
    found = pl.evaluate(net, samples, methods=["evidence"], metrics=["sparseness"])
    assert [r.target for r in found.records] == ["no against yes", "yes against no", "no against yes"]
    for i, record in enumerate(found.records):
        e = pl.explain(net, samples[i].input[None], pl.ContrastTarget(i % 2, 1 - i % 2), method="evidence")
        size = e.map.flatten().abs().double().sort().values
        n = len(size)
        gini = float(((2 * torch.arange(1, n + 1) - n - 1) * size).sum() / (n * size.sum()))
        assert record.value == pytest.approx(gini, abs=1e-6)


def test_a_bad_sample_is_listed_and_the_others_go_on() -> None:
    found = table(Samples(bad=(0, 4)), metrics=["sparseness"])
    assert [(r.sample, r.status) for r in found.failures()] == [
        ("s0", "failed: File 0 is damaged."),
        ("s4", "failed: File 4 is damaged."),
    ]
    assert {r.sample for r in found.records if r.value is not None} == {f"s{i}" for i in (1, 2, 3, 5, 6)}
    assert len(found.predictions) == 5
    whole = table(metrics=["sparseness"], methods=["evidence"])
    values = {r.sample: r.value for r in whole.records}
    for r in found.records:
        if r.method == "evidence":
            assert r.value == pytest.approx(values[r.sample], abs=1e-6)
    assert table(Samples(n=3, bad=(0, 1, 2))).predictions == ()


def test_what_is_not_defined_says_why() -> None:
    found = table(Samples(blind=(2,)), metrics=["pointing_game"], methods=["evidence"])
    assert {r.sample: r.status for r in found.records if r.value is None} == {"s2": "no mask"}


def test_a_method_that_needs_evidence_is_left_out_for_a_black_box() -> None:
    models = {"plain": GapNet(2, classes=2).eval(), "softcam": two()}
    found = pl.evaluate(models, Samples(n=2), methods=["evidence", "saliency"], metrics=["sparseness"])
    assert {(r.model, r.method) for r in found.records} == {
        ("plain", "saliency"),
        ("softcam", "evidence"),
        ("softcam", "saliency"),
    }


def test_a_method_that_fails_is_listed() -> None:
    found = table(methods=["grad_cam", "saliency"], metrics=["sparseness"], options={"grad_cam": {"layer": "model.fc"}})
    failed = found.failures()
    assert {r.method for r in failed} == {"grad_cam"}
    assert len(failed) == 7
    assert all("model.fc" in r.status for r in failed)
    assert {r.method for r in found.records if r.value is not None} == {"saliency"}


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"methods": ["evidense"]}, "evidence"),
        ({"metrics": ["sparsenes"]}, "sparseness"),
        ({"options": {"evidence": {"gage": 1}}}, "gauge"),
        ({"options": {"pointing_game": {"tolerence": 1}}}, "tolerance"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_done(options: dict[str, Any], meant: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        table(folder=tmp_path / "e", **options)
    assert error.value.hint == f"Did you mean '{meant}'?"
    assert not (tmp_path / "e").exists()


def test_labels_are_needed_to_explain_them() -> None:
    with pytest.raises(OptionError, match="label"):
        table(Samples(labels=(None,)))
    found = table(Samples(labels=(None,)), target="predicted", metrics=["sparseness"])
    assert len(found.records) == 14
    assert found.predictions == ()
    with pytest.raises(OptionError, match="no target 'best'"):
        table(target="best")


class PowerCut(Exception):
    """The work is stopped from outside."""


def test_an_interrupted_evaluation_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"metrics": ["pointing_game", "deletion"], "options": {"pointing_game": {"tolerance": 2}}}
    table(folder=tmp_path / "clean", **options).to_json(tmp_path / "clean.json")
    done = []

    def stop(part: int, total: int) -> None:
        done.append((part, total))
        if part == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        table(folder=tmp_path / "cut", progress=stop, **options)
    assert done == [(1, 3), (2, 3)]
    parts = sorted((tmp_path / "cut").glob("*.done"))
    assert len(parts) == 2
    kept = parts[0].with_suffix(".json").stat().st_mtime_ns
    table(folder=tmp_path / "cut", **options).to_json(tmp_path / "cut.json")
    assert parts[0].with_suffix(".json").stat().st_mtime_ns == kept  # not made again
    parts[1].unlink()
    table(folder=tmp_path / "cut", **options).to_json(tmp_path / "again.json")
    clean = (tmp_path / "clean.json").read_bytes()
    assert clean == (tmp_path / "cut.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    for part in (tmp_path / "clean").glob("*.json"):
        assert part.read_bytes() == (tmp_path / "cut" / part.name).read_bytes()
    assert Table.from_json(tmp_path / "clean.json").records == table(**options).records


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"target": "predicted"},
        {"metrics": ["deletion"]},
        {"options": {"deletion": {"steps": 5}}},
        {"fold": 1},
        {"dataset": Samples(fingerprint="other")},
    ],
)
def test_a_folder_with_other_results_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    table(folder=tmp_path, metrics=["sparseness"])
    with pytest.raises(OptionError, match="another plan"):
        table(
            **{
                "folder": tmp_path,
                "metrics": ["sparseness", "deletion"] if "options" in change else ["sparseness"],
                **change,
            }
        )


def test_other_weights_are_other_results(tmp_path: Path) -> None:
    pl.evaluate(two(), Samples(n=2), folder=tmp_path, methods=[])
    with pytest.raises(OptionError, match="another plan"):
        pl.evaluate(two(seed=1), Samples(n=2), folder=tmp_path, methods=[])


def test_the_fold_and_seed_are_noted() -> None:
    found = table(fold=3, seed=5, metrics=["sparseness"])
    assert {(r.fold, r.seed) for r in found.records} == {(p.fold, p.seed) for p in found.predictions} == {(3, 5)}


def test_evaluate_leaves_the_network_alone() -> None:
    net = used(two())
    with unchanged(net):
        pl.evaluate(net, Samples(n=4, bad=(1,)), batch_size=2)
    breaks = used(Breaks())
    with unchanged(breaks), pytest.raises(RuntimeError, match="half way"):
        pl.evaluate(breaks, Samples(n=4), batch_size=2)


def test_the_digest_follows_weights_names_and_types() -> None:
    nets = [GapNet(2), GapNet(2, seed=1), GapNet(2).double(), SelfExplaining(GapNet(2))]
    assert len({api.weights_digest(net) for net in nets}) == 4
    assert api.weights_digest(GapNet(2)) == api.weights_digest(nets[0])


def test_scores_are_plain_json(tmp_path: Path) -> None:
    stored = json.loads(table(Samples(blind=(0,))).to_json(tmp_path / "s.json").read_text())
    assert {"records", "predictions", "summary", "performance"} <= set(stored)
    assert any(r["value"] is None for r in stored["records"])
