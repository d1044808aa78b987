"""--download_only: download a dataset, so that later jobs need no network."""

import logging

from commands.request import Data, Request
from data.open_dataset import fetch_dataset

log = logging.getLogger(__name__)


def resolve(request: Request) -> Data:
    """Return the dataset to download."""
    return request.data()


def run(job: Data) -> None:
    """Download both splits; errors as in `fetch_dataset`."""
    folder = fetch_dataset(job.spec.name, job.folder, job.size)
    log.info("%s is complete in %s", job.spec.name, folder)
