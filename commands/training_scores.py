"""--evaluate_every: the scores of --evaluate while a model trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from commands.flags import option_values
from commands.generation import series_of
from commands.judging import JudgeSource, resolve_judge
from commands.request import Data, Request
from models.generator import ImageSeries
from models.model import Model
from models.sampling import SamplingConfig
from models.shapes import TransformerShape
from training.loop import Evaluation
from utils.processes import Processes
from utils.progress import progress_bar
from utils.records import checksum


@dataclass(frozen=True)
class ScoresSource:
    """Samples to score while a model trains.

    Attributes:
        every: epochs between two evaluations.
    """

    every: int
    judge: JudgeSource
    series: ImageSeries


def resolve_scores(
    request: Request, data: Data, config: TransformerShape, sampling: SamplingConfig
) -> ScoresSource | None:
    """Choose samples and real images, if --evaluate_every asks for scores.

    Raises:
        UserError: as `resolve_judge`; or if --labels names a class that the dataset does not have.
    """
    line = request.line
    if not line.evaluate_every:
        return None
    names, count = data.open("train").class_names, line.evaluate_samples
    judge = resolve_judge(request, data, count=count)
    return ScoresSource(line.evaluate_every, judge, series_of(line, config, names, sampling, count))


def evaluation_of(
    source: ScoresSource | None, model: Callable[[], Model], processes: Processes
) -> Evaluation | None:
    """Return the evaluation of a model in training; None without `evaluate_every`.

    The main process opens the judge now.
    """
    if source is None:
        return None
    with processes.main_first():  # the judge may measure all real images first
        if not processes.is_main:
            return Evaluation(source.every, "", dict)
        judge, series = source.judge.open(), source.series

    def measure() -> Mapping[str, float]:
        count, rounding = len(series.labels), source.judge.how.rounding
        bar = progress_bar("sampling for the scores", count, unit="image")
        blocks = model().sample_blocks(series, rounding=rounding, advance=bar.update)
        return judge.score(blocks, count, bar)

    numbers = {name: getattr(series, name) for name in ("seed", "first_image", "block_size")}
    depends = {
        **judge.protocol(len(series.labels)),
        "sampling": option_values(series.sampling),
        "labels": series.labels,
        "series": numbers,
    }
    return Evaluation(source.every, checksum(depends), measure)
