"""What the documents show of the registry and of the commands, and what they say that a test can check.

`make docs` writes the generated parts anew.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest.mock import patch

from benchmarks.options import Parser
from methods import METHODS
from methods.types import Need
from registry import Card
from registry.assets import ASSETS
from registry.datasets import DATASETS
from registry.encoders import ENCODERS
from registry.models import MODELS
from tests import ROOT

DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
DIFF = re.compile(r"(?<=```diff\n)--- /dev/null\n\+\+\+ b/(\S+)\n.*?(?=```)", re.DOTALL)
PROGRAM = re.compile(r"-m benchmarks\.(\w+)(.*)", re.DOTALL)


def commands() -> list[str]:
    """`["alpaca_eval", …, "speed"]`: the modules that are run as `python -m benchmarks.NAME`."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "benchmarks").glob("*.py"))}
    return [name for name, text in texts.items() if 'if __name__ == "__main__":' in text]


class _Made(Exception):
    pass


def parser_of(command: str) -> Parser:
    """The parser that the command makes, without running it."""
    made: list[Parser] = []

    def stop(self: Parser, *_: object, **__: object) -> None:
        made.append(self)
        raise _Made

    main = importlib.import_module(f"benchmarks.{command}").main
    with patch.object(Parser, "parse_args", stop), patch.object(Parser, "parse_known_args", stop):
        try:
            main([])
        except _Made:
            return made[0]
    raise AssertionError(f"benchmarks.{command} reads no options")


def methods_table() -> str:
    """The registry as Markdown, a row a method."""
    head = ["| name | made of | needs | learning rate | paper | note |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(_method(card) for card in METHODS.values())]) + "\n"


def _method(card: Card) -> str:
    needs = [need.replace("_", " ") for need in get_args(Need) if card.spec.needs(need)]
    paper = f"[{card.paper.title}]({card.paper.url}), {card.paper.year}"
    lr = f"{card.lr:.0e}".replace("e-0", "e-")
    return f"| `{card.name}` | {' + '.join(card.spec.parts)} | {', '.join(needs)} | {lr} | {paper} | {card.note} |"


def options_page() -> str:
    """Every option of every command, from their parsers."""
    parts = ["# Options", "Written by `make docs` from the parsers of the commands."]
    for command in commands():
        parser = parser_of(command)
        parts += [f"## benchmarks.{command}", (parser.description or "").split("\n\n")[0].replace("\n", " ").strip()]
        rows = [f"| {_spelled(action)} | {_help(action)} |" for action in parser._actions if _is_shown(action)]
        if rows:
            parts.append("\n".join(["| option | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _is_shown(action: argparse.Action) -> bool:
    return action.help is not argparse.SUPPRESS and action.dest != "help"


def _spelled(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    if action.choices and not action.metavar:
        value = "|".join(map(str, action.choices))
    name = ", ".join(action.option_strings)
    needed = ", required" if action.required and name else ""
    return f"`{' '.join(filter(None, (name, value)))}`{needed}".replace("|", "\\|")


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default))
    return text.replace("|", "\\|").replace("*.lr", "`*.lr`").replace("<", "&lt;")


def licences() -> str:
    """Models, data sets and packages with their licences, as Markdown."""
    head = ["| kind | name | hub id or package | licence |", "|---|---|---|---|"]
    rows = []
    for kind, catalogue in (("model", MODELS), ("encoder", ENCODERS), ("data set", DATASETS)):
        for preset in catalogue.values():
            package = getattr(preset, "package", None)
            places = [getattr(preset, "hub", None), getattr(package, "requirement", None)]
            where = ", ".join(f"`{place}`" for place in places if place) or "in this repository"
            rows.append(f"| {kind} | `{preset.name}` | {where} | {preset.licence} |")
    rows += [f"| file | `{asset.name}` | `{asset.requirement}` | {asset.licence} |" for asset in ASSETS.values()]
    return "\n".join([*head, *rows]) + "\n"


def added(path: str) -> str:
    """The whole diff that adds a file."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    head = ["--- /dev/null", f"+++ b/{path}", f"@@ -0,0 +1,{len(lines)} @@"]
    return "\n".join([*head, *(f"+{line}" for line in lines)]) + "\n"


def contributing() -> str:
    """CONTRIBUTING.md with the diff that adds IPO."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return DIFF.sub(lambda found: added(found[1]), text)


GENERATED = {
    "docs/methods.md": ("methods", methods_table),
    "docs/licences.md": ("licences", licences),
    "docs/options.md": (None, options_page),
    "CONTRIBUTING.md": (None, contributing),
}


def expected(page: str) -> str:
    """The page with its generated part as it should be."""
    mark, make = GENERATED[page]
    if mark is None:
        return make()
    between = re.compile(rf"(?<=<!-- {mark}:begin -->\n).*?(?=<!-- {mark}:end -->)", re.DOTALL)
    return between.sub(lambda _: make(), (ROOT / page).read_text(encoding="utf-8"), count=1)


def command_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """`("run", ["--methods", "dpo"])` for each `python -m benchmarks.run --methods dpo`, in a block or in the text."""
    blocks = [body for language, body in FENCE.findall(text) if language in ("", "sh", "bash", "console")]
    inline = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", FENCE.sub("", text))
    for line in (*(line for body in blocks for line in body.replace("\\\n", " ").splitlines()), *inline):
        if found := PROGRAM.search(line):
            yield found[1], shlex.split(found[2], comments=True)


def anchors(text: str) -> set[str]:
    """The fragments that a page's headings have on a forge."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


def broken_links(path: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    broken = []
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, fragment = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (fragment and fragment not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


if __name__ == "__main__":
    for page in GENERATED:
        (ROOT / page).write_text(expected(page), encoding="utf-8")
