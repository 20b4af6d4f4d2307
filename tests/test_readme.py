"""What the README and CONTRIBUTING show is what is there. `make readme` writes the table of methods anew."""

import re
import subprocess
import sys
from typing import get_args

from methods import METHODS
from methods.types import Need
from registry import Card
from tests import ROOT

README = ROOT / "README.md"
TABLE = re.compile(r"(?<=<!-- methods:begin -->\n).*?(?=<!-- methods:end -->)", re.DOTALL)
DIFF = re.compile(
    r"```diff\n--- /dev/null\n\+\+\+ b/(?P<path>\S+)\n@@ -0,0 \+1,(?P<lines>\d+) @@\n(?P<body>.*?)```", re.DOTALL
)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def methods_table() -> str:
    """The registry as Markdown, a row a method."""
    head = ["| name | made of | needs | learning rate | paper | note |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(_row(card) for card in METHODS.values())]) + "\n"


def _row(card: Card) -> str:
    needs = [need.replace("_", " ") for need in get_args(Need) if card.spec.needs(need)]
    paper = f"[{card.paper.title}]({card.paper.url}), {card.paper.year}"
    lr = f"{card.lr:.0e}".replace("e-0", "e-")
    return f"| `{card.name}` | {' + '.join(card.spec.parts)} | {', '.join(needs)} | {lr} | {paper} | {card.note} |"


def commands(text: str) -> str:
    """The README's section on the main command."""
    return text.split("## The command\n")[1].split("\n## ")[0]


def test_readme_shows_the_methods_of_the_registry():
    assert TABLE.findall(README.read_text()) == [methods_table()], "run `make readme`"


def test_readme_names_every_option_of_the_command_and_no_other():
    command = [sys.executable, "-m", "benchmarks.run", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(OPTION.findall(commands(README.read_text()))) | {"--help"} == set(OPTION.findall(shown))


def test_readme_names_every_option_that_is_the_searchs_own_and_no_other():
    options = {}
    for module in ("benchmarks.run", "benchmarks.search"):
        command = [sys.executable, "-m", module, "--help"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        options[module] = set(OPTION.findall(shown))
    section = README.read_text().split("## Search\n")[1].split("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("| `--"))
    assert set(OPTION.findall(table)) == options["benchmarks.search"] - options["benchmarks.run"]


def test_contributing_shows_the_diff_that_adds_a_method():
    found = DIFF.search((ROOT / "CONTRIBUTING.md").read_text())
    assert found
    lines = found["body"].splitlines()
    assert all(line.startswith("+") for line in lines)
    assert len(lines) == int(found["lines"])
    assert "".join(f"{line[1:]}\n" for line in lines) == (ROOT / found["path"]).read_text()


def test_every_file_that_the_documents_link_to_exists():
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / document).read_text())
        assert [link for link in links if not (ROOT / link).exists()] == [], document


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda _: methods_table(), README.read_text()))
