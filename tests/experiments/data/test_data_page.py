"""docs/data.md says what the code does."""

import json
import re
from pathlib import Path

import pytest

from experiments.data.columns import fields_table
from experiments.data.recognition import recognise

PAGE = (Path(__file__).parents[3] / "docs/data.md").read_text()
EXAMPLES = [
    json.loads(text)
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    for text in re.split(r"\n(?=\{)", block.strip())
    if "…" not in text
]


def test_the_page_shows_every_field_with_its_columns():
    assert f"<!-- fields -->\n{fields_table()}\n<!-- fields end -->" in PAGE


@pytest.mark.parametrize("record", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_of_the_page_is_read(record):
    row = recognise([record]).parse(1, record)
    assert all(side.completion != "No." for role, side in row.sides.items() if role in ("chosen", "expert"))
    assert len(EXAMPLES) == 12
