"""Attribution methods by name. Each is a function `(call, x, target, **options) -> Attribution` in a file of that name."""

from pellucid.registry import MethodRow

METHODS: dict[str, MethodRow] = {
    "evidence": MethodRow(
        "pellucid.methods.evidence:evidence",
        "what each place adds to the logit of a SoftCAM, in one forward pass",
        paper="Djoumessi and Berens 2025, arXiv:2505.17748",
        needs=frozenset({"evidence"}),
        complete=True,
    ),
    "cam": MethodRow(
        "pellucid.methods.cam:cam",
        "class activation map: the last feature map weighted by the linear head",
        paper="Zhou et al. 2016, arXiv:1512.04150",
        needs=frozenset({"layer"}),
        complete=True,
    ),
    "grad_cam": MethodRow(
        "pellucid.methods.grad_cam:grad_cam",
        "a layer's feature map weighted by the mean gradient of the score",
        paper="Selvaraju et al. 2017, arXiv:1610.02391",
        needs=frozenset({"layer", "gradient"}),
    ),
    "saliency": MethodRow(
        "pellucid.methods.saliency:saliency",
        "the gradient of the score with respect to the input",
        paper="Simonyan et al. 2013, arXiv:1312.6034",
        needs=frozenset({"gradient"}),
        space="pixels",
    ),
    "random_map": MethodRow(
        "pellucid.methods.random_map:random_map",
        "noise on the cells of the last feature map: the control that every method has to beat",
        needs=frozenset({"layer"}),
        control=True,
    ),
}

__all__ = ["METHODS"]
