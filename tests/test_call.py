from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call, has_evidence, unwrapped, weights_device
from pellucid.errors import OptionError


class Network(nn.Module):
    """Returns what it was given, in the order of its parameters."""

    def forward(self, first: Any, second: Any = None, *, extra: Any = None) -> Any:
        return first, second, extra


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output


X = torch.ones(2, 3)
Y = torch.zeros(2, 3)


def test_the_explained_input_goes_first_or_by_name() -> None:
    whole = {"output": lambda o: o}
    assert Call(Network(), args=(1,), kwargs={"extra": 2}, **whole)(X) == (X, 1, 2)
    assert Call(Network(), args=(1,), input_name="second", **whole)(X) == (1, X, None)
    assert Call(Network(), args=(1,), input_name="extra", **whole)(X) == (1, None, X)


@pytest.mark.parametrize(
    ("output", "choice"),
    [
        ((X, Y), 1),
        ([X, Y], -1),
        ({"a": X, "b": Y}, "b"),
        (namedtuple("Out", "a b")(X, Y), "b"),
        (namedtuple("Out", "a b")(X, Y), 1),
        ((X, Y), lambda o: o[1]),
        (Y, None),
    ],
)
def test_the_chosen_part_is_what_call_gives(output: Any, choice: Any) -> None:
    assert Call(Returns(output), output=choice)(X) is Y


def test_detections_pass_whole() -> None:
    found = [{"boxes": X}, {"boxes": Y}]
    assert Call(Returns(found))(X) is found


@pytest.mark.parametrize(
    ("output", "choice", "says"),
    [
        ((X, Y), None, "tuple of 2 parts"),
        ({"out": X, "aux": Y}, None, "output='out'"),
        ({"out": X}, "uot", "Did you mean 'out'"),
        ((X, Y), 5, "no part 5"),
        (namedtuple("Out", "a b")(X, Y), "c", "a, b"),
        (X, "logits", "no part 'logits'"),
    ],
)
def test_a_choice_that_is_not_there_is_an_error_with_the_way_out(output: Any, choice: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Call(Returns(output), output=choice)(X)


def test_rows_pick_from_what_belongs_to_the_inputs() -> None:
    per_input, shared, empty = torch.arange(4.0), torch.ones(3), torch.tensor(7)
    call = Call(Network(), args=(per_input, shared), kwargs={"extra": per_input + 10, "word": "x", "n": empty}, batch=4)
    part = call.rows(torch.tensor([3, 3, 0]))
    assert part.args[0].tolist() == [3, 3, 0]
    assert part.args[1] is shared
    assert part.kwargs["extra"].tolist() == [13, 13, 10]
    assert part.kwargs["word"] == "x"
    assert part.kwargs["n"] is empty
    assert part.batch == 3
    assert part.rows(torch.tensor([2])).args[0].tolist() == [0]
    assert call.args[0] is per_input


def test_rows_without_a_bound_batch_change_nothing() -> None:
    call = Call(Network(), args=(torch.arange(4.0),))
    assert call.rows(torch.tensor([1])) is call


def test_where_a_network_lives() -> None:
    assert weights_device(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert weights_device(nn.BatchNorm1d(2, affine=False, device="meta")) == torch.device("meta")
    assert weights_device(nn.ReLU()) == torch.device("cpu")


def test_the_network_behind_its_wrappers() -> None:
    net = Network()
    assert unwrapped(nn.DataParallel(nn.DataParallel(net))) is net
    assert unwrapped(net) is net


def test_evidence_is_a_method_of_the_network() -> None:
    class Told(nn.Module):
        def evidence(self, x: Tensor, factor: float) -> Tensor:
            return x * factor

    assert has_evidence(Told())
    assert torch.equal(Call(Told(), args=(3.0,)).evidence(X), X * 3)
    assert not has_evidence(nn.ReLU())
    with pytest.raises(OptionError, match="Convert it first"):
        Call(nn.ReLU()).evidence(X)


def test_a_network_is_bound_as_it_is_and_a_call_stays() -> None:
    class Told(nn.Module):
        output = "logits"

        def evidence(self) -> None: ...

    told = Told()
    assert (Call.of(told).model, Call.of(told).output) == (told, "logits")  # it knows where its logits are
    relu = nn.ReLU()
    assert (Call.of(nn.DataParallel(relu)).model, Call.of(relu).output) == (relu, None)
    call = Call(relu, output=0)
    assert Call.of(call) is call
