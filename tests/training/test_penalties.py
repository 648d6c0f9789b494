from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from pellucid.errors import OptionError
from pellucid.training import PENALTIES, penalties
from pellucid.training.config import TrainingConfig

NAMES = sorted(PENALTIES)


@pytest.fixture
def maps(rank: int) -> Tensor:
    return torch.randn(3, 2, *(4, 3, 2)[:rank], dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def literal(name: str, maps: Tensor, *, paper_sum: bool) -> float:
    """The formulas, cell by cell in plain Python."""
    total = 0.0
    for one in maps:
        cells = one.flatten().tolist()
        n = 1 if paper_sum else len(cells)
        l1 = sum(abs(a) for a in cells) / n
        l2 = sum(a * a for a in cells) / n
        norm = math.sqrt(sum(a * a for a in cells) / n)
        known = {"l1": l1, "l2": l2, "l2_norm": norm, "elastic_net": 0.5 * l1 + 0.5 * l2, "mask": l1}
        known["log_sum"] = sum(math.log(1 + abs(a) / 0.1) for a in cells) / n
        per_map = [_of_a_map(name, m, paper_sum=paper_sum) for m in one]
        total += known.get(name, sum(per_map) / (1 if paper_sum else len(per_map)))
    return total / len(maps)


def _of_a_map(name: str, one: Tensor, *, paper_sum: bool) -> float:
    cells = [abs(a) for a in one.flatten().tolist()]
    if name == "hoyer":
        spread = sum(cells) ** 2 / sum(a * a for a in cells)
        return spread if paper_sum else spread / len(cells)
    if name == "entropy":
        own = -sum(a / sum(cells) * math.log(a / sum(cells)) for a in cells)
        return own if paper_sum else own - math.log(len(cells))
    along = []
    for axis in range(one.ndim):
        lines = one.movedim(axis, -1).reshape(-1, one.shape[axis]).tolist()
        rises = [sum(abs(b - a) for a, b in pairwise(line)) for line in lines]
        along.append(sum(rises) / (1 if paper_sum else len(rises)))
    return sum(along) / (1 if paper_sum else len(along))


@pytest.mark.parametrize(("name", "reduction"), list(product(NAMES, ["mean", "paper_sum"])))
def test_equals_the_literal_formula(maps: Tensor, name: str, reduction: str) -> None:
    assert PENALTIES[name](maps, reduction=reduction).item() == pytest.approx(
        literal(name, maps, paper_sum=reduction == "paper_sum"), rel=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_mean_does_not_depend_on_resolution_or_order(maps: Tensor, name: str) -> None:
    value = PENALTIES[name](maps)
    for axis in range(2, maps.ndim):
        finer = maps.repeat_interleave(2, axis)
        assert torch.allclose(PENALTIES[name](finer), value, rtol=1e-12)
    assert torch.allclose(PENALTIES[name](maps[[2, 0, 1]]), value, rtol=1e-12)


def test_inputs_do_not_mix(maps: Tensor) -> None:
    for name in NAMES:
        alone = sum(PENALTIES[name](maps[i : i + 1]) for i in range(len(maps))) / len(maps)
        assert torch.allclose(PENALTIES[name](maps), torch.as_tensor(alone), rtol=1e-12)


def test_strengths_of_the_two_reductions(maps: Tensor) -> None:
    n = maps[0].numel()
    for name, factor in {"l1": n, "l2": n, "l2_norm": math.sqrt(n)}.items():
        strength = 5e-5
        assert (strength * factor * PENALTIES[name](maps)).item() == pytest.approx(
            (strength * PENALTIES[name](maps, reduction="paper_sum")).item(), rel=1e-12
        )


def test_published_strengths_in_mean_units() -> None:
    """The table of the SoftCAM authors' strengths at 2 classes and 16 x 16 cells."""
    maps = torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for paper, mean in [(5e-5, 0.0256), (9e-4, 0.461), (1e-6, 5.1e-4), (3e-6, 1.5e-3)]:
        assert (paper * penalties.l1(maps, reduction="paper_sum") / penalties.l1(maps)).item() == pytest.approx(
            mean, rel=3e-2
        )
    for paper, rms in [(7e-5, 1.6e-3), (2e-4, 4.5e-3), (4e-5, 9.1e-4)]:
        assert (
            paper * penalties.l2_norm(maps, reduction="paper_sum") / penalties.l2_norm(maps)
        ).item() == pytest.approx(rms, rel=3e-2)


def test_paper_code_is_the_published_loss() -> None:
    A = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    l1, l2 = torch.norm(A[0], 1), torch.norm(A[0], 2)
    labels = torch.zeros(5, dtype=torch.long)
    for name, expected in {"l1": l1, "l2": l2, "l2_norm": l2, "elastic_net": 0.3 * l1 + 0.7 * l2}.items():
        config = TrainingConfig(penalty=name, compat="paper-code", l1_share=0.3)
        torch.testing.assert_close(penalties.of_config(config, A, labels), expected)


def test_norm_of_an_empty_map_has_a_gradient() -> None:
    A = torch.zeros(2, 2, 3, requires_grad=True)
    penalties.l2_norm(A).backward()
    assert A.grad is not None
    assert torch.equal(A.grad, torch.zeros_like(A))


def test_target_and_contrast_maps() -> None:
    maps = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([2, 0, 1, 1])
    target = penalties.penalised(maps, labels, "target")
    contrast = penalties.penalised(maps, labels, "contrast")
    for i, k in enumerate(labels.tolist()):
        others = [maps[i, c] for c in range(3) if c != k]
        torch.testing.assert_close(target[i, 0], maps[i, k])
        torch.testing.assert_close(contrast[i, 0], maps[i, k] - (others[0] + others[1]) / 2)
    torch.testing.assert_close(
        penalties.penalised(maps + torch.randn(4, 1, 5), labels, "contrast"),
        contrast,
        msg="a map common to all classes must not count",
    )


def test_contrast_of_two_classes_is_the_log_odds_map() -> None:
    maps = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(4))
    contrast = penalties.penalised(maps, torch.tensor([1, 0]), "contrast")
    torch.testing.assert_close(contrast[:, 0], torch.stack([maps[0, 1] - maps[0, 0], maps[1, 0] - maps[1, 1]]))


def test_several_labels() -> None:
    maps = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(5), requires_grad=True)
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    torch.testing.assert_close(penalties.penalised(maps, labels, "target"), maps[0, [0, 2]].unsqueeze(1))
    with pytest.raises(OptionError, match="no contrast"):
        penalties.penalised(maps, labels, "contrast")
    nothing = penalties.of_config(TrainingConfig(penalty="l1", penalty_classes="target"), maps[1:], labels[1:])
    nothing.backward()
    assert nothing.item() == 0
    assert maps.grad is not None
    assert torch.equal(maps.grad, torch.zeros_like(maps))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", ["all", "target", "contrast"])
def test_the_order_in_the_batch_does_not_count(name: str, classes: str) -> None:
    """With masks too, of which one sample has none: it does not count."""
    chance = torch.Generator().manual_seed(7)
    maps = torch.randn(5, 3, 4, 4, generator=chance, dtype=torch.float64)
    labels, inside = torch.tensor([0, 2, 1, 1, 0]), torch.rand(5, 4, 4, generator=chance) > 0.7
    inside[3] = False
    config = TrainingConfig(penalty=name, strength=1, penalty_classes=classes)
    given = inside if name == "mask" else None
    value = penalties.of_config(config, maps, labels, given)
    order = torch.tensor([4, 1, 0, 3, 2])
    moved = penalties.of_config(config, maps[order], labels[order], None if given is None else given[order])
    torch.testing.assert_close(moved, value, rtol=1e-12, atol=0)
    if given is not None:
        rows = [0, 1, 2, 4]
        cells = penalties.penalised(maps, labels, classes)[rows].abs() * ~inside[rows].unsqueeze(1)
        torch.testing.assert_close(value, cells.mean(), rtol=1e-12, atol=0)
        assert penalties.counted(config, labels, inside, exclusive=True) == 4


@pytest.mark.parametrize("name", NAMES)
def test_extreme_maps_have_a_value_and_gradients(name: str) -> None:
    for maps in (torch.zeros(2, 2, 3, 3), torch.full((2, 2, 3, 3), 1e15), torch.eye(3).expand(2, 2, 3, 3)):
        leaf = maps.clone().requires_grad_()
        value = PENALTIES[name](leaf)
        value.backward()
        assert torch.isfinite(value)
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_maps_in_bf16_are_added_up_in_float32() -> None:
    maps = torch.full((1, 2, 64, 64), 1.01, dtype=torch.bfloat16)
    value = penalties.of_config(TrainingConfig(penalty="l1"), maps, torch.tensor([0]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(float(maps[0, 0, 0, 0]), rel=1e-6)


def gini(maps: Tensor) -> float:
    """Mean difference of any two cells, over twice their mean."""
    size = maps.abs()
    return float((size[:, None] - size[None]).abs().mean() / (2 * size.mean()))


def toy_map(name: str, strength: float) -> tuple[float, float, int]:
    """256 free cells, 12 of them hot at the start, under softplus(-mean) + strength * penalty: the logit, the Gini
    coefficient, and the cells above 5 % of the largest, after gradient descent.
    """
    cells = torch.randn(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cells[:12] += 3
    for _ in range(800):
        cells = cells.detach().requires_grad_()
        loss = torch.nn.functional.softplus(-cells.mean())
        if name != "none":
            loss = loss + strength * PENALTIES[name](cells.view(1, 1, 256))
        cells = cells - 18.75 * torch.autograd.grad(loss, cells)[0]
    cells = cells.detach()
    return float(cells.mean()), gini(cells), int((cells.abs() > 0.05 * cells.abs().max()).sum())


@pytest.mark.parametrize(
    ("name", "strength", "logit", "sparseness", "cells"),
    [
        ("none", 0, 4.05, 0.156, 256),
        ("l1", 0.05, 2.88, 0.193, 256),
        ("l1", 0.2, 1.39, 0.321, 256),
        ("l2", 0.01, 2.80, 0.068, 256),
        ("l2", 0.05, 1.63, 0.001, 256),
        ("log_sum", 0.1 / 3, 3.58, 0.352, 193),
        ("log_sum", 0.2 / 3, 3.20, 0.526, 134),
    ],
)
def test_which_penalties_concentrate_evidence(
    name: str, strength: float, logit: float, sparseness: float, cells: int
) -> None:
    """The published figures, from other starts: l1 keeps all cells, l2 evens them out, log-sum empties cells."""
    found = toy_map(name, strength)
    seeking = name == "log_sum"
    assert found[0] == pytest.approx(logit, abs=0.1)
    assert found[1] == pytest.approx(sparseness, abs=0.07 if seeking else 0.02)
    assert found[2] == pytest.approx(cells, abs=25 if seeking else 2)


@pytest.mark.parametrize(("name", "strength"), [("hoyer", 0.5), ("entropy", 0.2)])
def test_other_penalties_that_empty_cells(name: str, strength: float) -> None:
    """At a logit that l1 pays for with no cell emptied, these empty more than half."""
    logit, sparseness, cells = toy_map(name, strength)
    assert 2.3 < logit < 3.0
    assert sparseness > 0.6
    assert cells < 128


def test_total_variation_evens_the_map_out_at_no_loss_of_the_logit() -> None:
    plain, smooth = toy_map("none", 0), toy_map("total_variation", 0.001)
    assert smooth[0] == pytest.approx(plain[0], abs=0.01)
    assert smooth[1] < plain[1] / 2


def test_where_l1_is_blind() -> None:
    """Of evidence of one sign l1 sees the mean alone; l2 prefers the even map, the others the single cell."""
    even, single = torch.full((1, 1, 16), 1.0), torch.zeros(1, 1, 16)
    single[..., 3] = 16.0
    found = {name: float(PENALTIES[name](single) - PENALTIES[name](even)) for name in NAMES}
    assert found["l1"] == pytest.approx(0, abs=1e-6)
    assert all(found[name] < 0 for name in ("log_sum", "hoyer", "entropy"))
    assert all(found[name] > 0 for name in ("l2", "l2_norm", "elastic_net"))
