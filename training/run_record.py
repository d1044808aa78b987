"""What config.json stores about the stages of a run, and whether a run may go on with it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.run_folder import RunFiles, RunFolder
from utils.errors import UserError, value_text
from utils.records import read_record, write_record

log = logging.getLogger(__name__)

MADE_FROM = "made_from"  # key in a stage's settings in config.json
CLASS_NAMES = "class_names"  # key in MADE_FROM: the names of the classes, in the order of labels
DIGESTS = {  # keys in MADE_FROM with digests, and what they are digests of
    "labels": "labels of the images",
    "source": "images",
    "validation": "validation images",
    "teacher": "weights of the teacher",
}
# Keys in MADE_FROM that change when images are added.
OF_IMAGES = {"images", CLASS_NAMES, "labels", "source", "levels", "validation", "tokens"}
FILES_ENTRIES = {"training": "files", "validation": "validation"}  # of the lists of image files
# The options that decide most keys in MADE_FROM, and those that decide the others.
FILES = "`checkpoint_vae` and `data_dir`"
OWN = {"steps": "`distill`", "teacher": "`checkpoint`"}
MOST_SHOWN = 200  # characters of the names of classes in a message
STAGES = ("vqgan", "maskgit", "student")  # names of the stages, the keys of config.json


@dataclass(frozen=True)
class RunRecord:
    """What config.json stores about a stage of a run: plain data by the names of options.

    Attributes:
        made_from: what the run depends on besides its settings, by name; stored among the settings
            under the key MADE_FROM.
        private: names of values that must not leave the machine: paths, names of classes.
        epochs_name: name of the setting that holds the number of epochs.
        continues: the stored settings that this run continues; None for a new run.
        files: names and sizes of the image files of each split in FILES_ENTRIES; empty for a set
            that cannot grow.
        has_new_images: whether the run goes on with more images than it began with.
    """

    settings: Mapping[str, Any]
    made_from: Mapping[str, Any]
    private: frozenset[str]
    epochs_name: str
    continues: Mapping[str, Any] | None = None
    files: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    has_new_images: bool = False

    @property
    def is_longer(self) -> bool:
        """Whether the run that continues has more images or epochs now, or stops early later."""
        now, before = self.settings, self.continues or {}
        stop, former = (one.get("early_stop", 0) for one in (now, before))
        stops_later = former and (stop == 0 or stop > former) and now.get("minutes") is None
        epochs = now[self.epochs_name]
        return bool(
            self.has_new_images or stops_later or epochs > before.get(self.epochs_name, epochs)
        )

    def entry(self) -> dict[str, Any]:
        """Return what config.json stores for the stage."""
        return {**self.settings, MADE_FROM: dict(self.made_from)}

    def public(self) -> dict[str, Any]:
        """Return the part of `entry` that may leave the machine."""
        settings, made_from = (
            {name: value for name, value in named.items() if name not in self.private}
            for named in (self.settings, self.made_from)
        )
        return {**settings, MADE_FROM: made_from}


def store(run: RunFolder, stage: str, record: RunRecord) -> None:
    """Write the stage's settings to config.json, and the lists of its images."""
    write_record(run.config, {**read_config(run), stage: record.entry()})
    if record.files:
        files = {FILES_ENTRIES[split]: dict(sizes) for split, sizes in record.files.items()}
        write_record(run.images(stage), files)


def read_files(run: RunFolder, stage: str) -> dict[str, dict[str, int]]:
    """Read the names and sizes of the image files of a run, by split as in `RunRecord.files`.

    A split is missing if an earlier version did not list its images.

    Raises:
        UserError: if the list is damaged.
    """
    stored = read_record(run.images(stage), FILES_ENTRIES.values())
    return {split: stored[entry] for split, entry in FILES_ENTRIES.items() if entry in stored}


def read_config(run: RunFiles) -> dict[str, dict[str, Any]]:
    """Read config.json: the settings of the stages, by the name of the stage.

    Raises:
        UserError: if the file is damaged or was edited.
    """
    stored = read_record(run.config, STAGES)
    for stage, settings in stored.items():
        if not isinstance(settings, dict) or not isinstance(settings.get(MADE_FROM, {}), dict):
            raise UserError(f"{run.config} is damaged: its entry {stage!r} holds no settings")
    return stored


def check_made_from(
    made_from: Mapping[str, Any], stored: Mapping[str, Any], run: RunFolder
) -> None:
    """Refuse to continue a run with other images, classes or another tokenizer.

    Values that an earlier version did not store are not compared. Tokens may differ slightly
    between machines, so a difference there is only a warning.

    Args:
        made_from: what the run depends on now, as in `RunRecord`.
        stored: the settings in config.json that the run continues.

    Raises:
        UserError: naming the first difference.
    """
    earlier = stored.get(MADE_FROM, {})
    for name, value in made_from.items():
        before = earlier.get(name, value)
        if before == value:
            continue
        if name == "tokens":
            log.warning("the tokens differ from those that the run in %s began with", run.path)
            continue
        difference = f"the {name} of the run in {run.path} changed from {before} to {value}"
        if name == CLASS_NAMES:
            difference = f"the classes of the run in {run.path} changed: {_renamed(before, value)}"
        elif name in DIGESTS:
            difference = f"the {DIGESTS[name]} of the run in {run.path} changed"
        advice = f"give the run's own {OWN.get(name, FILES)}"
        if name == "tokenizer" and run.model.is_file():  # stage 1 may have gone on
            advice = f"give `checkpoint_vae` {run.model}, which holds the former one"
        raise UserError(f"{difference}: {advice}, or start another `run_name`")


def _renamed(before: Any, now: list[str]) -> str:
    """Say which classes have another name, or show all names if their number differs."""
    if not isinstance(before, list) or len(before) != len(now):
        return f"{value_text(before)}, now {value_text(now)}"[:MOST_SHOWN]
    pairs = enumerate(zip(before, now, strict=True))
    changes = [f"class {number} was {old}, is {new}" for number, (old, new) in pairs if old != new]
    return ", ".join(changes)[:MOST_SHOWN]
