"""What is in the file is what the network computes; the file is read back by ONNX Runtime and torch.export alone."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import DenseNet, ResNet
from torchvision.models.resnet import BasicBlock

import pellucid as pl
from pellucid import backends
from pellucid.errors import BadInput, ConversionError, OptionError
from pellucid.models import export as exporting
from pellucid.models import zoo
from pellucid.models.s8 import S8
from pellucid.models.softcam import SoftCAM
from reference.odd_nets import Wired, roused

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

Answers = Callable[[Tensor], tuple[Tensor, Tensor]]


def session(path: Path) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def description(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(session(path).get_modelmeta().custom_metadata_map["pellucid"])
    return told


def opened(path: Path) -> Answers:
    """The file as another program would run it."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda x: module(x)
    running = session(path)
    return lambda x: tuple(map(torch.from_numpy, running.run(None, {"input": x.numpy()})))


def converted(net: nn.Module, side: int = 24, rank: int = 2, channels: int = 3, **options: Any) -> SoftCAM:
    example = torch.randn(2, channels, *(side,) * rank, generator=torch.Generator().manual_seed(0))
    return pl.convert(roused(net.eval()), example, **options)


def small(rank: int = 2, **options: Any) -> SoftCAM:
    torch.manual_seed(0)
    return converted(S8(3, 3, rank, channels=(4, 6), strides=(2, 2)), 16, rank, **options)


def check(softcam: SoftCAM, run: Answers, side: int, channels: int = 3) -> None:
    """Logits and evidence at batches of 1, 2 and 5 are those of the network, and cells add up in the file as well."""
    for batch in (1, 2, 5):
        shape = (batch, channels, *(side,) * softcam.plan.rank)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(7 + batch))
        with torch.no_grad():
            logits, maps = softcam(x), softcam.evidence_maps(x)
            found, drawn = run(x)
        differ = float((maps - maps.flatten(2).mean(2).view(*maps.shape[:2], *(1,) * softcam.plan.rank)).abs().max())
        # Small beside what cells say differently as well: a network of hardly more than its bias would match anything.
        allowed = min(1e-4 * max(1.0, float(logits.abs().max())), 1e-2 * differ)
        assert found.shape == logits.shape
        assert drawn.shape == maps.shape
        assert float((found - logits).abs().max()) <= allowed
        assert float((drawn - maps).abs().max()) <= allowed
        assert float((drawn.flatten(2).mean(2) - found).abs().max()) <= allowed


# --- ways in which evidence is read ----------------------------------------------------------------------------------


def _dense() -> nn.Module:
    return DenseNet(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, num_classes=3)


NETS: dict[str, Callable[[], nn.Module]] = {
    "input": lambda: Wired(
        lambda m, x: m.head(m.pool(F.relu(m.trunk(x) - 0.1)).flatten(1)),
        pool=nn.AdaptiveAvgPool2d(1),
        head=nn.Linear(8, 3),
    ),
    "function": lambda: Wired(lambda m, x: m.head(F.relu(m.trunk(x) - 0.1).mean((2, 3))), head=nn.Linear(8, 3)),
    "fused": lambda: Wired(
        lambda m, x: m.b(m.a(m.trunk(x).mean((2, 3)))), a=nn.Linear(8, 5), b=nn.Linear(5, 3, bias=False)
    ),
    "sum": lambda: Wired(lambda m, x: m.head(m.trunk(x).sum((2, 3))), head=nn.Linear(8, 3)),
    "tokens": lambda: Wired(lambda m, x: m.head(m.norm(m.trunk(x).flatten(2).mT).mean(1)), norm=nn.LayerNorm(8), head=nn.Linear(8, 3)),
    "evidence": lambda: Wired(lambda m, x: F.relu(m.conv(m.trunk(x)) + 0.3).mean((2, 3)), conv=nn.Conv2d(8, 3, 1)),
}  # fmt: skip


def _max_and_mean(z: Tensor) -> Tensor:
    return torch.cat([z.amax((2, 3)), F.adaptive_avg_pool2d(z, 1).flatten(1)], 1)


# Heads that bend: the gates, held at each input, are computed in the graph.
BENT: dict[str, Callable[[], nn.Module]] = {
    "norm": lambda: Wired(lambda m, x: m.head(m.norm(m.trunk(x).mean((2, 3)))), norm=nn.LayerNorm(8), head=nn.Linear(8, 3)),
    "gate": lambda: Wired(lambda m, x: m.b(F.hardswish(m.a(m.trunk(x).mean((2, 3))))), a=nn.Linear(8, 6), b=nn.Linear(6, 3)),
    "max": lambda: Wired(lambda m, x: m.head(_max_and_mean(m.trunk(x))), head=nn.Linear(16, 3)),
    "flat": lambda: Wired(
        lambda m, x: m.b(F.relu(m.a(F.adaptive_avg_pool2d(m.trunk(x), 4).flatten(1)))), a=nn.Linear(128, 6), b=nn.Linear(6, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", [w if w in ("norm", "gate") else pytest.param(w, marks=pytest.mark.slow) for w in BENT])
def test_gates_held_at_each_input_are_in_the_graph(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    softcam = converted(BENT[way](), 32 if way == "flat" else 24)
    assert softcam.certificate.kind == "exact_at_this_image"
    written = pl.export(softcam, tmp_path / "net.onnx", any_size=way != "flat")
    assert written.any_size == (way != "flat")
    for side in (32,) if way == "flat" else (24, 33):
        check(softcam, opened(written.path), side)


@pytest.mark.parametrize("way", NETS)
def test_every_way_of_reading_evidence_is_in_the_graph(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    softcam = converted(NETS[way]())
    plan = softcam.plan
    assert {
        "input": plan.capture.kind == "input", "function": plan.capture.kind == "function", "fused": plan.fused, "sum": plan.pooling == "sum",
        "tokens": plan.stride is not None, "evidence": plan.layer is None and not plan.fused,
    }[way]  # fmt: skip
    written = pl.export(softcam, tmp_path / "net.onnx", any_size=False)
    check(softcam, opened(written.path), 24)


def test_signals_images_and_volumes_of_any_size(rank: int, tmp_path: Path) -> None:
    softcam = small(rank)
    written = pl.export(softcam, tmp_path / "net.onnx", torch.randn(1, 3, *(16,) * rank))
    assert (written.any_size, description(written.path)["input"]["any_size"]) == (True, True)
    assert written.parity is not None
    assert written.parity < 1e-5
    for side in (16, 23):
        check(softcam, opened(written.path), side)
    given = session(written.path).get_inputs()[0]
    assert given.shape == ["batch", 3, *(f"size_{i}" for i in range(rank))]


@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_networks_of_the_zoo(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    softcam = converted(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3) if name == "resnet" else _dense(), 64)
    check(softcam, opened(pl.export(softcam, tmp_path / "net.onnx", any_size=False).path), 64)


def test_the_same_through_torch_export(tmp_path: Path) -> None:
    softcam = small(classes=("a", "b", "c"))
    written = pl.export(softcam, tmp_path / "net.pt2")
    extra = {"pellucid.json": ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    assert json.loads(extra["pellucid.json"]) == written.description
    assert written.description["classes"] == ["a", "b", "c"]
    for side in (16, 21):
        check(softcam, opened(written.path), side)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_network_that_returns_other_things_beside_the_logits(layers: int, tmp_path: Path) -> None:
    head = nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers - 1)], nn.Linear(8, 3))
    net = Wired(lambda m, x: {"deep": x.mean(), "answer": m.head(m.trunk(x).mean((2, 3)))}, head=head)
    softcam = converted(net, output="answer")
    assert (softcam.fused is not None) == (layers == 2)
    run = opened(pl.export(softcam, tmp_path / "net.pt2", any_size=False).path)
    x = torch.randn(3, 3, 24, 24)
    assert torch.allclose(run(x)[0], softcam(x)["answer"], atol=1e-5)
    assert torch.allclose(run(x)[1], softcam.evidence_maps(x), atol=1e-5)


SLOW = {
    "torchvision:resnet18": 96, "torchvision:resnet34": 96, "torchvision:densenet121": 96, "torchvision:mobilenet_v2": 96,
    "torchvision:efficientnet_b0": 96, "torchvision:shufflenet_v2_x1_0": 96, "torchvision:squeezenet1_1": 96,
    "torchvision:regnet_y_400mf": 96, "torchvision:inception_v3": 128, "torchvision:swin_t": 96,
    "timm:tf_efficientnet_b0": 96, "timm:vit_base_patch16_gap_224": 224, "torchvision:convnext_tiny": 96, "torchvision:mobilenet_v3_small": 96,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_architectures_at_their_size(name: str, tmp_path: Path) -> None:
    softcam = converted(zoo.build(name), SLOW[name])
    check(softcam, opened(pl.export(softcam, tmp_path / "net.onnx").path), SLOW[name])


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_size_that_the_code_fixes_is_told(tmp_path: Path) -> None:
    net = Wired(lambda m, x: m.head(m.trunk(x.reshape(-1, 3, 24, 24)).mean((2, 3))), head=nn.Linear(8, 3))
    softcam = converted(net)
    written = pl.export(softcam, tmp_path / "net.onnx")
    assert not written.any_size
    assert "takes this input size only" in str(written)
    assert description(written.path)["notes"] == list(written.description["notes"]) != []
    check(softcam, opened(written.path), 24)


def test_a_trace_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PATIENCE", 0.0)
    softcam = small()
    written = pl.export(softcam, tmp_path / "net.pt2")
    assert "took longer than 0 s" in written.description["notes"][0]
    check(softcam, opened(written.path), 16)


def test_a_branch_on_the_size_is_not_lost(tmp_path: Path) -> None:
    """ONNX drops the condition under which a branch was traced; the comparison at other sizes notices."""

    def wiring(m: Any, x: Tensor) -> Tensor:
        z = m.trunk(x)
        return m.head((z if x.shape[-1] <= 26 else 2 * z).mean((2, 3)))

    torch.manual_seed(0)
    softcam = converted(Wired(wiring, head=nn.Linear(8, 3)))
    written = pl.export(softcam, tmp_path / "net.onnx")
    assert not written.any_size
    unchecked = pl.export(softcam, tmp_path / "blind.onnx", check=False)
    assert unchecked.any_size  # what the comparison is for
    assert unchecked.parity is None


# --- what the file tells ---------------------------------------------------------------------------------------------


def test_the_file_tells_where_cells_look_and_what_classes_mean(tmp_path: Path) -> None:
    softcam = small(classes=("a", "b", "c"), task="multilabel")
    softcam.preprocessing = {"size": [16, 16], "mean": [0.5] * 3, "std": [0.2] * 3}
    x = torch.randn(1, 3, 16, 20)
    told = description(pl.export(softcam, tmp_path / "net.onnx", x, any_size=False).path)
    known = softcam.evidence(x).geometry
    place = told["geometry"]
    assert (place["grid"], place["input_size"]) == ([4, 5], [16, 20])
    assert (tuple(place["start"]), tuple(place["jump"])) == (known.start, known.jump)
    assert place["registered"] is known.registered is True
    assert place["centres"] == [[0, 4, 8, 12], [0, 4, 8, 12, 16]]  # two strides of 2 with windows of 3 around them
    assert (told["kind"], told["task"], told["classes"]) == ("exact", "multilabel", ["a", "b", "c"])
    assert told["preprocessing"] == softcam.preprocessing
    assert told["input"] == {"channels": 3, "size": [16, 20], "any_size": False}
    assert told["pellucid"] == pl.__version__
    assert told["certificate"]["parity"] == softcam.certificate.parity
    other = pl.export(softcam, tmp_path / "net.pt2", x, any_size=False, preprocessing={"mean": [0]})
    assert other.description["preprocessing"] == {"mean": [0]}


@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_the_file_holds_no_path_of_this_machine(ending: str, tmp_path: Path) -> None:
    """Tracers note where each operation stands in the source."""
    pl.export(small(), tmp_path / f"net{ending}", any_size=False)
    if ending == ".onnx":
        parts = [(tmp_path / "net.onnx").read_bytes()]
    else:
        with zipfile.ZipFile(tmp_path / "net.pt2") as packed:
            parts = [packed.read(name) for name in packed.namelist()]
    assert b"linear" in b"".join(parts).lower() or b"Gemm" in b"".join(parts)
    for word in (str(Path(pl.__file__).parent), "site-packages", "export.py"):
        assert not any(word.encode() in part for part in parts)


# --- what is refused, and what stays as it was -----------------------------------------------------------------------


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, softcam = exporting._onnx_run, small()

    def wrong(data: bytes) -> Answers:
        run = right(data)

        def shifted(x: Tensor) -> tuple[Tensor, Tensor]:
            logits, maps = run(x)
            return logits, maps + 0.001 * (len(x) == 5)

        return shifted

    monkeypatch.setattr(exporting, "_onnx_run", wrong)
    (tmp_path / "net.onnx").write_text("mine")
    with pytest.raises(ConversionError, match=r"computes other evidence: 0\.001 away") as raised:
        pl.export(softcam, tmp_path / "net.onnx", any_size=False)
    assert "Nothing was written" in raised.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "mine"


def test_a_batch_size_that_the_code_fixes_is_refused(tmp_path: Path) -> None:
    softcam = converted(Wired(lambda m, x: m.head(m.trunk(x).mean((2, 3)).view(len(x), 8)), head=nn.Linear(8, 3)))
    with pytest.raises(ConversionError, match="fixes the batch size") as raised:
        pl.export(softcam, tmp_path / "net.onnx")
    assert "x.shape[0]" in raised.value.hint
    assert not list(tmp_path.iterdir())


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    more = torch.randn(2, 3)
    net = Wired(lambda m, x, other: m.head(m.trunk(x).mean((2, 3))), head=nn.Linear(8, 3))
    softcam = converted(net, args=(more,))
    with pytest.raises(ConversionError, match="several inputs") as raised:
        pl.export(softcam, tmp_path / "net.onnx")
    assert "holds the others" in raised.value.hint


def test_finer_maps_are_refused(tmp_path: Path) -> None:
    softcam = small()
    x = torch.randn(2, 3, 16, 16)
    with pytest.raises(ConversionError, match="FinerSoftCAM's evidence is not the logit"):
        pl.export(softcam.finer(2, x), tmp_path / "net.onnx", x)


def test_code_that_depends_on_values_is_refused(tmp_path: Path) -> None:
    net = Wired(lambda m, x: m.head(m.trunk(x if float(x.mean()) < 100 else -x).mean((2, 3))), head=nn.Linear(8, 3))
    softcam = converted(net, features="trunk", head="head")
    with pytest.raises(ConversionError, match="kind 'exact' cannot be exported") as raised:
        pl.export(softcam, tmp_path / "net.onnx")
    assert raised.value.why
    assert raised.value.hint


def test_what_cannot_be_exported_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="has no evidence"):
        pl.export(nn.Conv2d(3, 3, 1), tmp_path / "net.onnx")
    with pytest.raises(OptionError, match="no known ending"):
        pl.export(small(), tmp_path / "net.pt")
    with pytest.raises(OptionError, match="float64"):
        pl.export(small().double(), tmp_path / "net.onnx")
    with pytest.raises(BadInput, match="4 axes"):
        pl.export(small(), tmp_path / "net.onnx", torch.randn(3, 16, 16))
    with pytest.raises(BadInput, match="fails on the example"):
        pl.export(small(), tmp_path / "net.onnx", torch.randn(1, 2, 16, 16))
    for missing, purpose in (("onnxruntime", "check"), ("onnxscript", "write")):
        monkeypatch.setattr(backends.util, "find_spec", lambda name, m=missing: None if name == m else object())
        with pytest.raises(OptionError, match=f"{missing} is needed to {purpose}") as raised:
            pl.export(small(), tmp_path / "net.onnx")
        assert "pellucid[export]" in raised.value.hint
    assert not list(tmp_path.iterdir())


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    softcam = small().train()
    softcam.model.head.eval()
    x = torch.randn(2, 3, 16, 16)
    softcam(x).sum().backward()
    state, grads = copy.deepcopy(softcam.state_dict()), [p.grad.clone() for p in softcam.parameters()]
    modes = [m.training for m in softcam.modules()]
    torch.manual_seed(5)
    pl.export(softcam, tmp_path / "net.pt2", x)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert [m.training for m in softcam.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in softcam.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(softcam.parameters(), grads, strict=True))
    assert all(type(p) is nn.Parameter and p.requires_grad for p in softcam.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in softcam.modules())
    softcam.eval()
    check(softcam, opened(tmp_path / "net.pt2"), 16)
