"""Views of a network's inside by name. Each is a function of the network in a file of that name."""

from pellucid.registry import ViewRow

VIEWS: dict[str, ViewRow] = {
    "filters": ViewRow(
        "pellucid.views.filters:filters",
        "the kernels of a convolution, longest first; the first layer in colour",
        paper="Zeiler and Fergus 2014, arXiv:1311.2901",
        needs=frozenset({"layer"}),
    ),
    "feature_maps": ViewRow(
        "pellucid.views.feature_maps:feature_maps",
        "a layer's responses to an input, ranked by what each channel adds to the target",
        paper="Zhou et al. 2016, arXiv:1512.04150; Shrikumar et al. 2016, arXiv:1605.01713",
        needs=frozenset({"layer", "input", "target"}),
    ),
    "activation_maximisation": ViewRow(
        "pellucid.views.activation_maximisation:activation_maximisation",
        "an input that excites a class, or a channel of a layer, as strongly as can be done",
        paper="Erhan et al. 2009, report 1341, University of Montreal; Simonyan et al. 2013, arXiv:1312.6034; Olah et al. 2017, doi:10.23915/distill.00007",
        needs=frozenset({"input"}),
    ),
}

__all__ = ["VIEWS"]
