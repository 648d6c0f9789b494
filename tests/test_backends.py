from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid import backends
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods import METHODS
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.nets import GapNet, inputs
from reference.untouched import unchanged

CLASSES = torch.tensor([0, 2, 1])
FORWARD_ONLY: dict[str, dict[str, Any]] = {"score_cam": {}, "rise": {"masks": 40}, "occlusion": {}}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A backend "compile" that takes no time (the traced graph as it is); one entry for each time it is built."""
    log: list[str] = []

    def builder(program: Any, args: Any, kwargs: Any) -> Callable[..., Tensor]:
        log.append("built")
        return program.module()  # type: ignore[no-any-return]

    monkeypatch.setitem(backends._BUILDERS, "compile", builder)
    return log


def fast(net: nn.Module, x: Tensor, rows: int = 4, **options: Any) -> backends.Fast:
    return backends.fast(Call(net), x, net(x).detach(), rows, **{"backend": "compile", **options})


def test_onnx_runtime_gives_the_same_for_any_number_of_inputs(rank: int) -> None:
    pytest.importorskip("onnxruntime")
    net, x = GapNet(rank).eval(), inputs(rank)
    quick = fast(net, x, backend="onnxruntime")
    for count in (1, 2, 3):
        assert error(quick.call(x[:count]), net(x[:count])) < 1e-6
    assert quick.notes["backend"] == "onnxruntime"
    assert quick.notes["difference"] < 1e-6


@pytest.mark.slow
def test_torch_compile_gives_the_same(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    for precision, limit in ((None, 1e-6), ("bf16", 0.02)):
        quick = fast(net, x, precision=precision)
        assert error(quick.call(x[:2]), net(x[:2])) < limit
        assert quick.call(x).dtype == torch.float32


@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_methods_give_the_same_map_and_say_how(name: str) -> None:
    pytest.importorskip("onnxruntime")
    net, x = GapNet(2).eval(), inputs(2)
    options = FORWARD_ONLY[name]
    plain = pl.explain(net, x, CLASSES, method=name, **options)
    with unchanged(net):
        found = pl.explain(net, x, CLASSES, method=name, backend="onnxruntime", **options)
    assert error(found.map, plain.map) < 1e-5
    assert found.provenance["backend"] == "onnxruntime"
    assert 0 <= found.provenance["difference"] < 1e-6
    assert not {"backend", "difference", "precision"} & set(plain.provenance)


@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_bf16_is_near_and_measured_on_this_input(name: str) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    net.fc.bias.data.zero_()  # a score's rounding is small beside its changes
    plain = METHODS[name](Call(net), x, ClassTarget(CLASSES), **FORWARD_ONLY[name])
    found = METHODS[name](Call(net), x, ClassTarget(CLASSES), precision="bf16", **FORWARD_ONLY[name])
    assert 0 < error(found.map, plain.map) < 0.1
    assert found.map.dtype == found.output.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x).detach().float()
    exact = net(x).detach()
    assert found.notes["difference"] == pytest.approx(float((low - exact).abs().max() / exact.abs().max()))
    assert found.notes["precision"] == "bf16"


def test_parts_of_a_batch_report_the_largest_difference() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    options = {"method": "occlusion", "precision": "bf16"}
    single = [pl.explain(net, x[i : i + 1], 0, **options).provenance["difference"] for i in range(3)]
    whole = pl.explain(net, x, 0, batch_size=1, **options)
    assert whole.provenance["difference"] == pytest.approx(max(single))
    assert len(set(single)) > 1


def test_several_targets_share_a_graph(built: list[str]) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    found = pl.explain(net, x, pl.SeveralTargets((0, 2)), method="occlusion", backend="compile")
    for i, target in enumerate((0, 2)):
        assert error(found.map[:, i], pl.explain(net, x, target, method="occlusion").map) < 1e-6
    assert len(built) == 1
    assert found.provenance["backend"] == "compile"


def changes() -> dict[str, Callable[[GapNet], None]]:
    """What makes an old graph wrong; version counters see the first alone."""

    def optimiser_step(net: GapNet) -> None:
        with torch.no_grad():
            net.fc.weight.add_(1)

    def behind_autograd(net: GapNet) -> None:
        net.fc.weight.data[0, 0] += 1e-3

    def new_parameter(net: GapNet) -> None:
        net.fc.weight = nn.Parameter(net.fc.weight * 2)

    def setting(net: GapNet) -> None:
        net.features[2].padding = (0, 0)

    def other_module(net: GapNet) -> None:
        net.features[3] = nn.Tanh()

    def hook(net: GapNet) -> None:
        net.fc.register_forward_hook(lambda module, args, output: -output)

    def own_forward(net: GapNet) -> None:
        net.fc.forward = lambda features: features[:, :3]  # type: ignore[method-assign]

    all_ = (optimiser_step, behind_autograd, new_parameter, setting, other_module, hook, own_forward)
    return {f.__name__: f for f in all_}


@pytest.mark.parametrize("change", changes())
def test_a_changed_network_is_never_answered_by_an_old_graph(change: str, built: list[str]) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    fast(net, x)
    fast(net, x)
    assert len(built) == 1
    changes()[change](net)
    assert error(fast(net, x).call(x), net(x)) < 1e-6
    assert len(built) == 2


def test_other_sizes_rows_and_outputs_have_graphs_of_their_own(built: list[str]) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    for given, rows in ((x, 4), (x[..., :12], 4), (x, 2), (x, 4)):
        assert error(fast(net, given, rows).call(given[:2]), net(given[:2])) < 1e-6
    assert len(built) == 3
    one = Call(net, output=lambda out: out[:, :1])
    assert backends.fast(one, x, one(x).detach(), 4, "compile").call(x).shape == (3, 1)


def test_further_inputs_follow_their_image(built: list[str]) -> None:
    class Two(GapNet):
        def forward(self, x: Tensor, scale: Tensor, *, shift: float) -> Tensor:  # type: ignore[override]
            return super().forward(x) * scale[:, None] + shift

    net, x, scale = Two(2).eval(), inputs(2), torch.tensor([1.0, -2.0, 30.0])
    kwargs = {"args": (scale,), "kwargs": {"shift": 0.5}}
    plain = pl.explain(net, x, CLASSES, method="occlusion", **kwargs).map
    for batch_size in (4, 2):
        found = pl.explain(net, x, CLASSES, method="occlusion", backend="compile", batch_size=batch_size, **kwargs)
        assert error(found.map, plain) < 1e-6


def test_autocast_around_the_call_does_not_reach_a_graph(built: list[str]) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x).detach()
        with pytest.raises(OptionError, match="gives something else") as raised:
            backends.fast(Call(net), x, low, 4, "compile")
    assert "autocast" in raised.value.hint
    quick = fast(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = quick.call(x)
    assert error(found, net(x)) < 1e-6


def test_a_graph_does_not_keep_its_network_alive(built: list[str]) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    quick, gone = fast(net, x), weakref.ref(net)
    expected = net(x).detach()
    del net
    gc.collect()
    assert gone() is None
    assert error(quick.call(x), expected) < 1e-6


def test_few_graphs_are_kept(built: list[str]) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    for side in (8, 9, 10, 11, 12):
        fast(net, x[..., :side])
    fast(net, x[..., :12])
    assert len(built) == 5
    fast(net, x[..., :8])
    assert len(built) == 6


def test_wrappers_are_looked_through(built: list[str]) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    for wrapped in (torch.compile(net, backend="eager"), net, nn.DataParallel(net)):
        fast(wrapped, x)
    assert len(built) == 1


def test_a_graph_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = GapNet(2).eval(), inputs(2)

    def wrong(program: Any, args: Any, kwargs: Any) -> Callable[..., Tensor]:
        return lambda x: program.module()(x) * 1.01

    monkeypatch.setitem(backends._BUILDERS, "compile", wrong)
    for _ in range(2):  # the second time the graph is an old one
        with pytest.raises(OptionError, match=r"compile gives something else: 0\.01"):
            pl.explain(net, x, method="rise", backend="compile", masks=4)


def test_what_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    with pytest.raises(OptionError, match="no backend 'onnx'") as raised:
        fast(net, x, backend="onnx")
    assert "onnxruntime" in raised.value.hint
    with pytest.raises(OptionError, match="no precision 'fp8'"):
        fast(net, x, precision="fp8")
    with pytest.raises(OptionError, match="computes in float32; this is float64"):
        fast(net.double(), x.double(), backend="onnxruntime")
    with pytest.raises(OptionError, match="computes in float32"):
        fast(net.float(), x, backend="onnxruntime", precision="bf16")
    with pytest.raises(OptionError, match="one tensor"):
        backends.fast(Call(net), x, [{}], 4, "compile")
    monkeypatch.setattr(backends.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="is needed for backend='onnxruntime'") as raised:
        fast(net, x, backend="onnxruntime")
    assert "pellucid[export]" in raised.value.hint


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("No working C++ compiler found in cpp.cxx", r"no working C\+\+ compiler"),
        ("aten::odd", "cannot run with backend"),
    ],
)
def test_what_fails_on_the_way_is_said(cause: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(program: Any, args: Any, kwargs: Any) -> Callable[..., Tensor]:
        raise RuntimeError(cause)

    net, x = GapNet(2).eval(), inputs(2)
    monkeypatch.setitem(backends._BUILDERS, "compile", failing)
    with unchanged(net), pytest.raises(OptionError, match=message) as raised:
        fast(net, x)
    assert cause in raised.value.why
    assert raised.value.hint


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branching(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.sum()) > 0 else super().forward(-x)

    with pytest.raises(OptionError, match="cannot run with backend='compile'"):
        fast(Branching(2).eval(), inputs(2))
