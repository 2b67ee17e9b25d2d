"""`auditor search QUERY`: finds features by words, figures, likeness, or by what a text or an image makes fire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from auditor.cli import console
from auditor.cli.parameters import json_option, project_option
from auditor.project import Project


@click.command("search", params=[project_option(makes=False), json_option()])
@click.argument("query", default="")
@click.option("--index", default="", help="The index; left out: the newest one.")
@click.option("--text", default=None, help="Which features fire on this text?")
@click.option(
    "--image", default=None, type=click.Path(path_type=Path), help="Which features fire on this image or WAV file?"
)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1))
def command(query: str, index: str, text: str | None, image: Path | None, limit: int, project: str, json: bool) -> int:
    """Find features. QUERY is words in labels and tokens, and conditions such as density<0.01, modality:image,
    like:1412."""
    with Project.open(project, write=False) as held:
        if text is not None or image is not None:
            rows = _firing(held, index, text, image, limit)
        else:
            rows = _found(held, index, query, limit)
    if json:
        console.print_json({"query": query, "features": rows})
    else:
        console.table(rows)
        if not rows:
            console.say("No feature was found.")
    return 0


def _found(project: Project, ref: str, query: str, limit: int) -> list[dict[str, Any]]:
    from auditor.tasks.opening import index_of

    with index_of(project, ref) as index:
        labels, table = index.labels, index.table
        return [
            {
                "feature": int(number),
                "label": labels[number],
                "density": float(table["density"][number]),
                "image_share": float(table["image_share"][number]),
                "max": float(table["max_act"][number]),
            }
            for number in index.search(query, limit=limit)
        ]


def _firing(project: Project, ref: str, text: str | None, image: Path | None, limit: int) -> list[dict[str, Any]]:
    from auditor.tasks.opening import fires

    index, found = fires(project, ref, text, image)
    with index:
        labels = index.labels
        return [
            {
                "feature": fire.feature,
                "label": labels[fire.feature],
                "activation": fire.activation,
                "position": fire.position,
                "token": fire.token,
            }
            for fire in found[:limit]
        ]
