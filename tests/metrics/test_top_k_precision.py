from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from pellucid.errors import OptionError
from pellucid.metrics.top_k_precision import top_k_precision


def found(pixels: Tensor, mask: Tensor, seed: int = 0, **options: int) -> dict[str, Tensor]:
    return top_k_precision(pixels, mask, torch.Generator().manual_seed(seed), **options)


def literal(pixels: Tensor, mask: Tensor, k: int, patch: int, stride: int, apart: int) -> tuple[float, float]:
    """One image, patch by patch; without ties."""
    patches = []
    for corner in product(*([*range(0, n - patch, stride), n - patch] for n in pixels.shape)):
        window = tuple(slice(c, c + patch) for c in corner)
        patches.append((float(pixels[window].clamp_min(0).mean()), corner, bool(mask[window].any())))
    chosen: list[tuple[tuple[int, ...], bool]] = []
    for strength, corner, hit in sorted(patches, reverse=True):
        far = all(max(abs(a - b) for a, b in zip(corner, c, strict=True)) >= apart for c, _ in chosen)
        if strength > 0 and far and len(chosen) < k:
            chosen.append((corner, hit))
    curve = [sum(h for _, h in chosen[:n]) / max(1, min(n, len(chosen))) for n in range(1, k + 1)]
    mean = sum(curve) / k
    return mean, mean / (sum(h for *_, h in patches) / len(patches))


@pytest.mark.parametrize(("k", "patch", "stride", "apart"), [(29, 1, 1, 1), (5, 3, 2, 3), (4, 4, 1, 2), (40, 2, 3, 1)])
def test_equals_a_literal_search(rank: int, k: int, patch: int, stride: int, apart: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, *(9,) * rank, generator=generator).double()
    mask = torch.rand(pixels.shape, generator=generator) < 0.1
    mask[(slice(None), *(4,) * rank)] = True
    values = found(pixels, mask, k=k, patch=patch, stride=stride, apart=apart)
    for i in range(3):
        precision, over = literal(pixels[i], mask[i], k, patch, stride, apart)
        assert float(values[""][i]) == pytest.approx(precision)
        assert float(values["over_base"][i]) == pytest.approx(over)


def test_the_papers_geometry_at_512() -> None:
    """Left to itself, an input of 512 has 60 by 60 patches of 33 at 8, and one more on each axis to reach its end."""
    mask = torch.zeros(1, 512, 512, dtype=torch.bool)
    mask[0, 260, 260] = True
    touched = sum(c <= 260 < c + 33 for c in (*range(0, 480, 8), 479)) ** 2
    values = found(mask.double(), mask, k=1)
    assert values[""].tolist() == [1]
    assert values["over_base"].tolist() == pytest.approx([61**2 / touched])


def test_no_sample_is_out_of_reach() -> None:
    """Three patches of 2 at 3 leave the last of nine samples out, unless the last patch ends with the input."""
    mask = torch.zeros(1, 9, dtype=torch.bool)
    mask[0, 8] = True
    assert found(mask.double(), mask, patch=2, stride=3)[""].tolist() == [1]


def test_rows_and_columns_are_not_confused_and_nothing_wraps_round() -> None:
    """A spot at the right edge of row 2 suppresses its neighbours only, not the left edge of row 3."""
    pixels = torch.zeros(1, 8, 8)
    pixels[0, 2, 7], pixels[0, 3, 0] = 2, 1
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2, 7] = True
    values = found(pixels, mask, k=2, patch=1, stride=1, apart=3)
    assert values[""].tolist() == [(1 + 1 / 2) / 2]
    assert found(pixels, mask.transpose(1, 2), k=2, patch=1, stride=1, apart=3)[""].tolist() == [0]


def test_every_sample_of_a_patch_counts() -> None:
    """Reading one sample per patch would miss what lies between: the mean does not."""
    pixels = torch.zeros(1, 8, 8)
    pixels[0, 5, 5], pixels[0, 0, 0] = 3, 1
    mask = pixels > 2
    assert found(pixels, mask, k=1, patch=4, stride=4)[""].tolist() == [1]


def test_equal_patches_are_taken_in_random_order() -> None:
    """A flat map scores what chance gives, on average over draws, and the same for every input of a batch."""
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, :2] = True
    drawn = [found(torch.ones(2, 8, 8), mask, seed, k=3, patch=1, stride=1)[""] for seed in range(200)]
    assert all(float(d[0]) == float(d[1]) for d in drawn)
    assert float(torch.stack(drawn).mean()) == pytest.approx(0.25, abs=0.05)


def test_nothing_positive_scores_zero() -> None:
    assert found(-torch.ones(1, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool))[""].tolist() == [0]


@pytest.mark.parametrize("options", [{"k": 0}, {"patch": 9}, {"stride": 0}, {"apart": 0}])
def test_options_that_do_not_fit_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="do not fit"):
        found(torch.ones(1, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool), **options)
