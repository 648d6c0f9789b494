"""Mistakes found in other libraries, by number. A test marked `bug("B1")` fails on what the library does.

As found in pytorch-grad-cam 1.5.7, torch-cam 0.5.0, Captum 0.9.0, Zennit 0.5.1, Quantus 0.6.0 and MONAI (source of June 2025).
"""

from __future__ import annotations

MISTAKES = {
    "B1": "a stored activation is changed by what works in place after the layer (torch-cam, pytorch-grad-cam)",
    "B2": "the network is left in another mode, without the user's gradients and with new ones (pytorch-grad-cam)",
    "B3": "a `with` block swallows the error of a class that does not exist (pytorch-grad-cam)",
    "B4": "one target for four images explains the first image alone (pytorch-grad-cam)",
    "B5": "a confident negative of a single logit is explained as positive; output (batch,) fails (pytorch-grad-cam)",
    "B6": "of a layer that runs twice the first run is used, without a word (pytorch-grad-cam)",
    "B7": "a class for each input picks a square of classes, and the display is upside down (MONAI)",
    "B8": "with ties or an automatic threshold the wrong places count as most relevant (ROAD in pytorch-grad-cam)",
    "B9": "the drop in confidence is not divided by the confidence (pytorch-grad-cam)",
    "B10": "resizing volumes makes values below 0 and above the largest (pytorch-grad-cam)",
    "B11": "every map is stretched to full scale, and flat ones vanish or become nan (pytorch-grad-cam, torch-cam)",
    "B12": "an error half way leaves another layer in the user's network (AblationCAM in pytorch-grad-cam)",
    "B13": "ReLUs are exchanged for a single one for good (pytorch-grad-cam); functional ones are not met (Captum, Zennit)",
    "B14": "Grad-CAM++ has a small number in its denominator (pytorch-grad-cam), or another alpha (torch-cam)",
    "B15": "the caller's array is changed, and sums are compared without a tolerance (Quantus)",
    "B16": "what is explained changes with what is scored (torch-cam)",
}
