"""One file that needs nothing else, says what was measured and trusts nothing that a run wrote."""

import html.parser
import math
import re
import shutil
import subprocess

import pytest

from benchmarks.plots import svg
from benchmarks.ranking.tables import SEEDS_NEEDED, build
from benchmarks.reporting.report import _families, render, write_report
from benchmarks.results.references import PUBLISHED, PublishedTable, published_for
from methods import resolve
from registry import flatten
from tests.benchmarks.reporting.described_runs import describe_runs
from tests.benchmarks.synthetic_store import EVIL, METHODS, write_run, write_store

VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


class Page(html.parser.HTMLParser):
    """Reads the page strictly: every element is closed in order, ids are unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def said(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("store")
    write_store(out, extra={"ganpo_dpo_frozen": METHODS["ganpo_dpo"] | {"latent.trained": False}})
    return out


@pytest.fixture(scope="module")
def text(store) -> str:
    return render(build(store))


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_the_page_is_well_formed_and_its_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 3
    links = {a["href"] for a in page.all("a") if a["href"].startswith("#")}
    assert links <= {f"#{name}" for name in ids}


def test_the_page_asks_nothing_of_any_other_place(text, page):
    sources = [a for tag, a in page.elements if tag != "a" for key in ("src", "href", "srcset") if a.get(key)]
    assert [a["href"] for a in sources] == ["data:,"]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert {a["href"].split("/")[2] for a in page.all("a") if "//" in a["href"]} == {"arxiv.org"}


def test_what_a_run_wrote_is_text_and_never_markup(text, page):
    assert EVIL not in text
    assert EVIL in page.said  # shown as it was written
    assert len(page.all("script")) == 1
    assert page.all("img") == []


def test_every_picture_says_what_it_shows(page):
    for picture in page.all("svg"):
        assert picture.get("aria-hidden") == "true" or picture["aria-label"]
    labels = " ".join(picture.get("aria-label") or "" for picture in page.all("svg"))
    assert "ganpo_dpo minus dpo: +" in labels
    assert "Total loss. " in labels


def test_training_shows_both_players_and_every_discriminator_comparison(page):
    for title in (
        *("Total loss", "Objective’s loss", "Reward accuracy", "Gradient norm, policy"),
        *("Adversary’s loss", "Policy’s loss against it", "Gradient norm, adversary"),
        *("reference chosen > policy chosen", "policy chosen > reference rejected"),
        *("reference rejected > policy rejected", "policy rejected > reference chosen"),
    ):
        assert title in page.said


def test_rollouts_and_reward_models_have_groups_of_their_own(tmp_path):
    write_store(tmp_path, seeds=(0,))
    describe_runs(tmp_path)
    said = Page(render(build(tmp_path))).said
    training = said[said.index("Training") : said.index("Everything else that was logged")]
    for title in (
        *("Rollouts", "Learned reward", "Verified reward", "KL from the reference, nats a token", "Length, tokens"),
        *("Reward model", "Accuracy on held-out pairs", "Calibration error (ECE)"),
    ):
        assert title in training


def test_a_method_stands_against_its_baseline_and_its_control(tmp_path):
    for name in ("gapo", "ppo_base", "ganpo_dpo", "dpo"):
        write_run(tmp_path, name, 0, hyperparameters=flatten(resolve(name).spec))
    write_run(tmp_path, "ganpo_dpo", 0, hyperparameters=flatten(resolve("ganpo_dpo").spec) | {"latent.weight": 0.0})
    said = Page(render(build(tmp_path))).said
    between = said.index("Between other methods")
    group = said[said.index("Against its baseline or control") : between]
    minus = "\N{MINUS SIGN}"
    assert f"gapo {minus} ppo_base" in group
    assert f"ganpo_dpo, latent.weight=1 {minus} ganpo_dpo, latent.weight=0" in group
    assert group.count(f" {minus} ") == 2
    assert f"gapo {minus} dpo" in said[between:]
    assert "baseline: gapo does not learn against the policy" in said


def test_what_was_followed_is_shown_by_kind_of_instruction(store, page):
    assert "ifeval by instruction" in page.said
    (table,) = build(store).tables
    (counted,) = _families(table)
    assert [kind for kind, _, _ in counted["lines"]] == ["keywords:existence", "punctuation:no_comma"]
    for place, name in enumerate(counted["rows"]):
        row = next(row for row in table.rows if row.name == name)
        strict = row.scores["ifeval"].interval.estimate  # both kinds are asked equally often
        assert sum(shares[place] for _, _, shares in counted["lines"]) / 2 == pytest.approx(strict)


def test_a_control_is_marked_and_cost_is_relative_to_the_objective(page):
    assert "control: latent is never trained" in page.said
    assert "+18 %" in page.said
    assert "1 min 53 s" in page.said


def test_the_data_report_says_what_was_dropped_and_why(page):
    assert "300 rows, 291 kept, 9 dropped" in page.said
    assert "the same as an earlier row" in page.said
    assert "17, 203" in page.said


def test_published_rows_of_the_papers_on_the_board_are_marked_as_published(page):
    assert "Published figures" in page.said
    assert "on other models, data, judges and machines" in page.said
    assert "29.69" in page.said  # GANPO's Table 1
    assert "33.90" in page.said  # with the zero that was printed
    assert "2503.20194" not in page.said  # GAPO is not on this board


def test_one_seed_is_said_before_any_figure(tmp_path):
    write_store(tmp_path, seeds=(0,))
    said = Page(render(build(tmp_path))).said
    assert SEEDS_NEEDED in said
    assert said.index(SEEDS_NEEDED) < said.index("Leaderboard")
    assert "no difference is called significant" in said
    assert not re.search(r"\b(higher|lower|undecided)\b", said)


def test_several_tables_say_what_sets_them_apart(tmp_path):
    write_run(tmp_path, "dpo", 0, tokens="b" * 64)
    write_run(tmp_path, "dpo", 0, tokens="c" * 64)
    said = Page(render(build(tmp_path))).said
    assert "tokens bbbbbbbb" in said
    assert "tokens cccccccc" in said


def test_an_empty_store_and_a_run_without_evaluations_make_a_page(tmp_path):
    assert "Nothing has been run to its end yet" in Page(render(build(tmp_path))).said
    folder = write_run(tmp_path, "dpo", 0, tasks=())
    broken = write_run(tmp_path, "ipo", 0, status="running")
    said = Page(render(build(tmp_path))).said
    assert folder.name in said
    assert f"{broken.name} not finished" in said


def test_a_diverged_run_leaves_a_gap_in_its_curve(tmp_path):
    folder = write_run(tmp_path, "dpo", 0, steps=4)
    losses = enumerate(["1.0", "2.0", "NaN", "2.0"], 1)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "loss": {loss}}}\n' for step, loss in losses))
    line, *_ = (path for path in Page(render(build(tmp_path))).all("path") if path.get("class") == "line c0")
    assert line["d"].count("M") == 2
    assert "nan" not in line["d"].lower()


CLICK = """<script>addEventListener("load", () => {
  const heading = document.querySelectorAll(".leaderboard thead th")[1];
  heading.querySelector("button").click(); heading.querySelector("button").click();
  const rows = [...document.querySelectorAll(".leaderboard tbody tr")];
  document.title = rows.map((row) => row.cells[1].dataset.value).join() + ";" + heading.getAttribute("aria-sort") + ";"
    + document.documentElement.scrollWidth;
});</script>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_a_browser_sorts_by_a_heading_and_scrolls_nothing_sideways(store, tmp_path):
    path = write_report(build(store), tmp_path)
    path.write_text(path.read_text().replace("</body>", CLICK + "</body>"))
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--window-size=500,900", "--dump-dom"),
    ]
    done = subprocess.run(["chromium", *options, path.as_uri()], capture_output=True, text=True, timeout=120)
    values, order, width = re.search("<title>(.*?)</title>", done.stdout)[1].split(";")
    shown = [float(value) for value in values.split(",")]
    assert shown == sorted(shown)
    assert order == "ascending"
    assert int(width) <= 500


@pytest.mark.parametrize(
    "values",
    [[0.0], [5.0, 5.0], [0.05, 0.05 + 7e-18], [-1e-7, 2e-7], [1e6, 3e6], [0.1, math.nan, 0.9], [], [-3.0, 40.0]],
)
def test_an_axis_holds_its_values_and_has_round_ticks_inside(values):
    scale = svg.Scale.around(values)
    assert all(0 <= scale.per_cent(value) <= 100 for value in values if math.isfinite(value))
    assert 2 <= len(scale.ticks) <= 8
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
    texts = [text for _, text in svg.tick_labels(scale)]
    assert len(set(texts)) == len(texts)


def test_styles_repeat_neither_colour_with_dashes():
    lines = {str(svg.swatch(style)) for style in range(36)}
    assert len(lines) == 36


def test_a_long_curve_keeps_its_ends():
    points = tuple((float(step), float(step)) for step in range(1, 5002))
    picture = str(svg.panel("loss", [svg.Curve("dpo", points, 0)]))
    path = re.search(r'class="line c0" d="M([^"]*)"', picture)[1].split("L")
    assert len(path) <= svg.POINTS + 1
    assert path[0].startswith("0.0 ")
    assert path[-1].startswith("100.0 ")


def test_published_tables_are_complete_and_found_by_paper():
    assert {table.paper for table in published_for({"2601.22083"})} == {"2601.22083"}
    assert all(table.rows for table in PUBLISHED)
    with pytest.raises(ValueError, match="1 of 2 values"):
        PublishedTable(paper="1", where="Table 1", title="", setting="", columns=("a", "b"), rows={"dpo": (1.0,)})
