"""The colour map against an independent colour space (scikit-image) and a published model of colour blindness."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.render.colour import UNKNOWN, diverging, stops

# Full loss of red or green cones: Machado, Oliveira and Fernandes 2009, table 1, severity 1, on linear RGB.
PROTAN = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
DEUTAN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])


def lab(rgb: np.ndarray) -> np.ndarray:
    colour = pytest.importorskip("skimage.color")
    return np.asarray(colour.rgb2lab(rgb / 255.0))


def test_signs_have_their_colours_and_zero_is_white() -> None:
    blue, white, orange = diverging(np.array([-2.0, 0.0, 2.0]), 2.0).astype(int)
    assert white.tolist() == [255, 255, 255]
    assert blue[2] > blue[1] > blue[0]
    assert orange[0] > orange[1] > orange[2]


def test_lightness_falls_evenly_and_equally_on_both_sides() -> None:
    at = np.linspace(0, 1, 21)
    up, down = lab(diverging(at, 1.0))[:, 0], lab(diverging(-at, 1.0))[:, 0]
    np.testing.assert_allclose(up, 100 - 44 * at, atol=0.6)
    np.testing.assert_allclose(down, up, atol=0.8)


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_steps_look_equal(sign: int) -> None:
    steps = np.linalg.norm(np.diff(lab(diverging(sign * np.linspace(0, 1, 6), 1.0)), axis=0), axis=1)
    assert steps.max() / steps.min() < 1.1  # what 8 bits leave of evenness


@pytest.mark.parametrize("eye", [PROTAN, DEUTAN])
def test_the_colour_blind_tell_the_sides_apart(eye: np.ndarray) -> None:
    rgb = diverging(np.array([-1.0, -0.5, 0.5, 1.0]), 1.0) / 255.0
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ eye.T
    seen = lab(
        255
        * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.clip(linear, 0, 1) ** (1 / 2.4) - 0.055).clip(0, 1)
    )
    assert np.linalg.norm(seen[0] - seen[3]) > 60
    assert np.linalg.norm(seen[1] - seen[2]) > 30


def test_values_beyond_the_limit_stay_at_its_colour() -> None:
    np.testing.assert_array_equal(diverging(np.array([9.0, -9.0]), 1.0), diverging(np.array([1.0, -1.0]), 1.0))


def test_no_limit_is_white_and_no_number_is_grey() -> None:
    assert diverging(np.array([0.0, 5.0]), 0.0).min() == 255
    assert diverging(np.array([np.nan, np.inf]), 1.0).tolist() == [list(UNKNOWN)] * 2


def test_stops_run_from_blue_to_orange() -> None:
    found = stops(3)
    rgb = diverging(np.array([-1.0, 1.0]), 1.0)
    assert found == ["#{:02x}{:02x}{:02x}".format(*rgb[0]), "#ffffff", "#{:02x}{:02x}{:02x}".format(*rgb[1])]
