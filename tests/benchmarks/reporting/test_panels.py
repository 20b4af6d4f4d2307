"""The pictures of what describes: each from its data, none without it, and every one said in words too."""

import re
import shutil

import pytest

from benchmarks.leaderboard import main
from benchmarks.plots import panels, scatter, svg
from benchmarks.ranking.tables import build
from benchmarks.reporting.forms import export_tables
from benchmarks.reporting.latex import escape
from benchmarks.reporting.report import render
from tests.benchmarks.reporting.described_runs import describe_runs
from tests.benchmarks.reporting.test_report import Page
from tests.benchmarks.synthetic_store import write_store

PICTURES = [
    *("Quality and cost", "Sampling temperature", "Score by length", "Learned reward against verified reward"),
    *("Quality and tokens consumed", "Rollouts and experts", "Reward models by round", "Quality and drift"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("store")
    write_store(out)
    describe_runs(out)
    return out


@pytest.fixture(scope="module")
def table(store):
    (found,) = build(store).tables
    return found


@pytest.fixture(scope="module")
def page(store):
    return Page(render(build(store)))


def styles(table):
    return {row.name: index - 1 for index, row in enumerate(table.rows)}


def test_tasks_that_describe_are_measured_and_not_ranked(table):
    assert {column.task for column in table.columns if not column.ranks} == {
        *("discriminator", "geometry", "length", "reward_model")
    }
    assert [column.key for column in table.ranked] == [
        *("held_out relative", "held_out average_logp", "ifeval", "robustness"),
    ]
    for row in table.rows:
        assert row.scores["geometry"].rank is None
        assert row.scores["geometry"].interval.estimate > 0 or row.name == "untrained"


def test_every_question_with_data_has_a_picture(table, page):
    assert [group.title for group in panels.groups(table, styles(table))] == PICTURES
    for title in PICTURES:
        assert title in page.said
    labels = [picture.get("aria-label") or "" for picture in page.all("svg")]
    assert any("ifeval prompt_strict" in label and "ganpo_dpo: from" in label for label in labels)


def test_without_descriptions_only_cost_has_a_picture(tmp_path):
    write_store(tmp_path)
    (table,) = build(tmp_path).tables
    assert [group.title for group in panels.groups(table, styles(table))] == ["Quality and cost"]
    assert panels.agreements(table) == []
    assert panels.length_correlations(table) == []


def test_correlations_show_pooled_and_controlled_and_fold_the_rest(table):
    found = {entry["name"]: entry for entry in panels.agreements(table)}
    assert set(found) == {"discriminator: dpo", "discriminator: ganpo_dpo", "discriminator: untrained"}
    shown = [entry["pair"][0] for entry in found["discriminator: ganpo_dpo"]["shown"]["temperature 1.5"]]
    assert "discriminator chosen, pooled" in shown
    assert "discriminator chosen, within prompts, length held fixed" in shown
    assert "length, pooled" in shown
    folded = [entry["pair"][0] for entry in found["discriminator: ganpo_dpo"]["folded"]["temperature 2"]]
    assert "discriminator chosen, length held fixed" in folded


def test_an_empty_bucket_of_length_leaves_no_point(table):
    (group,) = [group for group in panels.groups(table, styles(table)) if group.title == "Score by length"]
    dots = re.findall(r'class="dots c0" d="([^"]*)"', str(group.panels[0]))
    assert dots
    assert all(dot.count("M") == 4 for dot in dots)  # of five buckets


def panels_of(table, title):
    """The pictures of one question, by their own titles."""
    (group,) = [group for group in panels.groups(table, styles(table)) if group.title == title]
    return {re.search("<figcaption>(.*?)<small>", str(picture))[1]: str(picture) for picture in group.panels}


def test_samples_that_no_verifier_knows_are_judged_by_a_model_that_trains_no_policy(table):
    found = panels_of(table, "Learned reward against verified reward")
    drawn = {title: re.findall(r"(\w+): from", picture) for title, picture in found.items()}
    assert drawn == {"Verified reward": ["ganpo_dpo"], "Reward by a model that trains no policy": ["dpo"]}


def test_quality_over_tokens_has_a_point_a_round(table):
    found = panels_of(table, "Quality and tokens consumed")
    assert set(found) == {"Verified reward", "Accuracy of the reward model"}
    assert "dpo: from 0.6 to 0.8" in found["Accuracy of the reward model"]
    dots = re.findall(r'class="dots \w+" d="([^"]*)"', found["Accuracy of the reward model"])
    assert [dot.count("M") for dot in dots] == [5, 5]  # forty updates, a fit every eight


def test_rollouts_and_experts_lie_beside_each_other_with_their_spread(table):
    found = panels_of(table, "Rollouts and experts")
    assert set(found) == {f"{name}: {what}" for name in ("dpo", "ganpo_dpo") for what in ("log-prob a token", "length")}
    assert (
        "rollouts, 50 %: from -0.5 to -0.63; experts’ responses, 50 %: from -2 to -1.805"
        in found["dpo: log-prob a token"]
    )
    assert len(re.findall(r'class="line [^"]*faint"', found["dpo: log-prob a token"])) == 4
    assert "experts’ responses: from 52 to 52" in found["dpo: length"]


def test_a_reward_model_stands_at_the_number_of_its_round(table):
    picture = panels_of(table, "Reward models by round")["Accuracy of the reward model"]
    (points, *_) = re.findall(r'class="dots \w+" d="M([\d.]+) [\d.]+h0M([\d.]+) [\d.]+h0M([\d.]+) ', picture)
    first, second, last = map(float, points)
    assert (last - first) / (second - first) == pytest.approx(19, rel=0.01)


def test_the_frontier_joins_what_nothing_cheaper_beats():
    dots = [
        scatter.Dot(name, x, y, y, y, 0)
        for name, x, y in [("a", 1, 5), ("b", 2, 4), ("c", 3, 7), ("d", 3, 9), ("e", 9, 9)]
    ]
    assert [dot.label for dot in scatter.pareto(dots)] == ["a", "d"]


def test_names_beside_dots_do_not_cover_each_other():
    dots = [scatter.Dot(f"m{i}", 10 + i / 100, 50, 49, 51, i) for i in range(4)] + [
        scatter.Dot("far", 20, 50, 49, 51, 4)
    ]
    tops = [
        float(top)
        for top in re.findall(r'class="tag" style="left:[\d.]+%;top:([\d.]+)%', str(scatter.scatter("", dots)))
    ]
    assert len(tops) == 4
    assert min(b - a for a, b in zip(sorted(tops), sorted(tops)[1:], strict=False)) >= scatter.TAG_HEIGHT


def test_intervals_at_one_place_stand_beside_each_other():
    curves = [svg.Curve(name, ((0.0, 1.0), (1.0, 2.0)), i, bounds=((0.0, 0.5, 1.5),)) for i, name in enumerate("ab")]
    places = re.findall(r'class="bounds c\d" d="M([\d.]+) ', str(svg.panel("", curves, margin=0.1)))
    assert len(set(places)) == 2


def test_a_figure_that_measures_no_quality_says_so(store, tmp_path):
    import json

    out = shutil.copytree(store, tmp_path / "out")
    for path in out.glob("runs/*/evaluations/ifeval-*.json"):
        document = json.loads(path.read_text())
        document["extras"]["plumbing_only"] = "judged by a Python function"
        path.write_text(json.dumps(document))
    assert (
        "ifeval prompt_strict is no measure of quality: judged by a Python function." in Page(render(build(out))).said
    )


def test_a_judge_that_prefers_a_place_is_told_beside_its_figures(store, tmp_path):
    import json

    out = shutil.copytree(store, tmp_path / "out")
    for duels, path in enumerate(sorted(out.glob("runs/*/evaluations/ifeval-*.json")), 1):
        document = json.loads(path.read_text())
        bias = {"second_wins": 0.6 if duels == 1 else 0.5, "consistent": 0.8, "standard_error": 0.1, "num_duels": 10.0}
        document["extras"]["position_bias"] = bias
        path.write_text(json.dumps(document))
    said = Page(render(build(out))).said
    assert "of 70 duels judged in both orders the answer shown second won 51.4 % (a fair judge: 50)" in said
    assert "80.0 % had one winner in both" in said


def test_export_writes_each_table_as_latex_and_csv(store, tmp_path, capsys):
    assert main(["--out", str(store), "--export", str(tmp_path / "paper")]) == 0
    capsys.readouterr()
    assert {path.name for path in (tmp_path / "paper").iterdir()} == {"table-1.tex", "table-1.csv"}
    text = (tmp_path / "paper" / "table-1.tex").read_text()
    head, *rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in (head, *rows)}) == 1
    assert rf"\begin{{tabular}}{{l{'r' * head.count('&')}}}" in text
    assert r"ganpo\_dpo" in text
    assert not re.search(r"(?<!\\)[%#_]", text)
    assert text.isascii() or "’" in text
    assert export_tables(build(tmp_path), tmp_path) == []


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b & 5 %", r"a\_b \& 5 \%"),
        ("−3 ±1", r"$-$3 $\pm$1"),
        ("\\{x}~^", r"\textbackslash{}\{x\}\textasciitilde{}\textasciicircum{}"),
    ],
)
def test_latex_prints_what_was_written(text, written):
    assert escape(text) == written


def test_a_name_too_long_for_its_side_of_the_plot_is_told_below_it():
    long = "grpo, sampling.max_new_tokens=64, sampling.num_generations=4"
    drawn = str(scatter.scatter("quality", [scatter.Dot(long, 1, 1, 0, 2, 0), scatter.Dot("sft", 2, 1, 0, 2, 1)]))
    assert f"1 {long}; 2 sft" in drawn
    assert ">sft</span>" not in drawn


def test_many_dots_have_numbers_and_a_note_that_explains_them():
    dots = [scatter.Dot(f"method_{i}", i, i, i, i, i) for i in range(scatter.MOST_NAMED + 1)]
    many, few = str(scatter.scatter("", dots, note="over x")), str(scatter.scatter("", dots[:-1], note="over x"))
    assert "over x: 1 method_0; 2 method_1; " in many
    assert re.findall(r'class="tag(?: left)?" [^>]*>([^<]*)<', many) == [str(i) for i in range(len(dots), 0, -1)]
    assert sorted(re.findall(r'class="tag(?: left)?" [^>]*>([^<]*)<', few)) == sorted(dot.label for dot in dots[:-1])
