from __future__ import annotations

import pytest
import torch

from pellucid.errors import OptionError
from pellucid.training.augment import augment, check, laterality_note


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_set(x: torch.Tensor) -> set[bytes]:
    return {row.contiguous().numpy().tobytes() for row in x}


@pytest.mark.parametrize(
    ("names", "moves"),
    [
        (["hflip"], [lambda a: a, lambda a: a[:, :, ::-1]]),
        (["vflip"], [lambda a: a, lambda a: a[:, ::-1]]),
        (["transpose"], [lambda a: a, lambda a: a.transpose(0, 2, 1)]),
    ],
)
def test_each_op_is_done_or_not(names: list[str], moves: list) -> None:
    x = torch.arange(2 * 4 * 4.0).view(2, 4, 4).expand(200, 2, 4, 4)
    found = as_set(augment(x, names, chance()))
    assert found == {move(x[0].numpy()).copy().tobytes() for move in moves}


def test_rotations_are_the_four_quarter_turns() -> None:
    import numpy as np

    x = torch.arange(2 * 3 * 3.0).view(2, 3, 3).expand(200, 2, 3, 3)
    assert as_set(augment(x, ["rotate90"], chance())) == {
        np.rot90(x[0].numpy(), k, axes=(1, 2)).copy().tobytes() for k in range(4)
    }


def test_all_ops_reach_the_eight_symmetries_of_the_square() -> None:
    x = torch.arange(9.0).view(1, 3, 3).expand(400, 1, 3, 3)
    assert len(as_set(augment(x, ["hflip", "vflip", "transpose"], chance()))) == 8


def test_chance_comes_from_the_generator_alone_and_the_input_stays() -> None:
    x = torch.randn(16, 1, 4, 4, generator=chance(5))
    before, state = x.clone(), torch.get_rng_state()
    assert torch.equal(augment(x, ["hflip", "rotate90"], chance(1)), augment(x, ["hflip", "rotate90"], chance(1)))
    assert not torch.equal(augment(x, ["hflip", "rotate90"], chance(1)), augment(x, ["hflip", "rotate90"], chance(2)))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_bytes_and_numbers_move_alike() -> None:
    x = torch.randint(0, 256, (8, 3, 4, 4), generator=chance(3)).to(torch.uint8)
    names = ["hflip", "vflip", "transpose", "rotate90"]
    assert torch.equal(augment(x, names, chance(4)).float(), augment(x.float(), names, chance(4)))


def test_ops_that_do_not_fit_are_refused() -> None:
    check(["hflip"], (140,))
    with pytest.raises(OptionError, match="needs 2 spatial axes"):
        check(["vflip"], (140,))
    with pytest.raises(OptionError, match="as high as wide"):
        check(["transpose"], (4, 5))


def test_loss_of_laterality_is_said() -> None:
    assert laterality_note(["vflip"]) is None
    assert "hflip, rotate90" in str(laterality_note(["hflip", "vflip", "rotate90"]))
