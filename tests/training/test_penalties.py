from __future__ import annotations

import math
from itertools import product

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
        total += {"l1": l1, "l2": l2, "l2_norm": norm, "elastic_net": 0.5 * l1 + 0.5 * l2}[name]
    return total / len(maps)


@pytest.mark.parametrize(("name", "reduction"), list(product(NAMES, ["mean", "paper_sum"])))
def test_equals_the_literal_formula(maps: Tensor, name: str, reduction: str) -> None:
    assert PENALTIES[name](maps, reduction=reduction).item() == pytest.approx(
        literal(name, maps, paper_sum=reduction == "paper_sum"), rel=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_mean_does_not_depend_on_resolution_or_order(maps: Tensor, name: str) -> None:
    value = PENALTIES[name](maps)
    finer = maps.repeat_interleave(2, -1)
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
