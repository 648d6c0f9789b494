"""Metrics of explanations by name. Each is a pure function of what it names in its signature, in a file of that name."""

from pellucid.registry import MetricRow

METRICS: dict[str, MetricRow] = {
    "pointing_game": MetricRow(
        "pellucid.metrics.pointing_game:pointing_game",
        "is the map's highest point in the mask, or within a tolerance of it",
        paper="Zhang et al. 2018, arXiv:1608.00507",
        property="localisation",
        higher_is_better=True,
    ),
    "relevance_mass": MetricRow(
        "pellucid.metrics.relevance_mass:relevance_mass",
        "share of the positive part of the map that lies in the mask, and the same over the mask's share of the area",
        paper="Arras et al. 2022, arXiv:2003.07258",
        property="localisation",
        higher_is_better=True,
        parts=("", "over_area"),
    ),
    "deletion": MetricRow(
        "pellucid.metrics.deletion:deletion",
        "area under the answer's curve while the highest places are removed first",
        paper="Petsiuk et al. 2018, arXiv:1806.07421",
        property="faithfulness",
        higher_is_better=False,
        parts=("probability", "log_odds"),
    ),
    "insertion": MetricRow(
        "pellucid.metrics.insertion:insertion",
        "area under the answer's curve while the highest places are shown first",
        paper="Petsiuk et al. 2018, arXiv:1806.07421",
        property="faithfulness",
        higher_is_better=True,
        parts=("probability", "log_odds"),
    ),
    "sparseness": MetricRow(
        "pellucid.metrics.sparseness:sparseness",
        "Gini index of the sizes of the map's values: 0 for a flat map, towards 1 for a single cell",
        paper="Hurley and Rickard 2009, arXiv:0811.4706",
        property="complexity",
    ),
    "completeness_residual": MetricRow(
        "pellucid.metrics.completeness_residual:completeness_residual",
        "what is missing when the parts of a complete explanation are added up, relative to the score",
        property="completeness",
        higher_is_better=False,
    ),
}

__all__ = ["METRICS"]
