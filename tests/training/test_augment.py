from __future__ import annotations

import pytest
import torch

from pellucid.errors import OptionError
from pellucid.training.augment import augment, check, colours_of, laterality_note, sides_matter
from pellucid.training.config import TrainingConfig


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
    found = as_set(augment(x, names, chance())[0])
    assert found == {move(x[0].numpy()).copy().tobytes() for move in moves}


def test_rotations_are_the_four_quarter_turns() -> None:
    import numpy as np

    x = torch.arange(2 * 3 * 3.0).view(2, 3, 3).expand(200, 2, 3, 3)
    assert as_set(augment(x, ["rotate90"], chance())[0]) == {
        np.rot90(x[0].numpy(), k, axes=(1, 2)).copy().tobytes() for k in range(4)
    }


def test_all_ops_reach_the_eight_symmetries_of_the_square() -> None:
    x = torch.arange(9.0).view(1, 3, 3).expand(400, 1, 3, 3)
    assert len(as_set(augment(x, ["hflip", "vflip", "transpose"], chance())[0])) == 8


def test_chance_comes_from_the_generator_alone_and_the_input_stays() -> None:
    x = torch.randn(16, 1, 4, 4, generator=chance(5))
    before, state = x.clone(), torch.get_rng_state()
    assert torch.equal(augment(x, ["hflip", "rotate90"], chance(1))[0], augment(x, ["hflip", "rotate90"], chance(1))[0])
    assert not torch.equal(
        augment(x, ["hflip", "rotate90"], chance(1))[0], augment(x, ["hflip", "rotate90"], chance(2))[0]
    )
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_bytes_and_numbers_move_alike() -> None:
    x = torch.randint(0, 256, (8, 3, 4, 4), generator=chance(3)).to(torch.uint8)
    names = ["hflip", "vflip", "transpose", "rotate90"]
    assert torch.equal(augment(x, names, chance(4))[0].float(), augment(x.float(), names, chance(4))[0])


def test_ops_that_do_not_fit_are_refused() -> None:
    check(["hflip"], (140,))
    with pytest.raises(OptionError, match="needs 2 spatial axes"):
        check(["vflip"], (140,))
    with pytest.raises(OptionError, match="as high as wide"):
        check(["transpose"], (4, 5))


def test_loss_of_laterality_is_said() -> None:
    assert laterality_note(["vflip"]) is None
    assert "hflip, rotate90" in str(laterality_note(["hflip", "vflip", "rotate90"]))


COLOURS = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def pictures(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth blobs, and the masks that are exactly where the first channel is high."""
    centres = torch.rand(n, 2, generator=chance(1)) * 20 + 6
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    far = (rows - centres[:, 0, None, None]).square() + (columns - centres[:, 1, None, None]).square()
    blobs = torch.exp(-far / 18)
    return blobs[:, None].repeat(1, 3, 1, 1), blobs > 0.5


@pytest.mark.parametrize("name", ["hflip", "vflip", "transpose", "rotate90", "crop", "rotation", "translation"])
def test_masks_move_with_their_pictures(name: str) -> None:
    x, masks = pictures()
    config = TrainingConfig(rotation_degrees=90, translation_share=0.3, crop_scale=(0.5, 0.8))
    moved, along = augment(x, [name], chance(2), masks=masks, config=config)
    assert along is not None
    changed = [i for i in range(len(x)) if not torch.equal(x[i], moved[i])]
    assert 0 < len(changed) < len(x)
    for i in range(len(x)):
        inside = moved[i, 0] > 0.5
        either = (inside | along[i]).sum()
        assert (inside & along[i]).sum() >= 0.7 * either  # the mask goes to the nearest pixel, the picture between two


def test_colours_change_on_values_from_0_to_1() -> None:
    """torchvision's own op on the picture before it was normalised, with the same draws."""
    from torchvision.transforms import v2

    plain = torch.rand(40, 3, 6, 6, generator=chance(3))
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in COLOURS)
    config = TrainingConfig(jitter=(0.4, 0, 0, 0))
    masks = torch.ones(40, 6, 6, dtype=torch.bool)
    found, along = augment((plain - mean) / std, ["jitter"], chance(4), masks=masks, config=config, colours=COLOURS)
    again = found * std + mean
    ratio = [float((again[i] / plain[i]).median()) for i in range(40)]
    assert sum(abs(r - 1) > 1e-4 for r in ratio) in range(8, 33)
    assert all(0.59 < r < 1.41 for r in ratio)
    for i in range(40):
        torch.testing.assert_close(again[i], v2.functional.adjust_brightness(plain[i], ratio[i]), rtol=1e-3, atol=1e-3)
    assert along is not None
    assert along.all()


def test_what_comes_in_from_outside_is_black() -> None:
    x = torch.ones(8, 3, 16, 16)
    moved, _ = augment(x, ["rotation"], chance(5), config=TrainingConfig(rotation_degrees=45), colours=COLOURS)
    turned = next(m for m in moved if not torch.equal(m, x[0]))
    torch.testing.assert_close(turned[:, 0, 0], torch.tensor([-m / s for m, s in zip(*COLOURS, strict=True)]))


def test_pictures_draw_from_the_generator_alone() -> None:
    x, masks = pictures()
    state = torch.get_rng_state()
    first = augment(x, ["crop", "rotation"], chance(6), masks=masks)
    again = augment(x, ["crop", "rotation"], chance(6), masks=masks)
    assert torch.equal(first[0], again[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augment(x, ["crop", "rotation"], chance(7))[0], first[0])


@pytest.mark.parametrize("name", ["crop", "rotation", "translation", "jitter"])
def test_signals_and_volumes_take_no_ops_of_pictures(name: str) -> None:
    for size in ((140,), (8, 8, 8)):
        with pytest.raises(OptionError, match="is for pictures"):
            check([name], size)


def test_colours_must_be_known() -> None:
    check(["jitter"], (8, 8), 3, COLOURS)
    with pytest.raises(OptionError, match="must know them") as unknown:
        check(["jitter"], (8, 8), 3, None)
    assert "normalised" in unknown.value.why
    with pytest.raises(OptionError, match="must know them") as many:
        check(["jitter"], (8, 8), 4, COLOURS)
    assert "4 channels" in many.value.why


def test_data_sets_tell_colours_and_sides() -> None:
    from pellucid.data import open_data
    from pellucid.sample import Subset

    data = open_data("lesionlab:fundus", n_images=4, size=64, marker="letter")
    assert colours_of(Subset(data, (0, 1))) == (data.mean, data.std)
    assert sides_matter(Subset(data, (0, 1)))
    assert not sides_matter(open_data("lesionlab:fundus", n_images=4, size=64))


def test_turns_are_blind_where_they_reach_the_other_side() -> None:
    assert laterality_note(["rotation"], degrees=15) is None
    assert "rotation" in str(laterality_note(["rotation"], degrees=180))
    assert str(laterality_note(["hflip"], matters=True)).startswith("Warning")
