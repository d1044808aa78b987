"""The modes: one row says what a mode does and what its option takes. They run in this order."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from commands import kinds
from commands.option import Many, Option


@dataclass(frozen=True)
class Mode(Option):
    """A mode, one thing that the program can do, with the option that asks for it.

    Each mode has a file commands/<name>.py with these functions:

        complete(line)    optional; fills in options that a file decides, before all else
        check(line)       optional; refuses mistakes that need no file to be seen
        ignores(line)     optional; names options of the mode without effect on what is asked
        resolve(request)  returns the mode's Job
        run(job)          does the Job (MaskGIT.py does those of train_vae, train and sample)
        describe(job)     optional; returns names and values that --dry_run prints

    Attributes:
        runs_shared: whether several processes may run it together.
    """

    runs_shared: bool = False

    def module(self) -> ModuleType:
        """Import the mode's file. Called after parsing only, because the file loads torch."""
        return importlib.import_module(f"commands.{self.name}")

    def ask(self, function: str, argument: Any, otherwise: Any = None) -> Any:
        """Call an optional function of the mode's file; return `otherwise` if it has none."""
        found = getattr(self.module(), function, None)
        return found(argument) if found else otherwise


MODES = (
    Mode("download_only", "download the dataset"),
    Mode("look", "show the images as the networks see them, and say what may be wrong with them"),
    Mode("train_vae", "train the VQ-GAN (stage 1)"),
    Mode("reconstruct", "measure how well the VQ-GAN reconstructs validation images"),
    Mode("train", "train the MaskGIT transformer (stage 2)", runs_shared=True),
    Mode(
        "distill",
        "distill the model in --checkpoint into a student that samples in 1, 2 or 4 steps",
        unit="STEPS",
        kind=kinds.text,
        choices=("1", "2", "4"),
    ),
    Mode("show_plan", "print what each step of sampling would do"),
    Mode("sample", "generate images with a trained model", runs_shared=True),
    Mode("edit", "regenerate part of an image with a trained model"),
    Mode(
        "evaluate",
        "score samples of the model (or --images), reconstructions of the tokenizer, or the "
        "likelihood that the model gives to real images: samples, tokenizer, likelihood [samples]",
        unit="WHAT",
        kind=kinds.text,
        choices=("samples", "tokenizer", "likelihood"),
        bare="samples",
    ),
    Mode(
        "sweep",
        'score all combinations of sampling options, as in "step=4,8,16 cfg_w=0,1,3"',
        unit="GRID",
        kind=kinds.text,
    ),
    Mode(
        "export",
        "write the model into a folder, to publish it; or, to a PATH that ends in .pt, .pth or "
        ".bin, the transformer alone, for other programs",
        unit="PATH",
        kind=kinds.path,
    ),
    Mode(
        "curves",
        "draw the training curves of runs, by name or folder, in one chart",
        unit="RUN",
        kind=kinds.path,
        many=Many.REPEATED,
    ),
    Mode(
        "page",
        "serve a page for browsers: generate, watch, edit, follow the runs of --output_dir; "
        "without HOST only this machine can open it [8000]",
        unit="[HOST:]PORT",
        kind=kinds.address,
        bare="8000",
    ),
)
