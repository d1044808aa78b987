"""--show_plan: print what sampling would do at each step; needs a model or only a tokenizer."""

from dataclasses import dataclass

from commands.flags import configure
from commands.generation import log_plan
from commands.request import Request
from commands.sources import find_model, find_tokenizer
from models.sampling import SamplingConfig


@dataclass(frozen=True)
class ShowPlanJob:
    """A plan to show.

    Attributes:
        sampling: settings of decoding.
        seq_len: tokens of an image.
    """

    sampling: SamplingConfig
    seq_len: int


def resolve(request: Request) -> ShowPlanJob:
    """Find the number of tokens of an image; errors as in `find_model` and `find_tokenizer`."""
    has_model = request.line.checkpoint or request.run().model.is_file()
    if has_model or "train" in request.jobs:
        seq_len = find_model(request).shape.seq_len
    else:
        seq_len = find_tokenizer(request).shape.grid_size ** 2
    return ShowPlanJob(configure(SamplingConfig, request.line), seq_len)


def run(job: ShowPlanJob) -> None:
    """Print the plan."""
    log_plan(job.sampling, job.seq_len)
