"""NIfTI volumes: real ones against nibabel, made ones with a known place, and damaged ones."""

from __future__ import annotations

import gzip
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data.damage import damaged, inflate_nifti
from data.scans import nifti_file
from pellucid.data import open_data, options_of, reader_for
from pellucid.data.nifti import nifti, read_volume
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset, collate

nibabel = pytest.importorskip("nibabel")
REAL = Path(nibabel.__file__).parent / "tests" / "data"


def raw(path: Path, **options: object) -> torch.Tensor:
    """The values of a file as they are, between two that stand for 0 and 1."""
    return nifti(path, size=None, mean=0.0, std=1.0, window=(0.0, 1.0), **options)[0].input[0]


@pytest.mark.parametrize("name", ["anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz"])
def test_files_of_nibabel(name: str) -> None:
    theirs = nibabel.load(REAL / name)
    ours = read_volume(REAL / name)
    assert np.allclose(ours.values, theirs.get_fdata())
    assert np.allclose(ours.affine, theirs.affine)
    turned = nibabel.as_closest_canonical(theirs)
    assert np.array_equal(ours.canonical().values, ours.values if turned is theirs else turned.get_fdata().astype(np.float32))  # fmt: skip
    assert np.allclose(ours.canonical().affine, turned.affine)
    assert ours.orientation == "".join(nibabel.aff2axcodes(theirs.affine))


def test_the_brain_of_the_atlas(test_data: Path) -> None:
    source = test_data / "volumes_mni"
    assert reader_for(source) == "nifti"
    data = nifti(source, size=32)
    assert isinstance(data, Dataset)
    assert (len(data), data.classes) == (4, ())
    x = collate([data[i] for i in range(4)])
    assert x.shape == (4, 1, 32, 32, 32)
    assert bool(x.isfinite().all())
    sample = data[2]
    theirs = nibabel.load(source / sample.name)
    assert sample.meta["file_size"] == theirs.shape[::-1]
    # The middle of the input and of the file are the same place.
    affine = np.array(sample.meta["affine"])
    middle = [affine @ [15.5, 15.5, 15.5, 1], theirs.affine @ [*((n - 1) / 2 for n in theirs.shape), 1]]
    assert np.allclose(*middle, atol=1e-3)
    whole = nifti(source, size=None)[2]
    assert whole.input.shape == (1, *theirs.shape)


def test_orientation_by_hand(tmp_path: Path) -> None:
    """One bright voxel at a known place in the patient, in a file whose axes run to the left, down and backwards."""
    values = np.zeros((4, 5, 6), np.float32)
    values[1, 2, 3] = 1
    affine = np.array([[-2.0, 0, 0, 10], [0, 0, -4, 20], [0, -3, 0, 30], [0, 0, 0, 1]])
    place = affine @ [1, 2, 3, 1]
    path = nifti_file(tmp_path / "a.nii.gz", values, affine)
    for canonical in (True, False):
        sample = nifti(path, size=None, mean=0.0, std=1.0, window=(0, 1), canonical=canonical)[0]
        (index,) = sample.input[0].nonzero().tolist()
        assert np.allclose(np.array(sample.meta["affine"]) @ [*index, 1], place)
        assert sample.meta["orientation"] == ("RAS" if canonical else "LIP")
        assert sample.meta["file_orientation"] == "LIP"
    assert sample.input.shape == (1, 4, 5, 6)
    assert nifti(path, size=None)[0].input.shape == (1, 4, 6, 5)
    assert nifti(path, size=None)[0].meta["spacing"] == (2, 4, 3)


def test_scaled_values_and_several_volumes(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -1)
    nibabel.save(image, tmp_path / "s.nii")
    theirs = nibabel.load(tmp_path / "s.nii").get_fdata()
    assert np.allclose(read_volume(tmp_path / "s.nii").values, theirs)
    four = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
    path = nifti_file(tmp_path / "four.nii.gz", four)
    assert np.array_equal(read_volume(path, 1).values, four[..., 1])
    with pytest.raises(BadInput, match="holds 2 volumes"):
        nifti(path)[0]
    with pytest.raises(BadInput, match="no volume 2"):
        nifti(path, frame=2)[0]
    assert nifti(path, frame=0, size=8)[0].input.shape == (1, 8, 8, 8)


def test_labels_of_folders_and_tables(tmp_path: Path) -> None:
    for name in ("well/a.nii.gz", "well/b.nii", "ill/c.nii"):
        nifti_file(tmp_path / "data" / name, np.ones((3, 3, 3), np.float32))
    data = open_data(tmp_path / "data", size=4)
    assert data.classes == ("ill", "well")
    assert [(data.facts(i).name, data.facts(i).label) for i in range(3)] == [("ill/c.nii", 0), ("well/a.nii.gz", 1), ("well/b.nii", 1)]  # fmt: skip
    (tmp_path / "labels.csv").write_text("name,label\na,yes\nc,no\n")
    data = open_data(tmp_path / "data", labels=tmp_path / "labels.csv")
    assert (data.classes, [data.facts(i).label for i in range(3)]) == (("no", "yes"), [0, 1, None])
    assert open_data(tmp_path / "data", labels=None).classes == ()
    (tmp_path / "labels.csv").write_text("name,label\nz,yes\n")
    with pytest.raises(OptionError, match="names none of the files"):
        open_data(tmp_path / "data", labels=tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("file,label\nz,yes\n")
    with pytest.raises(OptionError, match="does not say which label is whose"):
        open_data(tmp_path / "data", labels=tmp_path / "labels.csv")


def test_folders_of_subjects_are_patients(tmp_path: Path) -> None:
    for name in ("sub-01/anat/x_T1w.nii", "sub-01/anat/y_T1w.nii", "sub-02/anat/z_T1w.nii"):
        nifti_file(tmp_path / name, np.ones((3, 3, 3), np.float32))
    data = open_data(tmp_path)
    assert data.classes == ()
    assert [data.facts(i).group for i in range(3)] == ["sub-01", "sub-01", "sub-02"]


def test_masks_are_placed_with_their_volumes(tmp_path: Path) -> None:
    flip = np.diag([-1.0, 1, 1, 1])
    values = np.zeros((4, 4, 4), np.float32)
    values[0, 1, 2] = 1
    nifti_file(tmp_path / "v.nii", values, flip)
    nifti_file(tmp_path / "m.nii", (values * 3).astype(np.uint8), flip)
    nifti_file(tmp_path / "n.nii", values, np.eye(4))
    (tmp_path / "t.csv").write_text(
        "path,label,mask,group,site\nv.nii,ill,m.nii,p1,A\nv.nii,well,,p2,B\n".replace("v.nii,well", "./v.nii,well")
    )
    data = open_data(
        f"nifti:{tmp_path / 't.csv'}", size=None, mask_absent="empty", negative="well", mean=0.0, std=1.0, window=[0, 1]
    )
    assert (data[0].mask == (data[0].input[0] == 1)).all()
    assert data[0].mask.sum() == 1
    assert not data[1].mask.any()
    assert (data[0].group, data[0].meta["site"], data.classes) == ("p1", "A", ("ill", "well"))
    assert not open_data(f"nifti:{tmp_path / 't.csv'}", size=None, mask_values=2)[0].mask.any()
    (tmp_path / "t.csv").write_text("path,label,mask\nv.nii,ill,n.nii\n")
    with pytest.raises(BadInput, match="lies elsewhere"):
        open_data(f"nifti:{tmp_path / 't.csv'}")[0]
    with pytest.raises(OptionError, match="nifti:") as caught:
        open_data(tmp_path / "t.csv")
    assert "reader of their own" in caught.value.why


def test_what_is_no_volume(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no data source"):
        open_data("nifti:nowhere.nii")
    (tmp_path / "a.nii").write_bytes(b"text" * 200)
    with pytest.raises(BadInput, match="not a NIfTI file"):
        nifti(tmp_path / "a.nii")[0]
    (tmp_path / "a.nii.gz").write_bytes(b"text" * 200)
    with pytest.raises(BadInput, match="could not be read"):
        nifti(tmp_path / "a.nii.gz")[0]
    nifti_file(tmp_path / "b.nii", np.ones((3, 3, 3), np.float32))
    whole = bytearray((tmp_path / "b.nii").read_bytes())
    whole[42:48] = b"\x00\x10" * 3
    (tmp_path / "b.nii").write_bytes(whole)
    with pytest.raises(BadInput, match="too large"):
        nifti(tmp_path / "b.nii")[0]
    nifti_file(tmp_path / "c.nii", np.ones((3, 3, 3), np.complex64))
    with pytest.raises(BadInput, match="no plain numbers"):
        nifti(tmp_path / "c.nii")[0]


def test_options_and_fingerprint(tmp_path: Path) -> None:
    path = nifti_file(tmp_path / "a.nii", np.ones((3, 3, 3), np.float32))
    assert {"size", "spacing", "labels", "frame", "canonical"} <= set(options_of(path))
    with pytest.raises(OptionError, match="'spacing'"):
        nifti(path, spaceing=1)
    first = nifti(path).fingerprint
    assert nifti(path).fingerprint == first != nifti(path, size=8).fingerprint
    nifti_file(path, np.zeros((3, 3, 3), np.float32))
    assert nifti(path).fingerprint != first


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("packed", ["no", "before", "after"])
def test_damaged_files_give_finite_voxels_or_bad_input(count: int, packed: str, tmp_path: Path) -> None:
    """packed: damage done to a plain file, before it is packed, or to the packed stream."""
    plain = [(REAL / "anatomical.nii").read_bytes()]
    plain += [gzip.decompress((REAL / name).read_bytes()) for name in ("standard.nii.gz", "example_nifti2.nii.gz")]
    originals = [gzip.compress(p) for p in plain] if packed == "after" else plain
    path, ended = tmp_path / ("a.nii" if packed == "no" else "a.nii.gz"), {"read": 0, "refused": 0}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, content in damaged(originals, count, 348, inflate_nifti):
        if packed == "after" and kind == "inflated":
            continue
        path.write_bytes(gzip.compress(content, 1) if packed == "before" else content)
        before = time.process_time()
        try:
            sample = nifti(path, size=32, frame=0)[0]
        except BadInput:
            ended["refused"] += 1
        else:
            assert bool(sample.input.isfinite().all())
            ended["read"] += 1
        assert time.process_time() - before < 2
    assert min(ended.values()) > count // 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1 << 20  # KiB
