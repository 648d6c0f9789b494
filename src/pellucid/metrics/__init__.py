"""Metrics of explanations by name. Each is a pure function of what it names in its signature, in a file of that name.

`SUMMARIES` are scores of a whole table of their values, in a file of that name too.
"""

from pellucid.registry import MetricRow, Metrics, SummaryLeaf

METRICS = Metrics(
    {
        "pointing_game": MetricRow(
            "pellucid.metrics.pointing_game:pointing_game",
            "is the map's highest point in the mask, or within a tolerance of it",
            paper="Zhang et al. 2018, arXiv:1608.00507",
            property="localisation",
            higher_is_better=True,
            parts=("", "cells"),
        ),
        "relevance_mass": MetricRow(
            "pellucid.metrics.relevance_mass:relevance_mass",
            "share of the positive part of the map that lies in the mask, and the same over the mask's share of the area",
            paper="Arras et al. 2022, arXiv:2003.07258",
            property="localisation",
            higher_is_better=True,
            parts=("", "over_area", "cells", "cells_over_area"),
            aliases=("activation_precision",),
        ),
        "relevance_rank": MetricRow(
            "pellucid.metrics.relevance_rank:relevance_rank",
            "share of the map's highest places that lie in the mask, as many places as the mask has",
            paper="Arras et al. 2022, arXiv:2003.07258",
            property="localisation",
            higher_is_better=True,
            parts=("", "cells"),
        ),
        "top_k_precision": MetricRow(
            "pellucid.metrics.top_k_precision:top_k_precision",
            "share of the strongest patches of the map that touch the mask, and the same over the share of all patches",
            paper="Djoumessi and Berens 2025, arXiv:2505.17748",
            property="localisation",
            higher_is_better=True,
            parts=("", "over_base"),
        ),
        "activation_sensitivity": MetricRow(
            "pellucid.metrics.activation_sensitivity:activation_sensitivity",
            "mean in the mask of the map's positive part over its largest value; high for flat maps too",
            paper="Djoumessi and Berens 2025, arXiv:2505.17748",
            property="localisation",
            higher_is_better=True,
            parts=("", "cells"),
        ),
        "auprc": MetricRow(
            "pellucid.metrics.auprc:auprc",
            "area under the precision-recall curve of the map as a ranking of the places in the mask, and the same over the base rate",
            paper="Saito and Rehmsmeier 2015, doi:10.1371/journal.pone.0118432",
            property="localisation",
            higher_is_better=True,
            parts=("", "over_area", "cells", "cells_over_area"),
        ),
        "iou": MetricRow(
            "pellucid.metrics.iou:iou",
            "intersection over union of the mask and of where the map exceeds a share of its largest value",
            property="localisation",
            higher_is_better=True,
            parts=("at_0.25", "at_0.5", "at_0.75", "cells_at_0.25", "cells_at_0.5", "cells_at_0.75"),
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
        "pixel_flipping": MetricRow(
            "pellucid.metrics.pixel_flipping:pixel_flipping",
            "mean of the answer over the flips while the highest samples or patches are removed one after the other",
            paper="Bach et al. 2015, doi:10.1371/journal.pone.0130140",
            property="faithfulness",
            higher_is_better=False,
            parts=("probability", "log_odds"),
        ),
        "road": MetricRow(
            "pellucid.metrics.road:road",
            "half of what the answer is higher without the least relevant samples than without the most relevant, imputed",
            paper="Rong et al. 2022, arXiv:2202.00449",
            property="faithfulness",
            higher_is_better=True,
            parts=("probability", "lerf_probability", "morf_probability", "log_odds", "lerf_log_odds", "morf_log_odds"),
        ),
        "sufficiency": MetricRow(
            "pellucid.metrics.sufficiency:sufficiency",
            "how far the answer falls when the highest samples alone are seen, mean over shares of them",
            paper="DeYoung et al. 2020, arXiv:1911.03429",
            property="faithfulness",
            higher_is_better=False,
            parts=("probability", "log_odds"),
        ),
        "comprehensiveness": MetricRow(
            "pellucid.metrics.comprehensiveness:comprehensiveness",
            "how far the answer falls when the highest samples are gone, mean over shares of them",
            paper="DeYoung et al. 2020, arXiv:1911.03429",
            property="faithfulness",
            higher_is_better=True,
            parts=("probability", "log_odds"),
        ),
        "infidelity": MetricRow(
            "pellucid.metrics.infidelity:infidelity",
            "mean squared error of what the map tells of a change of the input, as it is and rescaled at its best",
            paper="Yeh et al. 2019, arXiv:1901.09392",
            property="faithfulness",
            higher_is_better=False,
            parts=("", "rescaled", "scale"),
        ),
        "faithfulness_correlation": MetricRow(
            "pellucid.metrics.faithfulness_correlation:faithfulness_correlation",
            "correlation of the map's sum over random samples with how far the answer falls without them",
            paper="Bhatt et al. 2020, arXiv:2005.00631",
            property="faithfulness",
            higher_is_better=True,
            parts=("score", "probability", "log_odds"),
        ),
        "average_drop": MetricRow(
            "pellucid.metrics.average_drop:average_drop",
            "share of the answer's probability that is lost when the input is seen through its map",
            paper="Chattopadhay et al. 2018, arXiv:1710.11063",
            property="faithfulness",
            higher_is_better=False,
        ),
        "increase_in_confidence": MetricRow(
            "pellucid.metrics.increase_in_confidence:increase_in_confidence",
            "is the answer more probable on the input seen through its map",
            paper="Chattopadhay et al. 2018, arXiv:1710.11063",
            property="faithfulness",
            higher_is_better=True,
        ),
        "adcc": MetricRow(
            "pellucid.metrics.adcc:adcc",
            "harmonic mean of coherency, 1 - complexity and 1 - average drop, with the three",
            paper="Poppi et al. 2021, arXiv:2104.10252",
            property="faithfulness",
            higher_is_better=True,
            parts=("", "coherency", "complexity", "average_drop"),
        ),
        "sparseness": MetricRow(
            "pellucid.metrics.sparseness:sparseness",
            "Gini index of the sizes of the map's values: 0 for a flat map, towards 1 for a single cell",
            paper="Hurley and Rickard 2009, arXiv:0811.4706",
            property="complexity",
        ),
        "entropy": MetricRow(
            "pellucid.metrics.entropy:entropy",
            "Shannon entropy, in nats, of the sizes of the map's values as shares of their sum",
            paper="Bhatt et al. 2020, arXiv:2005.00631",
            property="complexity",
        ),
        "effective_cells": MetricRow(
            "pellucid.metrics.effective_cells:effective_cells",
            "number of cells whose size exceeds a share of the largest, and the same over the number of cells",
            paper="Nguyen and Martinez 2020, arXiv:2007.07584",
            property="complexity",
            parts=("", "share"),
        ),
        "max_sensitivity": MetricRow(
            "pellucid.metrics.max_sensitivity:max_sensitivity",
            "largest relative change of the map among inputs in a small box around this one",
            paper="Yeh et al. 2019, arXiv:1901.09392",
            property="robustness",
            higher_is_better=False,
            parts=("", "same_answer"),
        ),
        "local_lipschitz": MetricRow(
            "pellucid.metrics.local_lipschitz:local_lipschitz",
            "largest change of the map per change of the input, among inputs in a small box around this one",
            paper="Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049",
            property="robustness",
            higher_is_better=False,
            parts=("", "same_answer"),
        ),
        "tta_consistency": MetricRow(
            "pellucid.metrics.tta_consistency:tta_consistency",
            "rank correlation of the map with that of the mirrored or moved input, brought back",
            property="robustness",
            higher_is_better=True,
            parts=("flip", "shift"),
        ),
        "parameter_randomisation": MetricRow(
            "pellucid.metrics.parameter_randomisation:parameter_randomisation",
            "likeness of the map to that of the same network with random weights",
            paper="Adebayo et al. 2018, arXiv:1810.03292",
            property="randomisation",
            higher_is_better=False,
            parts=("", "absolute", "ssim", "top_layer", "cascade"),
        ),
        "efficient_parameter_randomisation": MetricRow(
            "pellucid.metrics.efficient_parameter_randomisation:efficient_parameter_randomisation",
            "relative rise of the entropy of the map's values when all weights are made random",
            paper="Hedstrom et al. 2024, arXiv:2401.06465",
            property="randomisation",
            higher_is_better=True,
        ),
        "random_logit": MetricRow(
            "pellucid.metrics.random_logit:random_logit",
            "likeness of the map to that of another class, drawn at random",
            paper="Sixt et al. 2020, arXiv:1912.09818",
            property="randomisation",
            higher_is_better=False,
            parts=("", "absolute"),
        ),
        "sign_consistency": MetricRow(
            "pellucid.metrics.sign_consistency:sign_consistency",
            "share of cells that speak for disease on diseased inputs, against it on healthy ones",
            paper="Djoumessi and Berens 2025, arXiv:2505.17748",
            property="consistency",
            higher_is_better=True,
            parts=("", "positive", "negative"),
        ),
        "completeness_residual": MetricRow(
            "pellucid.metrics.completeness_residual:completeness_residual",
            "what is missing when the parts of a complete explanation are added up, relative to the score",
            property="completeness",
            higher_is_better=False,
        ),
    }
)

SUMMARIES: dict[str, SummaryLeaf] = {
    "rank_stability": SummaryLeaf(
        "pellucid.metrics.rank_stability:rank_stability",
        "do the methods keep their order from one trained network to the next (Kendall's W over seeds)",
        paper="Kendall and Babington Smith 1939, doi:10.1214/aoms/1177732186",
        property="stability",
        higher_is_better=True,
    ),
    "validated_iou": SummaryLeaf(
        "pellucid.metrics.validated_iou:validated_iou",
        "intersection over union at a threshold chosen on other patients",
        property="localisation",
        higher_is_better=True,
    ),
}

# What `evaluate` measures unless told otherwise: what costs little beside the explanations themselves.
MEASURED = ("pointing_game", "relevance_mass", "deletion", "insertion", "sparseness", "completeness_residual")

__all__ = ["MEASURED", "METRICS", "SUMMARIES"]
