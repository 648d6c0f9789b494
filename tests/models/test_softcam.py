from __future__ import annotations

import copy
import threading
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import BadInput, LayerError, OptionError
from pellucid.models.convert import convert
from pellucid.models.s8 import S8
from pellucid.models.softcam import SoftCAM
from reference.odd_nets import Wired, roused


def small(rank: int = 2, classes: int = 3, **options: Any) -> SoftCAM:
    torch.manual_seed(0)
    net = roused(S8(2, classes, rank, channels=(4, 6), strides=(2, 1)).eval())
    return convert(net, torch.randn(2, 2, *(8,) * rank), **options)


def test_one_pass_gives_output_and_maps(rank: int) -> None:
    softcam, x = small(rank), torch.randn(3, 2, *(8,) * rank)
    calls: list[int] = []
    softcam.model.register_forward_hook(lambda m, a, out: calls.append(1))
    output, maps = softcam(x, return_evidence=True)
    assert len(calls) == 1
    assert torch.equal(output, softcam.model(x))
    assert torch.equal(maps, softcam.evidence_maps(x))
    told = softcam.evidence(x)
    assert torch.allclose(maps, told.maps + softcam.model.head.bias.view(1, -1, *(1,) * rank))
    assert torch.allclose(maps.flatten(2).mean(2), output, atol=1e-5)
    assert told.positions == 4**rank
    assert maps.shape == (3, 3, *(4,) * rank)


def test_a_batch_is_its_elements_one_at_a_time(rank: int) -> None:
    softcam, x = small(rank), torch.randn(4, 2, *(10,) * rank)
    together = softcam.evidence_maps(x)
    for i in (2, 0, 3, 1):
        assert torch.allclose(softcam.evidence_maps(x[i : i + 1])[0], together[i], atol=1e-5)


def test_grad_cam_at_the_evidence_layer_times_positions_is_the_evidence(rank: int) -> None:
    softcam, x = small(rank), torch.randn(2, 2, *(8,) * rank)
    taken: list[Tensor] = []
    handle = softcam.model.features.register_forward_hook(lambda m, a, out: taken.append(out))
    logits = softcam(x)
    handle.remove()
    for c in range(3):
        (slope,) = torch.autograd.grad(logits[:, c].sum(), taken[0], retain_graph=True)
        weights = slope.flatten(2).mean(2)
        grad_cam = (weights.view(*weights.shape, *(1,) * rank) * taken[0]).sum(1)
        told = softcam.evidence(x)
        assert torch.allclose(grad_cam * told.positions, told.maps[:, c], atol=1e-5)


def test_drop_in_behaviour_leaves_no_hook_and_moves_between_modes() -> None:
    softcam = small().train()
    assert softcam.model.training
    softcam.evidence(torch.randn(2, 2, 8, 8))
    softcam.eval()
    assert not any(m.training for m in softcam.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in softcam.modules())
    assert copy.deepcopy(softcam)(torch.ones(1, 2, 8, 8)).equal(softcam(torch.ones(1, 2, 8, 8)))


def test_dropout_before_the_head_acts_on_logits_and_not_on_evidence() -> None:
    net = Wired(
        lambda net, x: net.fc(net.drop(net.trunk(x).mean((2, 3)))), fc=nn.Linear(8, 3), drop=nn.Dropout(0.9)
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    softcam = convert(net, x)
    net.train()
    softcam.train()
    for module in (net, softcam):
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    torch.manual_seed(5)
    expected = net(x)
    torch.manual_seed(5)
    output, maps = softcam(x, return_evidence=True)
    assert torch.equal(output, expected)
    assert not torch.allclose(maps.mean((2, 3)), output, atol=1e-3)
    assert torch.allclose(maps.mean((2, 3)), net.eval()(x), atol=1e-5)


def test_dropout_on_the_map_that_works_in_place_is_part_of_the_evidence() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Dropout2d(0.5, inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    softcam = convert(net.train(), torch.randn(2, 2, 8, 8))
    output, maps = softcam(torch.randn(8, 2, 8, 8), return_evidence=True)
    assert torch.allclose(maps.mean((2, 3)), output, atol=1e-5)
    (output + maps.mean((2, 3))).square().sum().backward()


def test_low_precision_runs_give_evidence_in_float32() -> None:
    softcam, x = small(), torch.randn(2, 2, 8, 8)
    exact = softcam.evidence_maps(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        told = softcam.evidence(x)
    assert told.logits.dtype is torch.bfloat16
    assert told.maps.dtype is torch.float32
    assert torch.allclose(told.maps + told.bias.view(1, -1, 1, 1), exact, atol=0.05 * float(exact.abs().max()))
    half = copy.deepcopy(softcam).to(torch.bfloat16)
    assert half.evidence(x.bfloat16()).maps.dtype is torch.float32
    assert small().double().evidence(x.double()).maps.dtype is torch.float64


def test_passes_of_several_threads_do_not_mix() -> None:
    softcam = small()
    inputs = [torch.randn(1, 2, 8, 8) for _ in range(8)]
    expected = [softcam.evidence_maps(x) for x in inputs]
    found: dict[int, list[Tensor]] = {i: [] for i in range(8)}

    def work(i: int) -> None:
        for _ in range(10):
            found[i].append(softcam.evidence_maps(inputs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.allclose(maps, expected[i], atol=1e-6) for i in found for maps in found[i])


def test_squeezed_single_logits() -> None:
    net = Wired(lambda net, x: net.fc(net.trunk(x).mean((2, 3)))[:, 0], fc=nn.Linear(8, 1)).eval()
    x = torch.randn(3, 3, 16, 16)
    softcam = convert(net, x, classes=("healthy", "ill"))
    assert softcam.task == "binary"
    assert softcam(x).shape == (3,)
    told = softcam.evidence(x)
    assert torch.allclose(told.logits[:, 0], net(x))
    assert torch.allclose(told.maps.mean((2, 3)) + told.bias, told.logits, atol=1e-5)


@pytest.mark.parametrize(("classes", "task"), [(3, "binary"), (1, "multiclass"), (3, "ranking")])
def test_tasks_that_do_not_fit_the_output_are_refused(classes: int, task: Any) -> None:
    with pytest.raises(OptionError):
        small(classes=classes, task=task) if classes == 3 else convert(
            S8(2, 1, channels=(4,), strides=(2,)), torch.randn(1, 2, 8, 8), task=task
        )


def test_an_input_without_places_is_refused() -> None:
    with pytest.raises(BadInput, match="no input with places"):
        small().evidence(torch.randn(2, 8, 8))


def test_a_pass_that_avoids_the_map_is_reported() -> None:
    net = Wired(
        lambda net, x, short=False: net.fc(x.mean((2, 3)).repeat(1, 3)[:, :8] if short else net.trunk(x).mean((2, 3))),
        fc=nn.Linear(8, 2),
    ).eval()
    softcam = convert(net, torch.randn(1, 3, 16, 16))
    with pytest.raises(LayerError, match="did not come by"):
        softcam.evidence(torch.randn(1, 3, 16, 16), short=True)


def test_tokens_that_form_no_grid_are_refused() -> None:
    net = Wired(
        lambda net, x: net.fc(net.norm(net.trunk(x).flatten(2).transpose(1, 2)).mean(1)),
        fc=nn.Linear(8, 3),
        norm=nn.LayerNorm(8),
    ).eval()
    softcam = convert(net, torch.randn(1, 3, 16, 24))
    with pytest.raises(BadInput, match="do not form a grid"):
        softcam.evidence(torch.randn(1, 3, 17, 24))


def test_the_certificate_prints_as_a_table_and_round_trips() -> None:
    certificate = small().certificate
    lines = str(certificate).splitlines()
    assert lines[0].split()[:2] == ["kind", "exact:"]
    assert any(line.startswith("map ") and "4 x 4 cells for an input of 8 x 8, stride 2 x 2" in line for line in lines)
    assert any("the output of 'features'" in line for line in lines)
    assert certificate._repr_html_().count("<tr>") == len(lines)
    import json

    assert type(certificate).from_dict(json.loads(json.dumps(certificate.as_dict()))) == certificate


def test_a_fused_head_keeps_the_form_of_the_output() -> None:
    """Logits with a fused head stand where the network's own stood: in a dict, a tuple, a named tuple."""
    forms = {
        "y": lambda y, z: {"z": z, "y": y},
        1: lambda y, z: (z, y),
        "logits": lambda y, z: Named(z, y),
    }
    x = torch.randn(2, 3, 16, 16)
    for output, form in forms.items():
        net = Wired(
            lambda n, x, form=form: form(n.fc(n.first(n.trunk(x).mean((2, 3)))), x.mean()),
            first=nn.Linear(8, 6),
            fc=nn.Linear(6, 3),
        )
        net = roused(net.eval())
        softcam = pl.convert(net, x, output=output)
        assert softcam.fused is not None
        returned, seen = softcam(x), softcam.evidence(x)
        wanted = net(x)
        assert type(returned) is type(wanted)
        assert torch.allclose(softcam.select(returned), softcam.select(wanted), atol=1e-6)
        assert torch.allclose(seen.maps.mean((2, 3)) + seen.bias, seen.logits, atol=1e-6)
        assert pl.explain(softcam, x, target=1).complete


class Named(NamedTuple):
    z: torch.Tensor
    logits: torch.Tensor
