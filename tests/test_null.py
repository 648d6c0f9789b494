"""Under the null hypothesis p-values are uniform; what is planted is found; the surrogates keep what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.chance import SURROGATES, Null, patches, phases, pixels
from pellucid.errors import OptionError

SIDES = {1: (48,), 2: (16, 16), 3: (8, 9, 8)}


class Net(nn.Module):
    """Two convolutions, the mean over places, a linear head; any rank. width: of the first kernel."""

    def __init__(self, rank: int, width: int = 3, channels: int = 2, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.features = nn.Sequential(conv(channels, 6, width, padding=width // 2), nn.ReLU(), conv(6, 5, 1), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(2).mean(2))


def noise(count: int, rank: int, seed: int = 0, channels: int = 2) -> Tensor:
    return torch.randn(count, channels, *SIDES[rank], generator=torch.Generator().manual_seed(seed))


def null_of(*given: Any, **options: Any) -> Null:
    found = pl.against_null(*given, **options).null
    assert found is not None
    return found


def distance_from_uniform(p: Tensor) -> float:
    """Kolmogorov's distance between p-values and the uniform distribution on 1/n, 2/n, ..., 1, at these points."""
    values = np.sort(p.numpy())
    atoms = np.unique(values)
    return float(np.max(np.abs(np.searchsorted(values, atoms, side="right") / len(values) - atoms)))


# --- the hypothesis ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(SURROGATES))
@pytest.mark.parametrize("target", [1, None])
def test_p_values_are_uniform_for_inputs_that_are_noise(kind: str, target: int | None) -> None:
    """White noise does not change its law when places are shuffled or phases turned; each input has draws of its own."""
    net, x = Net(2).eval(), noise(150, 2)
    null = [null_of(net, x[i : i + 1], target, kind=kind, draws=19, seed=i, batch_size=32) for i in range(len(x))]
    for name in ("strongest", "positive"):
        p = torch.cat([n.p_values()[name] for n in null])
        assert len(p) == len(x)
        assert distance_from_uniform(p) < 1.63 / len(x) ** 0.5  # the 1 % point
        assert float((p <= 0.05).double().mean()) < 0.12


def test_phases_are_uniform_also_for_noise_of_any_colour() -> None:
    net, x = Net(2).eval(), noise(150, 2)
    smooth = torch.fft.irfft2(torch.fft.rfft2(x) * torch.rand(16, 9, generator=torch.Generator().manual_seed(1)) ** 3)
    null = [null_of(net, smooth[i : i + 1], 0, draws=19, seed=i, batch_size=32) for i in range(len(x))]
    p = torch.cat([n.p_values()["strongest"] for n in null])
    assert distance_from_uniform(p) < 1.63 / len(x) ** 0.5


def test_p_values_against_references_are_uniform_for_one_more_of_them() -> None:
    net, x = Net(2).eval(), noise(150, 2)
    p = [
        null_of(net, x[i : i + 1], 1, reference=noise(19, 2, seed=1000 + i)).p_values()["positive"] for i in range(150)
    ]
    assert distance_from_uniform(torch.cat(p)) < 1.63 / len(x) ** 0.5


def test_references_are_explained_as_they_are_for_all_inputs() -> None:
    net, x, healthy = Net(2).eval(), noise(3, 2), noise(20, 2, seed=9)
    e = pl.against_null(net, x, 2, reference=healthy, batch_size=7)
    assert e.null is not None
    cells = pl.explain(net, healthy, 2).map.double().flatten(1)
    for i in range(3):
        torch.testing.assert_close(e.null.strongest[i, 1:], cells.abs().amax(1))
        torch.testing.assert_close(e.null.positive[i, 1:], cells.clamp_min(0).sum(1))
    assert "what 20 reference inputs give" in e[1].text()


def detector(rank: int) -> Net:
    """Cells are 0 up to a threshold and grow beyond it; class 1 takes them as they are."""
    net = Net(rank, width=1, channels=1).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.features[0].weight[0], net.features[0].bias[0] = 1.0, -2.0  # type: ignore[index, operator]
        net.features[2].weight[0, 0] = 1.0  # type: ignore[index]
        net.head.weight[1, 0] = 1.0
    return net


@pytest.mark.parametrize("method", ["cam", "grad_cam", "layer_cam", "occlusion"])
def test_a_planted_lesion_has_the_smallest_p_value(rank: int, method: str) -> None:
    x = noise(2, rank, channels=1)
    x[0].flatten()[x[0].numel() // 2] += 30
    e = pl.against_null(detector(rank), x, 1, method=method, draws=39)
    assert e.null is not None
    p = e.null.p_values()
    assert float(p["strongest"][0]) == pytest.approx(1 / 40)
    assert float(e.null.strongest[0, 0]) > float(e.null.limits()["strongest"][0])
    assert "beyond what 39 random-phase inputs give" in e[0].text()


def test_what_fits_into_a_patch_is_as_large_wherever_the_patch_lies() -> None:
    x = noise(1, 2, channels=1)
    x[0, 0, 8, 8] += 30
    e = pl.against_null(detector(2), x, 1, kind="patches", draws=19)
    assert e.null is not None
    assert e.null.p_values() == {"strongest": torch.ones(1), "positive": torch.ones(1)}
    assert "within what 19 inputs with shuffled patches give" in e.text()


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_p_values_and_limits_by_hand() -> None:
    drawn = torch.arange(1.0, 20.0)  # 1 to 19
    columns = torch.stack([torch.cat([torch.tensor([seen]), drawn]) for seen in (100.0, 19.0, 10.0, 0.0)]).double()
    null = Null("phases", columns, columns / 2)
    assert null.draws == 19
    assert null.p_values()["strongest"].tolist() == pytest.approx([1 / 20, 2 / 20, 11 / 20, 1.0])
    assert null.limits()["strongest"].tolist() == [19.0] * 4
    assert null.limits(0.5)["positive"].tolist() == [5.0] * 4  # the tenth of nineteen, halved
    assert null.as_dict(1)["p_value"] == {"strongest": pytest.approx(0.1), "positive": pytest.approx(0.1)}


def test_sizes_are_those_of_the_maps(rank: int) -> None:
    net, x = Net(rank).eval(), noise(3, rank)
    e = pl.against_null(net, x, 2, kind="pixels", draws=19, seed=5, batch_size=7)
    assert e.null is not None
    plain = pl.explain(net, x, 2)
    assert torch.equal(e.map, plain.map)
    torch.testing.assert_close(e.null.strongest[:, 0], plain.map.double().flatten(1).abs().amax(1))
    torch.testing.assert_close(e.null.positive[:, 0], plain.map.double().flatten(1).clamp_min(0).sum(1))
    generator = torch.Generator().manual_seed(5 ^ 0x6E756C6C)
    for k in range(1, 20):
        cells = pl.explain(net, pixels(x, generator), 2).map.double().flatten(1)
        torch.testing.assert_close(e.null.strongest[:, k], cells.abs().amax(1))
        torch.testing.assert_close(e.null.positive[:, k], cells.clamp_min(0).sum(1))


def test_a_seed_gives_the_same_alone_and_in_a_batch_of_any_size() -> None:
    net, x = Net(2).eval(), noise(3, 2)
    whole = null_of(net, x, [0, 1, 2], draws=21, batch_size=64)
    small = null_of(net, x, [0, 1, 2], draws=21, batch_size=2)
    alone = null_of(net, x[1:2], 1, draws=21)
    other = null_of(net, x, [0, 1, 2], draws=21, seed=1)
    torch.testing.assert_close(whole.strongest, small.strongest)
    torch.testing.assert_close(whole.positive[1:2], alone.positive)
    assert not torch.equal(whole.strongest[:, 1:], other.strongest[:, 1:])
    more = null_of(net, x[1:2], 1, draws=40)
    torch.testing.assert_close(more.strongest[:, :22], alone.strongest)


def test_other_inputs_follow_their_rows() -> None:
    class Scaled(Net):
        def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
            return super().forward(x) * (1 if factor is None else factor[:, None])

    net, x, factor = Scaled(2).eval(), noise(2, 2), torch.tensor([1.0, -3.0])
    both = null_of(net, x, 0, draws=19, method="grad_cam", args=(factor,))
    second = null_of(net, x[1:], 0, draws=19, method="grad_cam", args=(factor[1:],))
    torch.testing.assert_close(both.strongest[1:], second.strongest)


def test_the_network_and_the_chance_of_others_are_left_as_they_were() -> None:
    net, x = Net(2).train(), noise(2, 2)
    x.requires_grad_()
    before, state = torch.random.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    pl.against_null(net, x, draws=19, method="smooth_grad", samples=2)
    assert net.training
    assert x.grad is None
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_it_is_kept_picked_and_told(tmp_path: Path) -> None:
    e = pl.against_null(Net(2).eval(), noise(3, 2), 0, draws=19)
    assert e.null is not None
    back = pl.Explanation.load(e.save(tmp_path / "e"))
    assert back.null is not None
    assert back.null.kind == "phases"
    torch.testing.assert_close(back.null.strongest.double(), e.null.strongest, atol=1e-6, rtol=1e-6)
    one = e[2]
    assert one.null is not None
    assert torch.equal(one.null.positive, e.null.positive[2:])
    assert "what 19 random-phase inputs give" in one.text()
    assert pl.Explanation.load(pl.explain(Net(2).eval(), noise(1, 2), 0).save(tmp_path / "f")).null is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 5}, "5 draws are too few"),
        ({"reference": noise(18, 2)}, "18 draws are too few"),
        ({"kind": "phase"}, "Did you mean 'phases'"),
        ({"target": pl.SeveralTargets()}, "one target at a time"),
        ({"method": "grad_kam"}, "grad_cam"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        pl.against_null(Net(2).eval(), noise(1, 2), **options)  # type: ignore[arg-type]
    assert words in str(caught.value)


# --- the surrogates ---------------------------------------------------------------------------------------------------


def test_phases_keep_the_spectrum_and_what_channels_share(rank: int) -> None:
    x = noise(2, rank, seed=3).double() + 5
    found = phases(x, torch.Generator().manual_seed(0))
    axes = tuple(range(2, x.ndim))
    before, after = (torch.fft.fftn(v, dim=axes) for v in (x, found))
    torch.testing.assert_close(after.abs(), before.abs())
    torch.testing.assert_close(after[:, 0] * after[:, 1].conj(), before[:, 0] * before[:, 1].conj())
    torch.testing.assert_close(found.flatten(2).mean(2), x.flatten(2).mean(2))
    assert float((found - x).abs().max()) > 1
    assert phases(x.half(), torch.Generator()).dtype == torch.float16


def test_pixels_keep_every_sample_with_its_channels(rank: int) -> None:
    x = noise(2, rank)
    found = pixels(x, torch.Generator().manual_seed(0))
    assert found.shape == x.shape
    for a, b in zip(x.flatten(2), found.flatten(2), strict=True):
        assert sorted(map(tuple, a.T.tolist())) == sorted(map(tuple, b.T.tolist()))
    assert not torch.equal(found, x)


def test_patches_move_whole_and_the_rest_stays() -> None:
    x = torch.arange(18.0 * 17).view(1, 1, 18, 17)  # patches of 2 x 2: nine by eight, and one column that stays
    found = patches(x, torch.Generator().manual_seed(0))[0, 0]
    assert torch.equal(found[:, 16], x[0, 0, :, 16])

    def cut(image: Tensor) -> list[list[float]]:
        return sorted(image[:, :16].unfold(0, 2, 2).unfold(1, 2, 2).reshape(-1, 4).tolist())

    assert cut(found) == cut(x[0, 0])
    assert not torch.equal(found, x[0, 0])
