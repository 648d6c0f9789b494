"""Retinal OCT of Kermany et al. (Cell 2018): train and test folders of classes, the patient in the file name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.data.folder import folder
from pellucid.data.image_set import ImageSet
from pellucid.errors import OptionError, nearest

CLASSES = ("NORMAL", "DRUSEN", "DME", "CNV")
PATIENT = r"(?:NORMAL|DRUSEN|DME|CNV)-(\d+)-\d+\.[^/]*$"


def kermany_oct(
    source: str | Path, *, split: str = "train", classes: Sequence[str] = CLASSES, **options: Any
) -> ImageSet:
    """The data set as published: `DIR/train/NORMAL/NORMAL-1384-1.jpeg`, and so on; the middle number is the patient.

    split: "train", "val" (where there is one), "test" or "all". classes: which, in order; NORMAL and DRUSEN alone are the
    task of the SoftCAM paper. Other options are those of `Preparation`. Some versions share patients between train and
    test: `pellucid inspect` counts them. Raises `BadInput` for a folder of another layout.
    """
    root = Path(source)
    wanted = (classes,) if isinstance(classes, str) else tuple(classes)
    for name in wanted:
        if name not in CLASSES:
            raise OptionError(f"There is no class '{name}'.", hint=nearest(name, CLASSES))
    return folder(root, split=split, classes=wanted, group=PATIENT, only=True, **options)
