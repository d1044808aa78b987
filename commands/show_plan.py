"""--show_plan: print what sampling would do at each step; needs a model or only a tokenizer."""

import logging
from dataclasses import dataclass
from typing import Any

from commands.flags import configure
from commands.generation import log_odd_plan, plan_table, sampling_of
from commands.model_source import find_model
from commands.options import BEST
from commands.request import Request
from commands.tokenizer_source import find_tokenizer
from models.sampling import SamplingConfig
from utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShowPlanJob:
    """A plan to show."""

    sampling: SamplingConfig
    seq_len: int


def resolve(request: Request) -> ShowPlanJob:
    """Find the number of tokens of an image; errors as in `find_model` and `find_tokenizer`."""
    line = request.line
    has_model = line.checkpoint or request.run().model.is_file()
    if has_model or "train" in request.jobs:
        model = find_model(request)
        return ShowPlanJob(sampling_of(line, model), model.shape.seq_len)
    if line.settings == BEST:
        raise UserError("--settings best needs a trained model; name one with --checkpoint")
    sampling = configure(SamplingConfig, line)
    sampling.validate()
    return ShowPlanJob(sampling, find_tokenizer(request).shape.seq_len)


def describe(job: ShowPlanJob) -> dict[str, Any]:
    """Describe the plan for --dry_run."""
    return {"plan": plan_table(job.sampling, job.seq_len)}


def run(job: ShowPlanJob) -> None:
    """Print the plan."""
    log_odd_plan(job.sampling, job.seq_len)
    log.info("%s", plan_table(job.sampling, job.seq_len))
