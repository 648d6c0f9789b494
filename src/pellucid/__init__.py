"""pellucid: convolutional networks that explain themselves, and numbers that say whether to trust the explanation.

Importing this package imports no torch; every name loads what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> where it lives
_PUBLIC = {
    "METHODS": "pellucid.methods",
    "METRICS": "pellucid.metrics",
    "PENALTIES": "pellucid.training",
    "READERS": "pellucid.data",
    "AuditFailed": "pellucid.errors",
    "BadInput": "pellucid.errors",
    "BoxTarget": "pellucid.targets",
    "ClassTarget": "pellucid.targets",
    "ContrastTarget": "pellucid.targets",
    "ConversionError": "pellucid.errors",
    "Explanation": "pellucid.explanation",
    "IntegrityError": "pellucid.errors",
    "LayerError": "pellucid.errors",
    "OneVsRestTarget": "pellucid.targets",
    "OptionError": "pellucid.errors",
    "PellucidError": "pellucid.errors",
    "RegionTarget": "pellucid.targets",
    "RegressionTarget": "pellucid.targets",
    "ResourceError": "pellucid.errors",
    "Run": "pellucid.training.run",
    "SUMMARIES": "pellucid.metrics",
    "Sample": "pellucid.sample",
    "SeveralTargets": "pellucid.targets",
    "SimilarityTarget": "pellucid.targets",
    "SingleLogitTarget": "pellucid.targets",
    "SoftCAM": "pellucid.models.softcam",
    "Table": "pellucid.record",
    "TargetError": "pellucid.errors",
    "TrainingConfig": "pellucid.training.config",
    "VIEWS": "pellucid.views",
    "against_null": "pellucid.null",
    "before_suppression": "pellucid.models.detection",
    "convert": "pellucid.models.convert",
    "describe": "pellucid.hybrids.descriptors",
    "distil": "pellucid.training.distil",
    "erase_regions": "pellucid.erasing",
    "evaluate": "pellucid.evaluation",
    "explain": "pellucid.api",
    "export": "pellucid.models.export",
    "find_rings": "pellucid.rings",
    "inspect": "pellucid.models.inspection",
    "load": "pellucid.models.storage",
    "local_trunk": "pellucid.models.narrowing",
    "multi_scale": "pellucid.models.multi_scale",
    "open_data": "pellucid.data",
    "region_effect": "pellucid.exchange",
    "report": "pellucid.reports",
    "train": "pellucid.training.loop",
    "uncertainty": "pellucid.stability",
    "with_pooling": "pellucid.models.multi_scale",
}

__all__ = [
    "AuditFailed",
    "BadInput",
    "BoxTarget",
    "ClassTarget",
    "ContrastTarget",
    "ConversionError",
    "Explanation",
    "IntegrityError",
    "LayerError",
    "METHODS",
    "METRICS",
    "OneVsRestTarget",
    "OptionError",
    "PENALTIES",
    "PellucidError",
    "READERS",
    "RegionTarget",
    "RegressionTarget",
    "ResourceError",
    "Run",
    "SUMMARIES",
    "Sample",
    "SeveralTargets",
    "SimilarityTarget",
    "SingleLogitTarget",
    "SoftCAM",
    "Table",
    "TargetError",
    "TrainingConfig",
    "VIEWS",
    "__version__",
    "against_null",
    "before_suppression",
    "convert",
    "describe",
    "distil",
    "erase_regions",
    "evaluate",
    "explain",
    "export",
    "find_rings",
    "inspect",
    "load",
    "local_trunk",
    "multi_scale",
    "open_data",
    "region_effect",
    "report",
    "train",
    "uncertainty",
    "with_pooling",
]

if TYPE_CHECKING:
    from pellucid.api import explain
    from pellucid.data import READERS, open_data
    from pellucid.erasing import erase_regions
    from pellucid.errors import (
        AuditFailed,
        BadInput,
        ConversionError,
        IntegrityError,
        LayerError,
        OptionError,
        PellucidError,
        ResourceError,
        TargetError,
    )
    from pellucid.evaluation import evaluate
    from pellucid.exchange import region_effect
    from pellucid.explanation import Explanation
    from pellucid.hybrids.descriptors import describe
    from pellucid.methods import METHODS
    from pellucid.metrics import METRICS, SUMMARIES
    from pellucid.models.convert import convert
    from pellucid.models.detection import before_suppression
    from pellucid.models.export import export
    from pellucid.models.inspection import inspect
    from pellucid.models.multi_scale import multi_scale, with_pooling
    from pellucid.models.narrowing import local_trunk
    from pellucid.models.softcam import SoftCAM
    from pellucid.models.storage import load
    from pellucid.null import against_null
    from pellucid.record import Table
    from pellucid.reports import report
    from pellucid.rings import find_rings
    from pellucid.sample import Sample
    from pellucid.stability import uncertainty
    from pellucid.targets import (
        BoxTarget,
        ClassTarget,
        ContrastTarget,
        OneVsRestTarget,
        RegionTarget,
        RegressionTarget,
        SeveralTargets,
        SimilarityTarget,
        SingleLogitTarget,
    )
    from pellucid.training import PENALTIES
    from pellucid.training.config import TrainingConfig
    from pellucid.training.distil import distil
    from pellucid.training.loop import train
    from pellucid.training.run import Run
    from pellucid.views import VIEWS


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pellucid' has no attribute '{name}'")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
