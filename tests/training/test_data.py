from __future__ import annotations

from typing import Any

import pytest
import torch

from pellucid.errors import BadInput
from pellucid.sample import Sample
from pellucid.training.data import Source, first_sample, in_turn, seed_of, shuffled, some


def read(source: Source) -> list[torch.Tensor]:
    batches = source.batches(in_turn(len(source.dataset), source.batch_size))
    return [b.inputs(torch.device("cpu"), torch.float32) for b in batches if b is not None]


def test_batches_are_the_samples(rank: int, toy: Any) -> None:
    data = toy(n=10, size=(4, 6, 5)[:rank])
    expected = torch.stack([data[i].input for i in range(10)])
    for options in ({"cache_mib": 0}, {"cache_mib": 100}, {"cache_mib": 0, "workers": 2}, {"workers": 3}):
        source = Source(data, 4, "multiclass", **options)
        for _ in range(2):
            found = read(source)
            assert [len(x) for x in found] == [4, 4, 2]
            assert torch.equal(torch.cat(found), expected)
    batch = next(source.batches([[3, 2]]))
    assert batch is not None
    assert batch.labels.tolist() == [1, 1]
    assert (batch.names, batch.groups) == (("s3", "s2"), ("p1", "p1"))


class Counting:
    classes, fingerprint = ("a", "b"), "counting"

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs, self.reads = inputs, 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        return Sample(input=self.inputs[index], label=0, name=f"s{index}")


def test_samples_are_read_once_while_they_fit() -> None:
    inputs = torch.randn(6, 1, 512, 512)  # one MiB each
    for limit, reads in [(100, 6), (3, 6 + 3), (0, 12)]:
        data = Counting(inputs)
        source = Source(data, 2, "multiclass", cache_mib=limit)  # type: ignore[arg-type]
        read(source)
        assert torch.equal(torch.cat(read(source)), inputs)
        assert data.reads == reads


def test_pictures_are_kept_as_bytes_without_loss() -> None:
    inputs = torch.arange(256).view(1, 1, 16, 16).float() / 255
    source = Source(Counting(inputs), 1, "multiclass")  # type: ignore[arg-type]
    assert torch.equal(read(source)[0], inputs)
    kept = source._kept[0]
    assert kept is not None
    assert kept[0].input.dtype == torch.uint8
    near = torch.nextafter(inputs, torch.ones(()))
    source = Source(Counting(near), 1, "multiclass")  # type: ignore[arg-type]
    assert torch.equal(read(source)[0], near)


def test_bad_samples_are_listed_and_skipped(toy: Any) -> None:
    data = toy(n=20, bad=(4, 5))
    source = Source(data, 2, "multiclass", max_bad=0.1)
    batches = list(source.batches(in_turn(20, 2)))
    assert batches[2] is None
    assert sum(len(b) for b in batches if b is not None) == 18
    assert source.skipped == {"s4": "File 4 is damaged.", "s5": "File 5 is damaged."}


def test_too_many_bad_samples_stop(toy: Any) -> None:
    source = Source(toy(n=20, bad=(4, 5, 6)), 2, "multiclass", max_bad=0.1)
    with pytest.raises(BadInput, match="3 of 20 samples cannot be used") as caught:
        list(source.batches(in_turn(20, 2)))
    assert "s6: File 6 is damaged." in caught.value.why
    with pytest.raises(BadInput, match="cannot be used"):
        first_sample(toy(n=3, bad=(0, 1, 2)))
    assert first_sample(toy(n=20, bad=(0,))).name == "s1"


def test_an_odd_size_is_named(toy: Any) -> None:
    class Odd(toy):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample.changed(input=sample.input[:, :3]) if index == 1 else sample

    with pytest.raises(BadInput, match="Sample 's1' has shape"):
        list(Source(Odd(n=4), 2, "multiclass").batches([[0, 1]]))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = shuffled(10, 3, seed=1, epoch=2)
    torch.manual_seed(99)
    assert shuffled(10, 3, seed=1, epoch=2) == first
    assert shuffled(10, 3, seed=1, epoch=3) != first
    assert shuffled(10, 3, seed=2, epoch=2) != first
    assert sorted(i for b in first for i in b) == list(range(10))


@pytest.mark.parametrize(
    ("count", "size", "lengths"), [(10, 3, [3, 3, 4]), (9, 3, [3, 3, 3]), (1, 3, [1]), (4, 1, [1, 1, 1, 1])]
)
def test_no_batch_of_one_is_left_over(count: int, size: int, lengths: list[int]) -> None:
    assert [len(b) for b in shuffled(count, size, 0, 0)] == lengths


def test_a_seeded_choice(toy: Any) -> None:
    data = toy(n=30)
    chosen = some(data, 7, seed=3)
    names = [chosen[i].name for i in range(len(chosen))]
    assert len(set(names)) == 7
    assert names == [some(data, 7, seed=3)[i].name for i in range(7)]
    assert names != [some(data, 7, seed=4)[i].name for i in range(7)]
    assert some(data, None, 0) is data
    assert some(data, 30, 0) is data


def test_seeds_are_the_same_everywhere() -> None:
    assert seed_of("order", 0, 1) == 5235859805464026190
    assert len({seed_of("order", 0, 1), seed_of("order", 1, 0), seed_of("step", 0, 1)}) == 3
