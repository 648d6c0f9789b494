"""Attribution methods by name. Each is a function `(call, x, target, **options) -> Attribution` in a file of that name."""

from pellucid.registry import AdapterRow, MethodRow, Methods

# Methods that other libraries bring, by name: "captum:DeepLift", "zennit:EpsilonGammaBox".
ADAPTERS: dict[str, AdapterRow] = {
    "captum": AdapterRow(
        "pellucid.methods.captum_adapter:captum_adapter",
        "any attribution class of Captum (extra `captum`)",
        paper="Kokhlikyan et al. 2020, arXiv:2009.07896",
        needs=frozenset({"gradient"}),
        space="pixels",
    ),
    "zennit": AdapterRow(
        "pellucid.methods.zennit_adapter:zennit_adapter",
        "any composite of Zennit, where it is installed",
        paper="Anders et al. 2021, arXiv:2106.13200",
        needs=frozenset({"gradient"}),
        space="pixels",
    ),
}

_ROWS: dict[str, MethodRow] = {
    "evidence": MethodRow(
        "pellucid.methods.evidence:evidence",
        "what each place adds to the logit of a SoftCAM, in one forward pass",
        paper="Djoumessi and Berens 2025, arXiv:2505.17748",
        needs=frozenset({"evidence"}),
        complete=True,
        several=True,
    ),
    "cam": MethodRow(
        "pellucid.methods.cam:cam",
        "class activation map: the last feature map weighted by the linear head",
        paper="Zhou et al. 2016, arXiv:1512.04150",
        equation="equation 2",
        needs=frozenset({"layer"}),
        complete=True,
        several=True,
    ),
    "grad_cam": MethodRow(
        "pellucid.methods.grad_cam:grad_cam",
        "a layer's feature map weighted by the mean gradient of the score",
        paper="Selvaraju et al. 2017, arXiv:1610.02391",
        equation="equations 1 and 2",
        needs=frozenset({"layer", "gradient"}),
        several=True,
    ),
    "hires_cam": MethodRow(
        "pellucid.methods.hires_cam:hires_cam",
        "gradient times activation at a layer, place by place",
        paper="Draelos and Carin 2020, arXiv:2011.08891",
        needs=frozenset({"layer", "gradient"}),
        several=True,
    ),
    "grad_cam_plus_plus": MethodRow(
        "pellucid.methods.grad_cam_plus_plus:grad_cam_plus_plus",
        "a layer's feature map weighted by its positive gradients, each with its own share",
        paper="Chattopadhay et al. 2018, arXiv:1710.11063",
        equation="equations 10 and 19",
        needs=frozenset({"layer", "gradient"}),
        several=True,
    ),
    "smooth_grad_cam_plus_plus": MethodRow(
        "pellucid.methods.smooth_grad_cam_plus_plus:smooth_grad_cam_plus_plus",
        "Grad-CAM++ with gradients averaged over noisy copies of the input",
        paper="Omeiza et al. 2019, arXiv:1908.01224",
        needs=frozenset({"layer", "gradient"}),
    ),
    "x_grad_cam": MethodRow(
        "pellucid.methods.x_grad_cam:x_grad_cam",
        "a layer's feature map weighted by the gradient where it is active",
        paper="Fu et al. 2020, arXiv:2008.02312",
        needs=frozenset({"layer", "gradient"}),
        several=True,
    ),
    "layer_cam": MethodRow(
        "pellucid.methods.layer_cam:layer_cam",
        "positive gradient times activation at a layer, place by place",
        paper="Jiang et al. 2021, doi:10.1109/TIP.2021.3089943",
        needs=frozenset({"layer", "gradient"}),
        several=True,
    ),
    "eigen_cam": MethodRow(
        "pellucid.methods.eigen_cam:eigen_cam",
        "a layer's feature map along its first principal direction, whatever the class",
        paper="Muhammad and Yeasin 2020, arXiv:2008.00299",
        needs=frozenset({"layer"}),
    ),
    "score_cam": MethodRow(
        "pellucid.methods.score_cam:score_cam",
        "a layer's feature map weighted by the score of the input seen through each channel",
        paper="Wang et al. 2020, arXiv:1910.01279",
        equation="algorithm 1",
        needs=frozenset({"layer"}),
    ),
    "ablation_cam": MethodRow(
        "pellucid.methods.ablation_cam:ablation_cam",
        "a layer's feature map weighted by how far the score falls without each channel",
        paper="Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360",
        needs=frozenset({"layer"}),
    ),
    "saliency": MethodRow(
        "pellucid.methods.saliency:saliency",
        "the gradient of the score with respect to the input",
        paper="Simonyan et al. 2013, arXiv:1312.6034",
        equation="section 3",
        needs=frozenset({"gradient"}),
        space="pixels",
    ),
    "input_x_gradient": MethodRow(
        "pellucid.methods.input_x_gradient:input_x_gradient",
        "the input times the gradient of the score",
        paper="Shrikumar et al. 2016, arXiv:1605.01713",
        needs=frozenset({"gradient"}),
        space="pixels",
    ),
    "integrated_gradients": MethodRow(
        "pellucid.methods.integrated_gradients:integrated_gradients",
        "the gradients on the way from a baseline to the input, added up",
        paper="Sundararajan et al. 2017, arXiv:1703.01365",
        equation="equation 1",
        needs=frozenset({"gradient"}),
        space="pixels",
    ),
    "smooth_grad": MethodRow(
        "pellucid.methods.smooth_grad:smooth_grad",
        "the gradient averaged over noisy copies of the input",
        paper="Smilkov et al. 2017, arXiv:1706.03825",
        needs=frozenset({"gradient"}),
        space="pixels",
    ),
    "occlusion": MethodRow(
        "pellucid.methods.occlusion:occlusion",
        "how far the score falls when a part of the input is covered",
        paper="Zeiler and Fergus 2014, arXiv:1311.2901",
        equation="section 4.2",
        space="pixels",
    ),
    "rise": MethodRow(
        "pellucid.methods.rise:rise",
        "random masks weighted by the score of what they leave of the input",
        paper="Petsiuk et al. 2018, arXiv:1806.07421",
        equation="section 3",
        space="pixels",
    ),
    "guided_backprop": MethodRow(
        "pellucid.methods.guided_backprop:guided_backprop",
        "the gradient through ReLUs that let only positive gradients pass",
        paper="Springenberg et al. 2015, arXiv:1412.6806",
        equation="section 3.4",
        needs=frozenset({"gradient", "gates"}),
        space="pixels",
    ),
    "deconvnet": MethodRow(
        "pellucid.methods.deconvnet:deconvnet",
        "the score brought back through ReLUs that only look at the way back",
        paper="Zeiler and Fergus 2014, arXiv:1311.2901",
        equation="section 2.1",
        needs=frozenset({"gradient", "gates"}),
        space="pixels",
    ),
    "guided_grad_cam": MethodRow(
        "pellucid.methods.guided_grad_cam:guided_grad_cam",
        "guided backpropagation where Grad-CAM is positive",
        paper="Selvaraju et al. 2017, arXiv:1610.02391",
        equation="section 3.2",
        needs=frozenset({"layer", "gradient", "gates"}),
        space="pixels",
    ),
    "lrp": MethodRow(
        "pellucid.methods.lrp:lrp",
        "the score handed back layer by layer, to each input by its share (epsilon-plus rules)",
        paper="Bach et al. 2015, doi:10.1371/journal.pone.0130140",
        equation="equations 56, 58 and 60",
        needs=frozenset({"gradient", "gates"}),
        space="pixels",
    ),
    "random_map": MethodRow(
        "pellucid.methods.random_map:random_map",
        "noise on the cells of the last feature map: the control that every method has to beat",
        needs=frozenset({"layer"}),
        control=True,
    ),
    "blurred_random_map": MethodRow(
        "pellucid.methods.blurred_random_map:blurred_random_map",
        "noise as smooth as maps usually are: the control for scores that reward smoothness",
        paper="arXiv:2304.13836",
        space="pixels",
        control=True,
    ),
    "centre_map": MethodRow(
        "pellucid.methods.centre_map:centre_map",
        "a Gaussian in the middle of the input: the control for what is where things usually are",
        space="pixels",
        control=True,
    ),
    "edge_map": MethodRow(
        "pellucid.methods.edge_map:edge_map",
        "the input's edges (Sobel): the control for maps that look convincing",
        paper="Adebayo et al. 2018, arXiv:1810.03292",
        space="pixels",
        control=True,
    ),
}

METHODS = Methods(_ROWS, ADAPTERS)

# What `evaluate` compares unless told otherwise: methods that cost a pass or two, and the control that all have to beat.
COMPARED = ("evidence", "cam", "grad_cam", "saliency", "random_map")

__all__ = ["COMPARED", "METHODS"]
