"""What README, CONTRIBUTING and docs show is what is there. `make docs` writes the generated parts anew."""

import ast
import re

import pytest

import benchmarks
from benchmarks.options import parser
from tests import ROOT
from tests.documents import (
    DOCUMENTS,
    FENCE,
    GENERATED,
    anchors,
    broken_links,
    command_lines,
    commands,
    expected,
    parser_of,
)

README = ROOT / "README.md"
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]  # which also tells of what was
by_name = pytest.mark.parametrize("document", CURRENT, ids=lambda path: path.name)


@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_page_is_current(page):
    assert (ROOT / page).read_text(encoding="utf-8") == expected(page), "run `make docs`"


def test_the_page_of_options_has_every_command_and_option():
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert {"run", "search", "reproduce", "leaderboard", "export", "speed"} <= set(commands())
    for command in commands():
        section = text.split(f"## benchmarks.{command}\n")[1].split("\n## ")[0]
        shown = parser_of(command).format_help()
        assert set(re.findall(r"--[a-z][a-z-]*", shown)) - {"--help"} <= set(re.findall(r"--[a-z][a-z-]*", section))


@by_name
def test_every_command_that_a_document_shows_is_accepted_by_its_parser(document):
    for command, words in command_lines(document.read_text(encoding="utf-8")):
        made = parser_of(command)
        made.exit = lambda status=0, message=None, line=(command, words): pytest.fail(f"{line}: {message}")
        if words == ["--help"] or (not words and any(action.required for action in made._actions)):
            continue  # the command is only named
        if command == "reproduce":  # what it does not know goes to the main command
            parser().parse_args(made.parse_known_args(words)[1])
        else:
            made.parse_args(words)


def test_commands_are_found_in_blocks_and_in_the_text_and_a_wrong_one_is_refused():
    block = "```\nx/python -m benchmarks.search --trials 2 \\\n  --out a  # a note\n```\n"
    text = f"Give `python -m benchmarks.run --seeds 0,1`:\n{block}"
    assert list(command_lines(text)) == [("search", ["--trials", "2", "--out", "a"]), ("run", ["--seeds", "0,1"])]
    with pytest.raises(SystemExit):
        parser_of("run").parse_args(["--sedes", "0"])


@by_name
def test_every_link_of_a_document_leads_somewhere(document):
    assert broken_links(document) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# One heading: two words\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#one-heading-two-words) [b](other.md#none) [c](missing.md) [d](https://example.org)\n")
    assert broken_links(page) == ["other.md#none", "missing.md"]
    assert anchors("## `held_out`, again\n") == {"held_out-again"}


def test_the_readme_is_short_and_leads_to_every_page():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 1500
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", text))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == linked, "each page has its line in the README"


def test_the_readmes_python_uses_names_that_there_are():
    (code,) = [body for language, body in FENCE.findall(README.read_text(encoding="utf-8")) if language == "python"]
    tree = ast.parse(code)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names <= set(benchmarks.__all__)
    assert used
    assert all(hasattr(benchmarks.Results, name) for name in used)
    (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "ComparisonConfig"]
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert benchmarks.ComparisonConfig(**given).methods


def test_the_licence_is_the_same_wherever_it_is_named():
    project = (ROOT / "pyproject.toml").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert 'license = "Apache-2.0"' in project
    assert "license: Apache-2.0" in citation
    (version,) = re.findall(r'^version = "(.*)"$', project, re.MULTILINE)
    assert f"version: {version}" in citation.splitlines()
    assert "The advalign authors" in project
    assert "The advalign authors" in citation
