"""The protocols: which program's figures a score can stand beside.

PROTOCOLS is the table. A row says everything in which two programs that measure the same images
differ: how float pixels become bytes, how images reach the size of the network, how many features
are compared, and the formulas. Its metrics are those of metrics/scores.py, or of metrics/adm.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metrics import adm, scores
from metrics.features import FeatureSet
from metrics.scores import Metric


@dataclass(frozen=True)
class Protocol:
    """How a program measures.

    Attributes:
        name: its name as an option.
        program: the program, in words.
        metrics: its metrics by name; None for `metrics.scores.METRICS`.
        settings: (number of images, features of the real ones) -> the settings of the metrics.
        rounding: how float pixels become bytes, a key of `utils.pictures.ROUNDINGS`.
        resize: how images reach the size of Inception, as in `metrics.extractor.load_inception`.
        with_dinov2: whether it also measures DINOv2's features.
        with_spatial: whether it needs spatial features.
        keeps_all: whether all generated images are compared one by one; otherwise up to
            `metrics.features.KEPT`.
        takes_any: whether images of another size are resized and labels chosen; the programs of
            others measure files as they are, with all classes in turn.
    """

    name: str
    program: str
    metrics: Mapping[str, Metric] | None
    settings: Callable[[int, FeatureSet], dict[str, str]]
    rounding: str = "nearest"
    resize: str = "tensorflow"
    with_dinov2: bool = False
    with_spatial: bool = False
    keeps_all: bool = False
    takes_any: bool = False


FID = {"frechet_distance": scores.frechet_distance}

_TABLE = (
    Protocol(
        name="ours",
        program="this program and torch-fidelity",
        metrics=None,
        settings=scores.settings,
        with_dinov2=True,
        takes_any=True,
    ),
    Protocol(
        name="adm",
        program="evaluator.py of guided-diffusion",
        metrics=FID | adm.METRICS,
        settings=adm.settings,
        rounding="down",
        with_spatial=True,
        keeps_all=True,
    ),
    Protocol(
        name="edm2",
        program="calculate_metrics.py of EDM2",
        metrics=FID,
        settings=lambda count, real: {},
        rounding="half up",
        with_dinov2=True,
    ),
    Protocol(
        name="clean",
        program="clean-fid in its mode clean",
        metrics=FID | {"kernel_distance": scores.kernel_distance},
        settings=scores.kernel_settings,
        resize="clean",
        keeps_all=True,
    ),
)
PROTOCOLS = {row.name: row for row in _TABLE}
