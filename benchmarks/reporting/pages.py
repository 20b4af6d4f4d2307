"""The HTML pages, all rendered alike: what a run wrote is escaped, and a name that nobody gave is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from benchmarks.plots import svg
from benchmarks.ranking import figures

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **content: Any) -> str:
    """The page of a template by its file's name; responses and names in `content` may hold HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(figures=figures, swatch=svg.swatch, colour=svg.colour)
    return environment.get_template(template).render(content)
