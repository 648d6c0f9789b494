from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import LayerError, TargetError
from pellucid.models.convert import convert
from pellucid.views.feature_maps import feature_maps
from reference.cam import error
from reference.nets import GapNet, SelfExplaining, Squeezed, TwoLayers, inputs
from reference.untouched import unchanged

CLASSES = [0, 2, 1]


def test_behind_average_pooling_channels_and_bias_are_the_logit(rank: int) -> None:
    """w_kc mean(A_k), product by product."""
    net, x = GapNet(rank).eval(), inputs(rank)
    found = feature_maps(net, x, CLASSES)
    features = net.features(x).detach()
    weight, bias, logits = net.fc.weight.detach(), net.fc.bias.detach(), net(x).detach()
    for i, c in enumerate(CLASSES):
        shares = [float(weight[c, k] * features[i, k].mean()) for k in range(5)]
        assert found.contributions[i].tolist() == pytest.approx(shares, abs=1e-6)
        assert sum(shares) + float(bias[c]) == pytest.approx(float(logits[i, c]), abs=1e-5)
        assert found.order[i].tolist() == sorted(range(5), key=lambda k: -shares[k])
    assert found.complete
    assert found.layer == "features"
    assert error(found.maps, features) < 1e-6
    assert error(found.constant, bias[CLASSES]) < 1e-6
    assert float(found.residual.abs().max()) < 1e-5


@pytest.mark.parametrize("layer", ["trunk", "block.0", "block"])
def test_equals_captum(rank: int, layer: str) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = TwoLayers(rank).eval(), inputs(rank, side=8)
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # theirs would see what works in place
    theirs = attr.LayerGradientXActivation(net, net.get_submodule(layer)).attribute(x, target=CLASSES)
    found = feature_maps(net, x, CLASSES, layer=layer)
    assert error(found.cells, theirs) < 1e-5
    assert error(found.contributions, theirs.flatten(2).sum(2)) < 1e-5


def test_where_they_do_not_add_up_that_is_said(rank: int) -> None:
    net, x = TwoLayers(rank).eval(), 30 * inputs(rank, side=8)
    found = feature_maps(net, x, CLASSES, layer="block")
    silent = net.fc(net.hidden(torch.zeros(1, net.hidden.in_features)).relu())[0]
    assert error(found.constant, silent[CLASSES]) < 1e-6
    left = found.score - found.contributions.sum(1) - found.constant
    assert error(found.residual, left) < 1e-6
    assert float(left.abs().max()) > 1e-3
    assert not found.complete
    assert "do not add up" in str(found)


def test_a_softcams_channels_make_up_its_evidence() -> None:
    softcam = convert(GapNet(2).eval(), inputs(2), classes=("a", "b", "c"))
    x = inputs(2, seed=4)
    found = feature_maps(softcam, x, "b against c")
    evidence = pl.explain(softcam, x, "b against c", method="evidence")
    assert found.complete
    assert error(found.cells.sum(1), evidence.map) < 1e-5
    assert error(found.constant, evidence.constant) < 1e-6
    assert "b against c" in str(found)
    by_hand = feature_maps(SelfExplaining(GapNet(2).eval()), x, "1 against 2")
    assert error(by_hand.contributions, found.contributions) < 1e-6


def test_of_two_classes_one_is_taken_against_the_other() -> None:
    net, x = GapNet(1, classes=2).eval(), inputs(1)
    found = feature_maps(net, x, 1)
    logits = net(x)
    assert error(found.score, logits[:, 1] - logits[:, 0]) < 1e-6
    assert found.complete
    assert error(feature_maps(net, x, 1, task="multilabel").score, logits[:, 1]) < 1e-6


def test_a_confident_no_is_ranked_as_no() -> None:
    net, x = Squeezed(GapNet(1, classes=1)).eval(), inputs(1)
    net.net.fc.bias.data.fill_(-5)
    found = feature_maps(net, x)
    assert error(found.score, -net(x)) < 1e-6
    assert found.target.describe() == "not positive"


def test_a_batch_equals_its_elements_and_a_call_brings_its_other_inputs() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = GapNet(1)

        def forward(self, share: Tensor, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(x) * share}

    net, x = Weighted().eval(), inputs(1)
    call = Call(net, kwargs={"share": torch.tensor(2.0)}, output="logits", input_name="x")
    found = feature_maps(call, x, CLASSES)
    assert error(found.contributions, 2 * feature_maps(net.net, x, CLASSES).contributions) < 1e-6
    for i in range(3):
        alone = feature_maps(call, x[i : i + 1], CLASSES[i])
        assert error(alone.contributions, found.contributions[i : i + 1]) < 1e-6
        assert alone.as_dict()["inputs"][0]["channels"][0]["channel"] == int(found.order[i, 0])


def test_the_printed_rows_add_up() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = nn.Conv1d(2, 40, 3), nn.Linear(40, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(x).mean(2))

    torch.manual_seed(0)
    lines = str(feature_maps(Wide().eval(), inputs(1, batch=1))).splitlines()
    values = [float(line.split()[-1]) for line in lines[1:]]
    assert any(line.startswith("30 others") for line in lines)
    assert sum(values[:-1]) == pytest.approx(values[-1], abs=1e-3)


def test_the_network_is_left_as_it_was_also_after_an_error(rank: int) -> None:
    net = GapNet(rank).train()
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    net.features[0].requires_grad_(False)
    with unchanged(net):
        feature_maps(net, inputs(rank))
        with torch.inference_mode():
            feature_maps(net, inputs(rank))
        with pytest.raises(LayerError, match="no layer 'featurs'"):
            feature_maps(net, inputs(rank), layer="featurs")
        with pytest.raises(LayerError, match="gives"):
            feature_maps(net, inputs(rank), layer="fc")
        with pytest.raises(TargetError, match="no class 7"):
            feature_maps(net, inputs(rank), 7)
        with pytest.raises(TargetError, match="2 targets for 3 inputs"):
            feature_maps(net, inputs(rank), [0, 1])


def test_one_target_at_a_time() -> None:
    from pellucid.targets import SeveralTargets

    with pytest.raises(TargetError, match="one target at a time"):
        feature_maps(GapNet(1), inputs(1), SeveralTargets((0, 1)))
