"""Turns the JSON files of --evaluate into Markdown tables, as in docs/results.md.

    python scripts/results.py runs/*/evaluation_*.json

Scores that cannot be compared are never in one table: each table has the files of one reference,
one feature network, one number of images and one protocol.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from metrics.report import SPREAD
from utils.errors import UserError, errors_on_one_line, one_line

OF_FIGURE = {
    "seed": "seed",
    "repeats": "seeds",
    "batch_size": "batch",
    "precision": "computed in",  # "precision" is a score
    "program": "program",
}
"""Entries of a protocol that are columns beside the scores, with their titles."""


def main() -> None:
    """Read the files that the command line names, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="evaluation_*.json")
    with errors_on_one_line("results.py", str):
        sys.stdout.write(f"{tables({path: read(path) for path in parser.parse_args().files})}\n")


def read(path: Path) -> dict[str, Any]:
    """Read one file of --evaluate.

    Raises:
        UserError: if it is none.
    """
    try:
        found = json.loads(path.read_text())
        title(found)
        return {"scores": dict(found["scores"]), "protocol": dict(found["protocol"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = one_line(error)
        raise UserError(f"{path} does not hold the scores of an evaluation: {reason}") from error


def title(found: Mapping[str, Any]) -> str:
    """Name what must be equal in a table."""
    protocol = found["protocol"]
    extractor = protocol.get("extractor", {})
    network = " ".join(str(extractor[key]) for key in ("name", "sha256") if key in extractor)
    of_images = " ".join(protocol[key] for key in ("dataset", "split", "source") if key in protocol)
    count = f"{protocol['images']} images"
    parts = [protocol.get("protocol"), protocol["basis"], network, of_images, count]
    return ", ".join(str(part) for part in parts if part)


def tables(results: Mapping[Path, Mapping[str, Any]]) -> str:
    """Write one Markdown table for each title."""
    grouped: defaultdict[str, dict[Path, Mapping[str, Any]]] = defaultdict(dict)
    for path, found in results.items():
        grouped[title(found)][path] = found
    return "\n\n".join(f"### {name}\n\n{table(group)}" for name, group in grouped.items())


def table(group: Mapping[Path, Mapping[str, Any]]) -> str:
    """Write files with one title as a table, a row for each; a score with its spread in a cell."""
    scores = [*dict.fromkeys(name for found in group.values() for name in found["scores"])]
    shown = [name for name in scores if not name.endswith(("_std", SPREAD))]
    of_figure = [n for n in OF_FIGURE if any(n in found["protocol"] for found in group.values())]
    titles = [OF_FIGURE[name] for name in of_figure]
    rows: list[Sequence[str]] = [["file", *shown, "checkpoint", *titles]]
    rows.append(["---"] * len(rows[0]))
    for path, found in group.items():
        protocol = found["protocol"]
        checkpoint = protocol.get("checkpoint", {}).get("fingerprint", protocol.get("tokenizer"))
        about = [str(protocol.get(name, "")).removeprefix("torch.") for name in of_figure]
        cells = [cell(found["scores"], name) for name in shown]
        rows.append([f"{path.parent.name}/{path.name}", *cells, str(checkpoint or ""), *about])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(scores: Mapping[str, float | None], name: str) -> str:
    """Write a score with 4 digits, and its spread over seeds if it has one."""
    value, spread = scores.get(name), scores.get(name + SPREAD)
    text = "" if value is None else f"{value:.4g}"
    return text if spread is None else f"{text} ± {spread:.2g}"


if __name__ == "__main__":
    main()
