"""The model card of --export DIR: a README.md with the header that the Hugging Face Hub reads."""

from collections.abc import Iterator

from commands.generation import changed_options
from data.datasets import OWN_IMAGES
from models.families.tables import family_of
from models.family import TokenizerNetwork, Transformer
from models.model import Model
from utils.size import size_text
from utils.version import VERSION
from utils.weights import count_parameters

CARD = """---
license: unknown  # write the license under which you publish these weights
pipeline_tag: unconditional-image-generation
tags:
- maskgit
- image-generation
{datasets}---

# MaskGIT of {name}

{facts}

```bash
python MaskGIT.py --sample --checkpoint hf:OWNER/NAME --num_samples 16{settings}
```

`OWNER/NAME` is the repository with these files; `--checkpoint FOLDER` opens them from a folder.
{scores}{licenses}"""


def model_card(model: Model, measured: str) -> str:
    """Write the card of a model.

    Args:
        measured: scores of its samples with their protocol; empty if unknown.
    """
    is_own_set = model.dataset == OWN_IMAGES
    return CARD.format(
        datasets="" if is_own_set else f"datasets:\n- {model.dataset}\n",
        name="a folder of images" if is_own_set else model.dataset,
        facts="\n".join(_facts(model)),
        settings=" --settings best" if model.best else "",
        scores=f"\n## Scores\n\n```\n{measured}\n```\n" if measured else "",
        licenses=_licenses(model),
    )


def _facts(model: Model) -> Iterator[str]:
    """Yield the lines of a table about the networks and how they are sampled."""
    tokenizer, config = model.tokenizer, model.transformer.config
    size = f"{size_text(tokenizer.image_size)} pixels"
    yield "| | |\n| --- | --- |"
    yield f"| images | {size}, {tokenizer.channels} channels, {config.num_classes} class(es) |"
    yield f"| transformer | {_network(model.transformer)}, {config.seq_len} tokens |"
    yield f"| tokenizer | {_network(tokenizer.network)}, {tokenizer.codebook_size:,} codes |"
    yield f"| usual sampling | {changed_options(model.usual)} |"
    if model.best:
        yield f"| best sampling | {changed_options(model.best.sampling)} |"
    yield f"| written by | MaskGIT {VERSION} |"


def _network(network: Transformer | TokenizerNetwork) -> str:
    """Name a network and its size."""
    return f"{network.config.family}, {count_parameters(network) / 1e6:.1f} M parameters"


def _licenses(model: Model) -> str:
    """Name the licenses of the weights that the authors of the families publish."""
    families = [
        family_of(network.config) for network in (model.transformer, model.tokenizer.network)
    ]
    lines = [f"- {family.name}: {family.license}" for family in families if family.license]
    if not lines:
        return ""
    said = "If these weights were made from those that others publish, their licenses hold too:"
    return "\n".join([f"\n## Licenses\n\n{said}\n", *lines, ""])
