"""The metrics as `evaluate` calls them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

import pellucid as pl
from pellucid.metrics import METRICS
from pellucid.record import Record, Table
from pellucid.sample import Sample
from reference.samples import Samples, two
from reference.untouched import unchanged


def table(metrics: list[str], dataset: Any = None, **options: Any) -> Table:
    given = {"methods": ["evidence"], "controls": [], "batch_size": 3, **options}
    return pl.evaluate(two(), dataset or Samples(n=4), metrics=metrics, **given)


def test_an_alias_gives_the_same_records() -> None:
    own = table(["relevance_mass"])
    assert table(["activation_precision"]).records == own.records
    assert table(["activation_precision", "relevance_mass"]).records == own.records
    assert {r.metric for r in own.records} == {"relevance_mass"}
    assert list(METRICS).count("activation_precision") == 0
    assert METRICS.aliases == {"activation_precision": "relevance_mass"}
    assert METRICS["activation_precision"] is METRICS["relevance_mass"]
    with pytest.raises(KeyError):
        METRICS["activation_precison"]


def test_options_may_be_given_by_the_alias() -> None:
    with pytest.raises(pl.OptionError, match="'relevance_mass' has no option 'tolerance'"):
        table(["activation_precision"], options={"activation_precision": {"tolerance": 1}})


def test_metrics_that_explain_anew_do_so_and_leave_the_network() -> None:
    names = ["max_sensitivity", "tta_consistency", "parameter_randomisation", "efficient_parameter_randomisation"]
    net = two()
    with unchanged(net):
        found = pl.evaluate(net, Samples(n=4), methods=["evidence", "grad_cam"], metrics=names, controls=["random_map"])
    assert {(r.method, r.metric) for r in found.records} >= {(m, n) for m in ("evidence", "grad_cam") for n in names}
    assert all(r.value is not None for r in found.records if r.method == "evidence")


def test_equal_runs_give_equal_values() -> None:
    names = ["local_lipschitz", "parameter_randomisation", "top_k_precision"]
    assert table(names).records == table(names).records


def test_signs_are_compared_with_labels_on_contrast_maps() -> None:
    """Two classes are explained by their contrast, so shares of one map for both labels tell the same cells apart."""
    found = table(["sign_consistency"])
    healthy = {r.sample for r in found.records if r.part == "negative" and r.value is not None}
    assert healthy == {"s0", "s2"}
    assert all(r.value is not None for r in found.records if r.part == "")
    assert {r.status for r in found.records if r.value is None} == {"undefined"}


def test_what_a_metric_needs_is_in_its_records() -> None:
    found = table(["random_logit"])
    assert [r.status for r in found.records] == ["failed: There is no other class to draw."] * 4


@dataclass(frozen=True)
class OneOdd(Samples):
    """One of the masks is a line short."""

    odd: int = 0

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return sample if index != self.odd or sample.mask is None else replace(sample, mask=sample.mask[:-1])


def test_a_mask_of_another_size_fails_its_own_sample_only() -> None:
    whole: tuple[Record, ...] = table(["relevance_mass", "sparseness"], OneOdd(n=2, odd=-1)).records
    for odd in (0, 1):
        found: tuple[Record, ...] = table(["relevance_mass", "sparseness"], OneOdd(n=2, odd=odd)).records
        told = {r.status for r in found if (r.sample, r.metric) == (f"s{odd}", "relevance_mass")}
        assert len(told) == 1
        assert told.pop().startswith(f"failed: The mask of 's{odd}' has shape")
        others = [[r for r in t if (r.sample, r.metric) != (f"s{odd}", "relevance_mass")] for t in (found, whole)]
        assert others[0] == others[1]


def test_no_value_is_blamed_on_a_mask_that_nobody_asked_for() -> None:
    net: Any = two()
    net.model.fc.weight.data.zero_()  # maps of zeros, which have no entropy
    found = pl.evaluate(
        net, Samples(n=2, blind=(0, 1)), methods=["evidence"], metrics=["entropy", "pointing_game"], controls=[]
    )
    assert {(r.metric, r.status) for r in found.records} == {("entropy", "undefined"), ("pointing_game", "no mask")}
