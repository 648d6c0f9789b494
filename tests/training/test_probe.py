"""The probe is scikit-learn's logistic regression, written into the head; nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import pellucid as pl
from pellucid.data.lesionlab import LesionLab
from pellucid.errors import BadInput, OptionError
from pellucid.models.s8 import S8
from pellucid.sample import Subset, collate
from pellucid.training.probe import probe
from reference.nets import GapNet
from reference.samples import Samples


def test_probe_gives_the_regressions_probabilities() -> None:
    torch.manual_seed(0)
    data = LesionLab(n_images=40, size=64)
    train, held = Subset(data, tuple(range(30))), Subset(data, tuple(range(30, 40)))
    softcam = pl.convert(S8(channels=(8, 8), strides=(4, 4)).eval(), data[0].input[None])
    before = {k: v.clone() for k, v in softcam.state_dict().items()}
    fitted = probe(softcam, train)

    def pooled(subset: Subset) -> np.ndarray:
        with torch.no_grad():
            return softcam.model.features(collate(list(subset))).flatten(2).mean(2).double().numpy()

    scaler = StandardScaler().fit(pooled(train))
    reference = LogisticRegression(max_iter=5000).fit(scaler.transform(pooled(train)), [s.label for s in train])
    with torch.no_grad():
        ours = fitted(collate(list(held))).softmax(1).numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(scaler.transform(pooled(held))), atol=2e-4)
    assert all(torch.equal(v, softcam.state_dict()[k]) for k, v in before.items())  # the given network is untouched
    assert all(torch.equal(v, fitted.state_dict()[k]) for k, v in before.items() if "head" not in k)


def test_samples_that_cannot_be_read_are_left_out() -> None:
    softcam = pl.convert(GapNet(2, classes=2).eval(), Samples()[0].input[None])
    fitted = probe(softcam, Samples(n=8, bad=(2, 5)), batch_size=2)
    wanted = probe(softcam, Subset(Samples(n=8), (0, 1, 3, 4, 6, 7)), batch_size=2)
    assert all(torch.allclose(v, wanted.state_dict()[k]) for k, v in fitted.state_dict().items())
    with pytest.raises(BadInput, match="No sample can be read"):
        probe(softcam, Samples(n=2, bad=(0, 1)))


def test_a_network_without_a_head_is_refused() -> None:
    with pytest.raises(OptionError, match="no linear head"):
        probe(S8(), LesionLab(n_images=4, size=64))
