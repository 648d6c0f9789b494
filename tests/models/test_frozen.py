"""Kind exact_at_this_image: cells and constant against formulas written out, against exact evidence, against HiResCAM."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import ConversionError, OptionError
from pellucid.models import head as heads
from pellucid.models.capture import CapturePoint
from pellucid.models.convert import convert
from pellucid.models.frozen import Unfreezable, following
from pellucid.models.s8 import S8
from pellucid.models.softcam import SoftCAM
from reference.odd_nets import Wired, roused, trunk


def shares(net: nn.Module, layer: str, x: Tensor, axis: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Rows per cell, the constant, and the network's own output."""
    with following(net, CapturePoint("output", layer), axis) as followed:
        y = net(x)
    return *followed.cells(y), y


class Tail(nn.Module):
    """A feature map that is given, and a function of it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.map = nn.Identity()
        self.function = function

    def forward(self, z: Tensor) -> Tensor:
        return self.function(self.map(z))


generator = torch.Generator().manual_seed(0)
Z = 3 * torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64)
W = torch.randn(5, 4, generator=generator, dtype=torch.float64)
B = torch.randn(5, generator=generator, dtype=torch.float64)
V = torch.randn(3, 5, generator=generator, dtype=torch.float64)
GAMMA, BETA = (torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(2))
TOKENS = torch.randn(6, 6, generator=generator, dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-11)


def test_layer_norm_after_pooling_by_its_formula() -> None:
    """science.md: A(h,w) = W [gamma (z - mean z) / sigma], sigma of the pooled vector; beta and bias are the constant."""
    rows, constant, y = shares(
        Tail(lambda z: F.linear(F.layer_norm(z.mean((2, 3)), (4,), GAMMA, BETA, 1e-6), W, B)), "map", Z
    )
    pooled = Z.mean((2, 3))
    sigma = (pooled.var(1, unbiased=False) + 1e-6).sqrt()
    for image in range(2):
        for cell in range(9):
            z = Z[image].flatten(1)[:, cell] / 9
            expected = W @ (GAMMA * (z - z.mean()) / sigma[image])
            assert close(rows[cell, image], expected)
    assert close(constant, (W @ BETA + B).expand(2, 5))
    assert close(rows.sum(0) + constant, y)


def test_mobilenets_hardswish_by_its_formula() -> None:
    """u = W1 mean(z) + b1, g = relu6(u + 3) / 6, A = W2 diag(g) W1 z, constant = W2 (g * b1) + b2."""
    rows, constant, y = shares(Tail(lambda z: F.linear(F.hardswish(F.linear(z.mean((2, 3)), W, B)), V)), "map", Z)
    g = F.relu6(F.linear(Z.mean((2, 3)), W, B) + 3) / 6
    for image in range(2):
        for cell in range(9):
            assert close(rows[cell, image], V @ (g[image] * (W @ Z[image].flatten(1)[:, cell] / 9)))
        assert close(constant[image], V @ (g[image] * B))
    assert close(rows.sum(0) + constant, y)


def test_a_flattened_relu_head_is_hirescam() -> None:
    """Piecewise linear heads: gradient times activation (Draelos and Carin 2020), and the bias path is the constant."""
    first, second = nn.Linear(36, 7).double(), nn.Linear(7, 3).double()
    net = Tail(lambda z: second(F.relu(first(z.flatten(1)))))
    rows, constant, y = shares(net, "map", Z)
    given = Z.clone().requires_grad_()
    out = second(F.relu(first(given.flatten(1))))
    for c in range(3):
        (gradient,) = torch.autograd.grad(out[:, c].sum(), given, retain_graph=True)
        assert close(rows[:, :, c].T, (gradient * Z).sum(1).flatten(1))
    mask = (first(Z.flatten(1)) > 0).double()
    assert close(constant, F.linear(mask * first.bias, second.weight, second.bias))
    assert close(rows.sum(0) + constant, y)


def test_a_dropout_between_flatten_and_linear_layer() -> None:
    layer = nn.Linear(36, 3).double()
    rows, constant, y = shares(Tail(lambda z: layer(F.dropout(z.flatten(1), 0.5, training=False))), "map", Z)
    assert close(rows.sum(0) + constant, y)
    torch.manual_seed(0)
    rows, constant, y = shares(Tail(lambda z: layer(F.dropout(z.flatten(1), 0.5, training=True))), "map", Z)
    assert close(rows.sum(0) + constant, y)


def test_generalised_mean_by_its_formula() -> None:
    """GeM: z^p m^(1/p - 1) / n with m = mean(z^p)."""
    z = Z.abs() + 0.1
    rows, constant, y = shares(Tail(lambda t: F.linear(t.pow(3).mean((2, 3)).pow(1 / 3), W)), "map", z)
    m = z.pow(3).mean((2, 3), keepdim=True)
    each = (z.pow(3) * m.pow(1 / 3 - 1) / 9).flatten(2)
    assert close(rows, torch.einsum("kc,bcp->pbk", W, each))
    assert constant.abs().max() == 0
    assert close(rows.sum(0), y)


@pytest.mark.parametrize(
    "pool",
    [
        lambda z: z.amax((2, 3)),
        lambda z: F.adaptive_max_pool2d(z, 1).flatten(1),
        lambda z: F.max_pool2d(z, 3).flatten(1),
    ],
)
def test_a_maximum_belongs_to_its_winner(pool: Any) -> None:
    rows, constant, y = shares(Tail(lambda z: F.linear(pool(z), W, B)), "map", Z)
    winner = Z.flatten(2).argmax(2)
    for image in range(2):
        for cell in range(9):
            assert close(rows[cell, image], W @ (Z[image].flatten(1)[:, cell] * (winner[image] == cell)))
    assert close(rows.sum(0) + constant, y)


def test_log_sum_exp_has_its_entropy_as_constant() -> None:
    rows, constant, y = shares(Tail(lambda z: torch.logsumexp(z.flatten(2), 2)), "map", Z)
    weight = Z.flatten(2).softmax(2)
    assert close(rows.permute(1, 2, 0), weight * Z.flatten(2))
    assert close(constant, -(weight * weight.log()).sum(2))
    assert close(rows.sum(0) + constant, y)


def test_attention_weights_are_held() -> None:
    """A latent query pools the tokens: cell k gives softmax_k v_k; keys shape the weights, which are gates."""
    z = Z.flatten(2).mT

    def tail(t: Tensor) -> Tensor:
        query = TOKENS[:1, :4].expand(2, 1, 4)
        return F.scaled_dot_product_attention(query, t @ TOKENS[:4, :4], t @ TOKENS[2:, :3])[:, 0]

    rows, constant, y = shares(Tail(tail), "map", z, axis=-1)
    weight = (TOKENS[:1, :4] @ (z @ TOKENS[:4, :4]).mT / 2).softmax(-1)[:, 0]
    assert close(rows.permute(1, 0, 2), weight[..., None] * (z @ TOKENS[2:, :3]))
    assert constant.abs().max() == 0
    assert close(rows.sum(0), y)


HEADS: dict[str, Any] = {
    "rms_norm": lambda z: F.linear(F.rms_norm(z.mean((2, 3)), (4,), GAMMA, 1e-6), W, B),
    "rms_norm_written_out": lambda z: (lambda p: p * torch.rsqrt(p.pow(2).mean(1, keepdim=True) + 1e-6) * GAMMA)(z.mean((2, 3))),
    "group_norm": lambda z: F.group_norm(z.mean((2, 3), keepdim=True), 2, GAMMA, BETA).flatten(1),
    "group_norm_over_places": lambda z: F.group_norm(z, 2, GAMMA, BETA).mean((2, 3)),
    "batch_norm": lambda z: F.batch_norm(z.mean((2, 3)), GAMMA, GAMMA**2, BETA, GAMMA).relu(),
    "batch_norm_of_the_batch": lambda z: F.batch_norm(z.mean((2, 3)), None, None, BETA, GAMMA, True),
    "normalize": lambda z: F.linear(F.normalize(z.mean((2, 3))), W),
    "silu_by_hand": lambda z: (lambda p: p * p.sigmoid())(z.mean((2, 3))),
    "in_place": lambda z: F.relu(z.mean((2, 3)).add_(BETA), inplace=True).mul_(2),
    "residual": lambda z: (lambda p: p + F.linear(F.gelu(F.linear(p, W, B)), W.T))(z.mean((2, 3))),
    "concatenated": lambda z: F.linear(torch.cat([z.mean((2, 3)), z.amax((2, 3))], 1), torch.cat([W, W], 1), B).tanh(),
    "stacked": lambda z: torch.stack([z.mean((2, 3)), z.amax((2, 3))]).sum(0),
    "clamped": lambda z: z.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3),
    "softplus": lambda z: F.softplus(F.linear(z.mean((2, 3)), W, B)),
    "one_minus": lambda z: 1 - z.mean((2, 3)).relu(),
    "channels_last": lambda z: F.layer_norm(z.permute(0, 2, 3, 1), (4,), GAMMA, BETA).mean((1, 2)),
    "tokens": lambda z: F.linear(F.layer_norm(z.flatten(2).transpose(1, 2), (4,)), W, B).mean(1),
    "pointwise_convolution": lambda z: F.conv2d(F.hardswish(F.conv2d(z.mean((2, 3), keepdim=True), W[:, :, None, None], B)), V[:, :, None, None]).flatten(1),
    "wide_convolution": lambda z: F.conv2d(z, W[:, :, None, None].expand(5, 4, 2, 2), B, padding=1).relu().mean((2, 3)),
    "two_by_two": lambda z: F.linear(F.adaptive_avg_pool2d(z, 2).flatten(1), torch.cat([W] * 4, 1), B).relu(),
    "largest_three": lambda z: z.flatten(2).topk(3, dim=2).values.mean(2),
    "chunks": lambda z: (lambda a, b: a * b.sigmoid())(*z.mean((2, 3)).chunk(2, 1)),
    "einsum": lambda z: torch.einsum("bc,kc->bk", z.mean((2, 3)), W).abs(),
    "gated_attention": lambda z: (z.flatten(2) * torch.einsum("c,bcp->bp", GAMMA, z.flatten(2).tanh()).softmax(1)[:, None]).sum(2),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_cells_and_constant_add_up(name: str) -> None:
    """Also on large and on tiny features; and some share is the cells'."""
    for scale in (1.0, 50.0, 1e-6):
        rows, constant, y = shares(Tail(HEADS[name]), "map", scale * Z)
        assert float((rows.sum(0) + constant - y).abs().max()) <= 1e-12 * max(1.0, float(y.abs().max()))
        assert float(rows.abs().max()) > 0
        assert rows.shape == (9, *y.shape)


@pytest.mark.parametrize("name", ["residual", "rms_norm", "tokens", "gated_attention"])
def test_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    together, alone = shares(Tail(HEADS[name]), "map", Z), shares(Tail(HEADS[name]), "map", Z[1:])
    assert close(together[0][:, 1:], alone[0])
    assert close(together[1][1:], alone[1])


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (lambda z: z.mean((2, 3)) * z.amax((2, 3)), "multiplied"),
        (lambda z: torch.cumprod(z.mean((2, 3)), 1), "no rule for cumprod"),
        (lambda z: z.mean((2, 3)).softmax(1), "no cell reaches"),
    ],
)
def test_what_cannot_be_held_is_said(tail: Any, words: str) -> None:
    with pytest.raises(Unfreezable, match=words):
        shares(Tail(tail), "map", Z)


def test_a_straight_head_gives_exact_evidence(rank: int) -> None:
    """The mechanism for heads that bend, forced upon one that does not: the same maps, and the head's bias."""
    net = roused(S8(2, 3, rank=rank, channels=(4, 8), strides=(2, 2)).eval()).double()
    x = torch.randn(2, 2, *(16,) * rank, dtype=torch.float64)
    exact, held = convert(net, x), convert(net, x, kind="exact_at_this_image")
    assert (exact.certificate.kind, held.certificate.kind) == ("exact", "exact_at_this_image")
    a, b = exact.evidence(x), held.evidence(x)
    assert close(a.maps, b.maps)
    assert close(a.bias.expand(2, -1), b.bias)
    assert a.geometry == b.geometry


# ---- whole networks


def bent(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.act(net.first(net.trunk(x).mean((2, 3)))))


def network_with(act: nn.Module) -> Wired:
    return roused(Wired(bent, fc=nn.Linear(6, 3), act=act, first=nn.Linear(8, 6)).eval())  # type: ignore[return-value]


X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_bent_head_is_converted_at_this_image_and_says_so() -> None:
    softcam = convert(network_with(nn.Hardswish()), X)
    certificate = softcam.certificate
    assert certificate.kind == "exact_at_this_image"
    assert certificate.head_error < 1e-12
    assert certificate.cells_share > 0
    assert certificate.constant_share is not None
    seen = softcam.evidence(X)
    assert seen.bias.shape == (2, 3)
    assert torch.allclose(seen.maps.mean((2, 3)) + seen.bias, seen.logits, atol=1e-6)
    assert torch.allclose(softcam.evidence_maps(X).mean((2, 3)), softcam(X), atol=1e-6)


def test_the_ledger_of_a_bent_head_adds_up() -> None:
    softcam = convert(network_with(nn.GELU()), X, classes=["a", "b", "c"])
    for target in (0, "b", pl.ContrastTarget(0, 2)):
        e = pl.explain(softcam, X, target=target)
        assert e.complete
        assert e.contributions().residual.abs().max() < 1e-5
    assert pl.explain(softcam, X, target=0).ledger is not None


def test_shares_of_the_spread_are_standard_deviations() -> None:
    softcam = convert(network_with(nn.Hardswish()), X, images=X)
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(4)) * X.std() + X.mean()
    with torch.no_grad():
        seen = [softcam.evidence(x) for x in (X, noise)]
    logits = torch.cat([s.logits for s in seen]).double()
    cells = torch.cat([s.maps.flatten(2).mean(2) for s in seen]).double()
    expected = float(
        cells.std(0, correction=0).square().mean().sqrt() / logits.std(0, correction=0).square().mean().sqrt()
    )
    assert softcam.certificate.cells_share == pytest.approx(expected, rel=1e-6)


def test_a_constant_that_swallows_the_logits_is_refused() -> None:
    """Almost all comes out of a softmax, which is a gate through and through: additive, and worth nothing."""

    def gates(net: Any, x: Tensor) -> Tensor:
        pooled = net.trunk(x).mean((2, 3))
        return net.fc((100 * pooled).softmax(1)) + 1e-4 * net.fc(pooled)

    net = roused(Wired(gates, fc=nn.Linear(8, 3)).eval())
    with pytest.raises(ConversionError, match="constant swallows"):
        convert(net, X)


def test_only_the_wanted_kind() -> None:
    with pytest.raises(ConversionError, match="hardswish"):
        convert(network_with(nn.Hardswish()), X, kind="exact")
    with pytest.raises(OptionError, match="no kind 'exactly'"):
        convert(network_with(nn.Hardswish()), X, kind="exactly")  # type: ignore[arg-type]


def test_it_is_saved_and_loaded(tmp_path: Any) -> None:
    net = network_with(nn.Hardswish())
    softcam = convert(net, X)
    softcam.save(tmp_path / "model")
    loaded = pl.load(tmp_path / "model", model=copy.deepcopy(net))
    assert isinstance(loaded, SoftCAM)
    assert loaded.plan == softcam.plan
    assert loaded.certificate == softcam.certificate
    assert torch.equal(loaded.evidence(X).maps, softcam.evidence(X).maps)


def test_gradients_reach_trunk_and_head() -> None:
    softcam = convert(network_with(nn.SiLU()), X).train()
    softcam.evidence_maps(X).abs().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in softcam.parameters() if p.ndim > 1)


def test_under_autocast_maps_are_single_precision() -> None:
    softcam = convert(network_with(nn.SiLU()), X)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        seen = softcam.evidence(X)
    assert seen.maps.dtype == torch.float32
    with torch.no_grad():
        plain = softcam.evidence(X)
    assert torch.allclose(seen.maps, plain.maps, atol=0.05 * float(plain.maps.abs().max()))


def test_another_input_size(rank: int) -> None:
    net = roused(S8(2, 3, rank=rank, channels=(4, 8), strides=(2, 2)).eval())
    net.head = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    softcam = convert(net, torch.randn(2, 2, *(16,) * rank))
    x = torch.randn(3, 2, *(24,) * rank)
    seen = softcam.evidence(x)
    assert seen.maps.shape == (3, 3, *(6,) * rank)
    assert torch.allclose(seen.maps.flatten(2).mean(2) + seen.bias, net(x), atol=1e-6)


def test_the_network_is_untouched_by_a_pass() -> None:
    softcam = convert(network_with(nn.Hardswish()), X)
    before = {k: v.clone() for k, v in softcam.state_dict().items()}
    softcam.evidence(X)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in softcam.modules())
    assert all(torch.equal(v, before[k]) for k, v in softcam.state_dict().items())


def test_a_map_of_one_cell_is_not_rescued_by_an_earlier_layer() -> None:
    """The head's gates may be held, those of a whole stage may not: that would be another explanation."""
    net = nn.Sequential(
        trunk(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    with pytest.raises(ConversionError):
        convert(roused(net.eval()), torch.randn(2, 3, 3, 3))


# ---- planted wrong conversions


def test_normalising_every_cell_by_itself_is_not_the_network() -> None:
    """Layer normalisation per cell, then the mean: off by as much as the logits' spread."""
    wrong = F.linear(F.layer_norm(Z.permute(0, 2, 3, 1), (4,), GAMMA, BETA), W, B).mean((1, 2))
    rows, constant, y = shares(
        Tail(lambda z: F.linear(F.layer_norm(z.mean((2, 3)), (4,), GAMMA, BETA), W, B)), "map", Z
    )
    assert float((wrong - y).abs().max()) / heads.spread(y) > 0.1
    assert close(rows.sum(0) + constant, y)


def test_a_constant_found_by_subtraction_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wrong rule for the activation the sum misses the logits, and the conversion is refused."""
    from pellucid.models import frozen

    monkeypatch.setitem(frozen._RULES, "hardswish", lambda step: step.first)
    with pytest.raises(ConversionError, match="miss the logits"):
        convert(network_with(nn.Hardswish()), X, kind="exact_at_this_image")


@pytest.mark.parametrize("count", [4, 6, 16])
def test_ranked_places_are_no_grid(count: int) -> None:
    """The largest values stand in order of size, not of place: the map before the ranking is read."""
    net = Wired(
        lambda n, x: n.fc(n.trunk(x).flatten(2).topk(count, 2).values.transpose(1, 2)).mean(1), fc=nn.Linear(8, 3)
    )
    net = roused(net.eval())
    softcam = convert(net, X)
    assert softcam.certificate.kind == "exact_at_this_image"
    seen, z = softcam.evidence(X), net.trunk(X)
    assert seen.maps.shape == (2, 3, 8, 8)
    winners = torch.zeros_like(z.flatten(2)).scatter(2, z.flatten(2).topk(count, 2).indices, 1 / count)
    expected = torch.einsum("kc,bcp->bkp", net.fc.weight, winners * z.flatten(2)).reshape(2, 3, 8, 8) * 64
    assert torch.allclose(seen.maps, expected, atol=1e-5)


def test_a_convolution_as_large_as_the_map_is_a_flattened_linear_layer() -> None:
    """timm's VGG: the 7 x 7 convolution that reads the whole map and leaves one place."""
    layer = nn.Conv2d(4, 5, 3).double()
    flat = Tail(lambda z: F.relu(F.linear(z.flatten(1), layer.weight.flatten(1), layer.bias)))
    rows, constant, y = shares(Tail(lambda z: F.relu(layer(z)).flatten(1)), "map", Z)
    expected = shares(flat, "map", Z)
    assert close(rows, expected[0])
    assert close(constant, expected[1])
    assert close(rows.sum(0) + constant, y)


def test_the_map_is_followed_from_its_first_use_on() -> None:
    """A map that comes by twice, once through a dropout that does nothing: what was made of it before counts as well."""

    def twice(net: Any, x: Tensor) -> Tensor:
        z = net.trunk(x)
        first = net.fc(z.amax((2, 3)))
        return first + net.fc(net.drop(z).mean((2, 3)))

    net = roused(Wired(twice, fc=nn.Linear(8, 3), drop=nn.Dropout()).eval())
    seen = convert(net, X).evidence(X)
    z = net.trunk(X).flatten(2)
    peak = torch.zeros_like(z).scatter(2, z.argmax(2, keepdim=True), 1.0) * z
    expected = torch.einsum("kc,bcp->bkp", net.fc.weight, peak + z / 64) * 64
    assert torch.allclose(seen.maps.flatten(2), expected, atol=1e-4)
    assert torch.allclose(seen.bias, 2 * net.fc.bias.expand(2, 3), atol=1e-6)
