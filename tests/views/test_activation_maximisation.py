from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import LayerError, OptionError, TargetError
from pellucid.models.convert import convert
from pellucid.view import Maximised
from pellucid.views.activation_maximisation import activation_maximisation
from reference.cam import error
from reference.nets import GapNet, inputs
from reference.untouched import unchanged

STILL = {"shift": 0.0, "turn": 0.0, "zoom": 0.0}


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """The product with one template per class."""

    def __init__(self, rank: int, side: int = 6) -> None:
        super().__init__()
        self.templates = nn.Parameter(torch.randn(2, 2, *(side,) * rank, generator=source(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.templates.flatten(1).T


class Finder(nn.Module):
    """How well a template fits at the place where it fits best; one class per template."""

    def __init__(self, templates: Tensor) -> None:
        super().__init__()
        self.templates = nn.Parameter(templates)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.templates, padding="same").flatten(2).amax(2)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_a_linear_networks_weights_are_found(rank: int, smooth: float) -> None:
    """w.x - d mean(x^2) is highest at x = w n / 2d, however the ascent is parametrised."""
    net = Linear(rank)
    n, decay = net.templates[0].numel(), 50.0
    found = activation_maximisation(
        net, inputs(rank, side=6), [0, 1], steps=400, rate=0.05, smooth=smooth, decay=decay, bounds=None, **STILL
    )
    best = net.templates.detach() * n / (2 * decay)
    for k in range(2):
        assert float(F.cosine_similarity(found.inputs[k].flatten(), best[k].flatten(), dim=0)) > 0.999
        assert float(found.reached[k]) == pytest.approx(float(best[k].square().sum() * 2 * decay / n), rel=0.03)
    assert error(found.reached, net(found.inputs).diagonal()) < 1e-5


def test_bounds_are_kept_and_reached(rank: int) -> None:
    net = Linear(rank)
    found = activation_maximisation(
        net, inputs(rank, side=6), 1, steps=300, rate=0.2, smooth=0.0, bounds=([-1.0, 0.0], [1.0, 3.0]), **STILL
    )
    low, high = (torch.tensor(v).view(1, 2, *(1,) * rank) for v in ([-1.0, 0.0], [1.0, 3.0]))
    assert bool((found.inputs >= low).all())
    assert bool((found.inputs <= high).all())
    weight = net.templates[1].detach()
    top = float(torch.maximum(weight * low[0], weight * high[0]).sum())
    assert 0.97 * top < float(found.reached[0]) <= top * (1 + 1e-6)


def test_a_planted_template_is_found_for_each_class() -> None:
    templates = torch.randn(2, 1, 7, 7, generator=source(0))
    net = Finder(templates)
    found = activation_maximisation(
        net,
        torch.zeros(1, 1, 20, 24),
        [1, 0],
        steps=300,
        rate=0.05,
        smooth=0.0,
        shift=0.1,
        turn=0.0,
        zoom=0.0,
        decay=20.0,
        bounds=None,
    )
    for x, wanted in zip(found.inputs, (1, 0), strict=True):
        patches = F.unfold(x[None], 7)[0].T  # every place
        likeness = F.cosine_similarity(patches[:, None], templates.flatten(1)[None], dim=2)
        assert float(likeness[:, wanted].max()) > 0.9
        assert float(likeness[:, 1 - wanted].max()) < 0.6


def test_it_climbs_above_start_and_noise(rank: int) -> None:
    net = GapNet(rank).eval()
    found = activation_maximisation(net, inputs(rank), [0, 1, 2], steps=60, rate=0.1, **STILL)
    assert bool((found.reached > found.start).all())
    assert bool((found.reached > found.noise).all())
    assert error(found.reached, net(found.inputs).diagonal()) < 1e-5
    assert found.inputs.shape == (3, 2, *(16,) * rank)


def test_noise_is_told_as_it_is() -> None:
    """A network that gives the mean: noise with the input's own mean scores the same."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).mean(1)

    found = activation_maximisation(Mean(), torch.zeros(1, 1, 4000), 1, steps=60, task="binary", bounds=None, decay=1.0)
    assert float(found.reached[0]) > 0.3
    assert float(found.noise[0]) == pytest.approx(float(found.reached[0]), abs=0.05)
    assert abs(float(found.start[0])) < 0.05


def test_a_channel_of_a_layer_is_its_mean_response(rank: int) -> None:
    net = GapNet(rank).eval()
    found = activation_maximisation(net, inputs(rank), [3, 1], layer="features.2", steps=30, rate=0.1)
    responses = net.features[:3](found.inputs).flatten(2).mean(2)
    assert error(found.reached, responses[[0, 1], [3, 1]]) < 1e-5
    assert (found.layer, found.names) == ("features.2", ("channel 3", "channel 1"))
    assert bool((found.reached > found.noise).all())
    head = activation_maximisation(net, inputs(rank), 2, layer="fc", steps=5)
    assert error(head.reached, net(head.inputs)[:, 2]) < 1e-5


def test_equal_seeds_give_equal_inputs_whoever_else_is_asked_for() -> None:
    net, like = GapNet(2).eval(), inputs(2)

    def made(*wanted: int, seed: int = 0) -> Tensor:
        generator = source(seed)
        before = generator.get_state()
        found = activation_maximisation(net, like, wanted, steps=8, generator=generator)
        assert torch.equal(generator.get_state(), before)
        return found.inputs

    assert torch.equal(made(0, 2), made(0, 2))
    assert torch.equal(made(2), made(0, 2)[1:])
    assert not torch.equal(made(0), made(0, seed=1))
    assert torch.equal(
        made(0), activation_maximisation(net, like * 7, 0, steps=8).inputs
    )  # only the shape of it counts


def test_rougher_inputs_cost_and_so_do_large_ones() -> None:
    net, like = GapNet(2).eval(), inputs(2)
    options = {"steps": 60, "smooth": 0.0, "rate": 0.1}
    plain, even, small = (
        activation_maximisation(net, like, 0, **options, **more).inputs  # type: ignore[arg-type]
        for more in ({}, {"variation": 5.0}, {"decay": 5.0})
    )
    assert float(even.diff(dim=2).abs().mean()) < 0.5 * float(plain.diff(dim=2).abs().mean())
    assert float(small.square().mean()) < 0.5 * float(plain.square().mean())


def test_colours_move_together_in_brightness() -> None:
    """The same ascent with and without colour: along Ohta's axes the three channels differ less."""

    def spread(colour: bool) -> float:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        x = activation_maximisation(net, torch.zeros(1, 3, 16, 16), 0, steps=40, colour=colour).inputs[0]
        return float((x - x.mean(0)).square().mean() / x.square().mean())

    assert spread(True) < 0.5 * spread(False)
    with pytest.raises(OptionError, match="2 channels"):
        activation_maximisation(GapNet(2), inputs(2), 0, colour=True)


def test_classes_have_names_and_a_softcam_is_excited_like_its_network() -> None:
    net = GapNet(2).eval()
    softcam = convert(net, inputs(2), classes=("apple", "pear", "plum"))
    found = pl.VIEWS["activation_maximisation"](softcam, inputs(2), "plum", steps=5)
    assert isinstance(found, Maximised)
    assert found.names == ("plum",)
    assert error(found.inputs, activation_maximisation(net, inputs(2), 2, steps=5).inputs) < 1e-5
    assert found.as_dict()["maximised"][0]["reached"] == pytest.approx(float(found.reached[0]))
    assert str(found).startswith("plum ")


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    activation_maximisation(GapNet(1).eval(), inputs(1), [0, 1], steps=2, progress=lambda *at: told.append(at))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_network_is_left_as_it_was_also_after_an_error(rank: int) -> None:
    net = GapNet(rank).train()
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    like = inputs(rank)
    with unchanged(net):
        activation_maximisation(net, like, 0, steps=2)
        with torch.inference_mode():
            activation_maximisation(net, like, 0, steps=2, layer="features.0")
        with pytest.raises(TargetError, match="no class 9"):
            activation_maximisation(net, like, 9)
        with pytest.raises(OptionError, match="no channel '9'"):
            activation_maximisation(net, like, 9, layer="features.0")
        with pytest.raises(LayerError, match="no layer"):
            activation_maximisation(net, like, 0, layer="feature.0")
        with pytest.raises(OptionError, match="3 bounds for 2 channels"):
            activation_maximisation(net, like, 0, bounds=([1, 2, 3], 4))
        with pytest.raises(OptionError, match="steps=0"):
            activation_maximisation(net, like, 0, steps=0)
        with pytest.raises(OptionError, match="nothing to maximise"):
            activation_maximisation(net, like, [])


def test_a_layer_without_channels_and_a_network_without_slope_are_refused() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.fc = nn.Flatten(2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rows(x).mean(2))

    with pytest.raises(LayerError, match="Layer 'rows' gives"):
        activation_maximisation(Tokens(), inputs(2), 0, layer="rows")

    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(2).mean(2)

    with pytest.raises(LayerError, match="does not depend on the input"):
        activation_maximisation(Cut(), inputs(2), 0)
