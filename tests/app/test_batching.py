"""Waiting clients share a pass, and get what they would have got alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import pellucid as pl
from pellucid.app.batching import MOST_TOGETHER, Work, Worker
from pellucid.app.kept import Kept
from pellucid.app.passes import AT_A_TIME, Passes
from pellucid.app.schemas import Question
from pellucid.app.served import Served
from pellucid.app.service import Service, Settings
from pellucid.app.uploads import Shown, Upload
from pellucid.errors import TargetError
from pellucid.sample import Sample


@pytest.fixture
def service(models: dict[str, Served]) -> Any:
    """With eight inputs that need not be read."""
    made = Service(models, Settings())
    x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    known = {str(k): Upload(Sample(x[k]), Shown(x[k])) for k in range(8)}
    made.upload = lambda served, id, wish: known[id]  # type: ignore[method-assign]
    yield made
    made.close()


def held(worker: Worker, served: Served) -> threading.Event:
    """Keep the worker busy until the event is set, so that others gather behind it."""
    go = threading.Event()
    worker.add(Work(served, None, None, lambda payloads: [go.wait()]))
    return go


async def gathered(service: Service, questions: Sequence[Question]) -> list[Any]:
    go = held(service.worker, service.served(""))
    waiting = [asyncio.ensure_future(service.explained(q)) for q in questions]
    while service.worker.waiting < len(questions):
        await asyncio.sleep(0.01)
    go.set()
    return await asyncio.gather(*waiting, return_exceptions=True)


def test_clients_that_wait_together_share_one_pass(service: Service, models: dict[str, Served]) -> None:
    """Each has a target of its own; the numbers are those of each alone, and one wrong target fails nobody else."""
    wanted = ["", "pear", "plum against apple", "2", "none such", "apple"]
    questions = [Question(input_id=str(k), target=target) for k, target in enumerate(wanted)]
    found = asyncio.run(gathered(service, questions))
    assert (service.worker.done, service.worker.turns) == (7, 2)
    assert isinstance(found[4], TargetError)
    network = models["softcam"].network
    for k, explained in enumerate(found):
        if k != 4:
            e = pl.explain(network, explained.upload.x, wanted[k] or None)
            assert torch.allclose(explained.explanation.map, e.map, atol=1e-5)
            assert torch.allclose(explained.explanation.score, e.score, atol=1e-5)
            assert explained.explanation.provenance["network"] == "SoftCAM"


def test_a_pass_is_made_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients with one input, and the same input with another class later."""
    sizes, eager = [], Passes._eager
    monkeypatch.setattr(Passes, "_eager", lambda self, x: [sizes.append(len(x)), eager(self, x)][1])
    asyncio.run(
        gathered(service, [Question(input_id="0"), Question(input_id="0", target="pear"), Question(input_id="1")])
    )
    asyncio.run(gathered(service, [Question(input_id="0", target="plum")]))
    assert sizes == [2]


def test_no_more_than_so_many_together(service: Service) -> None:
    questions = [Question(input_id=str(k % 8), target=str(k % 3)) for k in range(MOST_TOGETHER + 3)]
    asyncio.run(gathered(service, questions))
    assert service.worker.turns == 3


def test_work_for_nobody_is_not_begun(service: Service) -> None:
    async def leave() -> None:
        go = held(service.worker, service.served(""))
        waiting = asyncio.ensure_future(service.explained(Question(input_id="0")))
        while service.worker.waiting < 1:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go.set()
        await service.explained(Question(input_id="1"))

    asyncio.run(leave())
    assert service.worker.done == 2


def test_work_for_nobody_stops_at_the_next_pass(service: Service, models: dict[str, Served]) -> None:
    ran = []

    async def leave() -> None:
        slow = Question(input_id="0", method="rise", options={"masks": 4000})
        waiting = asyncio.ensure_future(service.explained(slow))
        while not ran:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await service.explained(Question(input_id="1"))

    inner: Any = models["softcam"].network.model
    handle = inner.register_forward_hook(lambda *_: ran.append(1))
    try:
        asyncio.run(leave())
    finally:
        handle.remove()
    assert len(ran) < 100
    assert not inner._forward_pre_hooks


def test_the_patient_let_others_pass(models: dict[str, Served]) -> None:
    worker, order = Worker(), []
    one = models["softcam"]
    go = held(worker, one)

    def note(payloads: Sequence[str]) -> Sequence[str]:
        order.extend(payloads)
        return payloads

    works = [Work(one, None, name, note, patient=name.startswith("p")) for name in ("p1", "a", "p2", "b")]
    waiting = [worker.add(work) for work in works]
    go.set()
    for future in waiting:
        future.result(timeout=5)
    worker.close()
    assert order == ["a", "b", "p1", "p2"]


def test_the_patient_begin_again(service: Service, models: dict[str, Served]) -> None:
    """Long work for nobody in particular does not keep a person waiting, and is done in the end."""
    ran: list[int] = []

    async def ask() -> None:
        slow = Question(input_id="0", method="rise", options={"masks": 2000})
        waiting = asyncio.ensure_future(service.explained(slow, patient=True))
        while not ran:
            await asyncio.sleep(0.01)
        await service.explained(Question(input_id="1"))
        assert not waiting.done()
        assert len(ran) < 100
        found = await waiting
        expected = pl.explain(models["softcam"].network, found.upload.x, method="rise", masks=2000)
        assert torch.equal(found.explanation.map, expected.map)

    inner: Any = models["softcam"].network.model
    handle = inner.register_forward_hook(lambda *_: ran.append(1))
    try:
        asyncio.run(ask())
    finally:
        handle.remove()


def test_what_fails_fails_alone_and_the_thread_lives_on(models: dict[str, Served]) -> None:
    worker, one = Worker(), models["softcam"]

    def fail(payloads: Sequence[Any]) -> Sequence[Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        worker.add(Work(one, None, None, fail)).result(timeout=5)
    assert worker.add(Work(one, None, 1, list)).result(timeout=5) == 1
    assert worker.alive
    worker.close()
    assert not worker.alive


def test_what_is_kept_is_bounded() -> None:
    kept: Kept[str] = Kept(10)
    for name, size in (("a", 4), ("b", 4)):
        kept.put(name, name, size)
    assert kept.get("a") == "a"
    kept.put("c", "c", 4)  # b was not asked for longest
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == ("a", None, "c")
    kept.put("a", "again", 6)
    assert (kept.bytes, len(kept)) == (10, 2)


@pytest.mark.slow
def test_a_fast_backend_tells_the_same(models: dict[str, Served]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = models["softcam"].network
    fast = Passes.fast(network, (3, 64, 64), "onnxruntime")
    x = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert sorted(fast.runs) == sorted(AT_A_TIME)
    for own, made in zip(Passes(network, (3, 64, 64))(x), fast(x), strict=True):
        scale = float(own.maps.abs().max())
        assert torch.allclose(own.maps, made.maps, atol=1e-4 * scale)
        assert torch.allclose(own.logits, made.logits, atol=1e-4)
        assert torch.allclose(own.bias, made.bias, atol=1e-5)
        assert own.geometry == made.geometry
    other = torch.randn(1, 3, 96, 96)
    assert torch.equal(fast(other)[0].maps, Passes(network, (3, 64, 64))(other)[0].maps)
