"""What may be compared is compared; what may not be stands apart; what cannot be trusted is left out and named."""

import csv
import io
import json
import shutil

import pytest
from rich.console import Console

from benchmarks.leaderboard import main
from benchmarks.ranking.board import Leaderboard
from benchmarks.ranking.descriptions import changed
from benchmarks.ranking.tables import SEEDS_NEEDED, build
from benchmarks.reporting.exports import as_json, comma_separated, export, markdown
from benchmarks.reporting.latex import latex
from benchmarks.reporting.report import render
from benchmarks.reporting.terminal import terminal_tables
from benchmarks.results import declared_runs
from benchmarks.results.results import load
from registry.models import MODELS
from tests.benchmarks.synthetic_store import METHODS, write_run, write_store

COLUMNS = ["held_out relative", "held_out average_logp", "ifeval"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("store")
    write_store(out)
    return out


@pytest.fixture(scope="module")
def board(store) -> Leaderboard:
    return build(store)


@pytest.fixture
def out(store, tmp_path):
    return shutil.copytree(store, tmp_path / "out")


def rows_by_name(table):
    return {row.name: row for row in table.rows}


def test_the_seeds_of_a_method_make_one_row_beside_the_untrained_model(board):
    (table,) = board.tables
    rows = rows_by_name(table)
    assert {name: row.seeds for name, row in rows.items()} == {
        "dpo": (0, 1, 2),
        "ganpo_dpo": (0, 1, 2),
        "untrained": (),
    }
    assert [column.key for column in table.columns] == COLUMNS
    assert board.skipped == ()


def test_ranks_count_who_is_significantly_better(board):
    (table,) = board.tables
    relative, average = (
        {row.name: row.scores[key].rank for row in table.rows} for key in ("held_out relative", "held_out average_logp")
    )
    assert average["untrained"] == 3  # both methods learned
    assert average["dpo"] == average["ganpo_dpo"] == 1  # and cannot be told apart
    assert relative == {"dpo": 1, "ganpo_dpo": 1, "untrained": None}
    assert table.rows[-1].name == "untrained"
    assert table.claims


def test_every_pair_of_a_column_is_compared_and_corrected(board):
    for column in board.tables[0].columns:
        pairs = {frozenset(pair) for pair in column.comparisons}
        family = [("ganpo_dpo", "dpo"), ("dpo", "untrained"), ("ganpo_dpo", "untrained")]
        assert pairs == {frozenset(p) for p in (family[:1] if column.primary == "relative" else family)}
        assert all(column.adjusted[pair] >= c.p_value for pair, c in column.comparisons.items())
        assert column.detectable > 0


def test_runs_of_trained_methods_are_counted_against_each_other(board):
    (table,) = board.tables
    for column in table.columns:
        first, second = (
            [sum(item.values[column.primary] for item in e.result.items) for e in runs]
            for runs in (
                [e for run in rows_by_name(table)[name].runs for e in run.evaluations if e.task == column.task]
                for name in ("ganpo_dpo", "dpo")
            )
        )
        won = [(a > b) + (a == b) / 2 for a in first for b in second]
        ((pair, (estimate, low, high)),) = column.improvements.items()
        assert pair == ("ganpo_dpo", "dpo")
        assert estimate == pytest.approx(sum(won) / len(won))
        assert 0 <= low <= estimate <= high <= 1


def test_what_the_untrained_model_has_by_definition_is_shown_and_neither_ranked_nor_compared(board):
    (table,) = board.tables
    rows = rows_by_name(table)
    score = rows["untrained"].scores["held_out relative"]
    assert (score.interval.estimate, score.rank, score.by_definition) == (0.5, None, True)
    assert all(row.scores["held_out relative"].difference is None for row in rows.values())
    said = markdown(Leaderboard((table,), (), {}))
    (untrained,) = [line for line in said.split("## Published")[0].splitlines() if line.startswith("| untrained")]
    assert "| – | 50.0 |" in untrained
    assert "50 % there by definition" in said


def test_a_methods_own_reward_stands_beside_the_columns_and_ranks_nothing(board, out):
    for seed in range(3):
        write_run(out, "grpo", seed, hyperparameters={"lr": 1e-5})
    (table,) = build(out).tables
    column = next(column for column in table.columns if column.key == "held_out average_logp")
    assert column.beside == ("own",)
    assert "own" not in column.others, "rows without a reward of their own have nothing to be compared with"
    rows = rows_by_name(table)
    assert "own" in rows["dpo"].scores[column.key].others
    assert "own" not in rows["grpo"].scores[column.key].others
    assert "own reward" in markdown(build(out))


def test_results_of_a_withdrawn_revision_are_left_out_with_the_reason(out):
    folder = next(path for path in sorted((out / "runs").iterdir()) if (path / "metrics.jsonl").exists())
    path = folder / "evaluations" / "held_out-0a1b2c3d.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"revision": 1, "primary": "accuracy"}))
    (skipped,) = build(out).skipped
    assert "ranked two measures in one column" in skipped.reason


def test_a_row_that_was_rewarded_by_what_judges_it_is_marked_in_every_form(tmp_path):
    sampled = {"lr": 1e-5, "sampling.verifier_weight": 1.0}
    learned = sampled | {"sampling.verifier_weight": 0.0}
    for seed in range(3):
        for method, settings in {"grpo": sampled, "gapo": learned, "dpo": METHODS["dpo"]}.items():
            write_run(tmp_path, method, seed, hyperparameters=settings, data="constraints")
    board = build(tmp_path)
    (table,) = board.tables
    marked = {name: row.scores["ifeval"].rewarded_by for name, row in rows_by_name(table).items()}
    assert marked == {"grpo": "verifiers", "gapo": None, "dpo": None}
    assert all(row.scores["held_out relative"].rewarded_by is None for row in table.rows)
    sentence = "‡ ifeval prompt_strict: rewarded in training by what judges here (verifiers): grpo."
    assert sentence in markdown(board)
    (line,) = [line for line in markdown(board).splitlines() if line.startswith("| grpo")]
    assert line.count(" ‡") == 1
    records = list(csv.DictReader(io.StringIO(comma_separated(board))))
    assert {r["method"] for r in records if r["rewarded_by"] == "verifiers"} == {"grpo"}
    entry = next(row for row in as_json(board)["tables"][0]["rows"] if row["name"] == "grpo")
    assert entry["scores"]["ifeval"]["rewarded_by"] == "verifiers"
    assert r"$\ddagger$" in latex(table)
    assert "rewarded by verifiers" in render(board)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*terminal_tables(table, console))
    assert "‡ ifeval" in console.export_text()


def test_overhead_is_against_the_objective_alone_on_the_same_machine(board, out):
    rows = rows_by_name(board.tables[0])
    assert rows["ganpo_dpo"].cost.overhead == pytest.approx(113 / 96 - 1)
    assert rows["dpo"].cost.overhead is None
    for folder in (out / "runs").iterdir():
        manifest = json.loads((folder / "manifest.json").read_text())
        if json.loads((folder / "spec.json").read_text())["method"] == "dpo":
            manifest["hardware"]["cpu"] = "another"
            (folder / "manifest.json").write_text(json.dumps(manifest))
    assert rows_by_name(build(out).tables[0])["ganpo_dpo"].cost.overhead is None


def test_one_seed_gets_no_rank_and_the_sentence_that_says_why(tmp_path):
    write_store(tmp_path, seeds=(0,))
    (table,) = build(tmp_path).tables
    assert all(score.rank is None for row in table.rows for score in row.scores.values())
    assert all(column.detectable is None for column in table.columns)
    assert not table.claims
    assert SEEDS_NEEDED in markdown(build(tmp_path))
    assert [row.name for row in table.rows] == ["untrained", "dpo", "ganpo_dpo"]  # an order that claims nothing


def test_a_row_with_one_seed_is_not_ranked_among_rows_with_three(out):
    write_run(out, "ipo", 0, hyperparameters={"lr": 1e-5, "ipo.tau": 0.1})
    rows = rows_by_name(build(out).tables[0])
    assert rows["ipo"].scores["held_out average_logp"].rank is None
    assert rows["dpo"].scores["held_out average_logp"].rank == 1


def test_a_row_that_lost_one_seed_of_three_claims_nothing_and_the_table_says_what_is_missing(out):
    lost = next(
        folder for folder in (out / "runs").iterdir() if json.loads((folder / "spec.json").read_text())["seed"] == 1
    )
    method = json.loads((lost / "spec.json").read_text())["method"]
    shutil.rmtree(lost)
    board = build(out)
    (table,) = board.tables
    for column in table.columns:
        assert rows_by_name(table)[method].scores[column.key].rank is None
        for pair, comparison in column.comparisons.items():
            assert comparison.claims == (method not in pair)
    assert f"Too few: {method} has 2." in markdown(board)


@pytest.mark.parametrize(
    "difference",
    [{"tokens": "c" * 64}, {"weights": "d" * 64}, {"data": "another"}, {"steps": 20}],
    ids=["tokens", "weights", "data", "budget"],
)
def test_runs_on_other_tokens_weights_data_or_budget_stand_in_another_table(out, difference):
    write_run(out, "ipo", 0, hyperparameters={"lr": 1e-5}, **difference)
    tables = build(out).tables
    assert len(tables) == 2
    (other,) = (table for table in tables if "ipo" in rows_by_name(table))
    assert set(rows_by_name(other)) <= {"ipo", "untrained"}


@pytest.mark.parametrize("difference", [{"revision": 2}, {"num_prompts": 16}], ids=["revision", "settings"])
def test_another_revision_or_setting_of_a_task_stands_in_another_table(out, difference):
    write_run(out, "ipo", 0, hyperparameters={"lr": 1e-5}, tasks=("ifeval",), **difference)
    usual, other = build(out).tables
    assert "ipo" not in rows_by_name(usual)
    assert set(rows_by_name(other)) == {"ipo"}
    assert [column.task for column in other.columns] == ["ifeval"]


def test_a_task_whose_prompts_were_trained_on_is_left_out_with_the_reason(tmp_path):
    write_run(tmp_path, "dpo", 0, data="hh_rlhf", tasks=("held_out", "alpaca_eval"))
    (table,) = build(tmp_path).tables
    assert [column.key for column in table.columns] == COLUMNS[:2]
    assert any("alpaca_eval is left out: hh_rlhf holds its prompts" in note for note in table.notes)


def test_a_task_that_looks_at_a_contaminated_one_is_left_out_with_it(tmp_path):
    folder = write_run(tmp_path, "dpo", 0, data="hh_rlhf", tasks=("held_out", "ifeval"))
    path = folder / "evaluations" / "ifeval-4e5f6a7b.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"settings": document["settings"] | {"of": "alpaca_eval"}}))
    (table,) = build(tmp_path).tables
    assert [column.key for column in table.columns] == COLUMNS[:2]


@pytest.mark.parametrize(("share", "left"), [(0.5, COLUMNS[:2]), (0.005, COLUMNS)])
def test_prompts_that_were_found_in_the_training_data_are_no_test_of_it(tmp_path, share, left):
    folder = write_run(tmp_path, "dpo", 0, tasks=("held_out", "ifeval"))
    path = folder / "evaluations" / "ifeval-4e5f6a7b.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_on": share}))
    (table,) = build(tmp_path).tables
    assert [column.key for column in table.columns] == left


def test_another_judge_of_the_same_name_stands_in_another_table(out):
    folder = write_run(out, "ipo", 0, hyperparameters={"lr": 1e-5}, tasks=("ifeval",))
    path = folder / "evaluations" / "ifeval-4e5f6a7b.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"extras": document["extras"] | {"judge": "reward:rm#0123456789abcdef"}}))
    usual, other = build(out).tables
    assert "ipo" not in rows_by_name(usual)
    assert set(rows_by_name(other)) == {"ipo"}


def test_a_table_says_whose_learning_rates_its_rows_have(tmp_path):
    rates = MODELS["smollm2_135m"].borrowed_lr
    for method, rate in {"dpo": rates["sum"], "grpo": rates["mean"], "ipo": 0.125}.items():
        write_run(tmp_path, method, 0, hyperparameters={"lr": rate})
    write_run(tmp_path, "dpo@tuned", 0, hyperparameters={"lr": 3e-3})
    told = " ".join(note for table in build(tmp_path).tables for note in table.notes if "Learning rates" in note)
    for reduction, method in (("sum", "dpo"), ("mean", "grpo")):
        borrowed = f"borrowed: this model's for objectives on {reduction}s of log-probs, which no sweep has tuned"
        assert f"{rates[reduction]:g}, {borrowed} ({method})" in told
    assert "0.125, set by hand (ipo)" in told
    assert "dpo@tuned" not in told, "its notes say what the search found"


def test_rows_that_were_named_together_before_the_run_are_a_family_and_others_are_not(out):
    cells = sorted(path.name for path in (out / "runs").iterdir())
    assert not any("family" in note for note in build(out).tables[0].notes), "no command of this store named one"
    declared_runs.declare(out, cells, measured=[])
    declared_runs.declare(out, cells, measured=cells)  # the same command again, when all is done
    assert declared_runs.NAMED in build(out).tables[0].notes
    write_run(out, "ipo", 0)
    assert declared_runs.EXPLORED in build(out).tables[0].notes
    later = sorted(path.name for path in (out / "runs").iterdir())
    declared_runs.declare(out, later, measured=cells)
    assert declared_runs.EXPLORED in build(out).tables[0].notes, "most of it was measured when it was named"


def test_a_title_says_no_more_than_what_sets_a_table_apart(out):
    write_run(out, "ipo", 0, steps=20, tasks=("ifeval",))
    titles = [table.title for table in build(out).tables]
    assert sorted(title.rpartition(" · ")[2] for title in titles) == ["steps 20", "steps 40"], titles


def test_what_only_the_untrained_model_was_asked_is_no_column(tmp_path):
    write_run(tmp_path, "base", None, tasks=("held_out", "ifeval"))
    write_run(tmp_path, "dpo", 0, tasks=("held_out",))
    (table,) = build(tmp_path).tables
    assert [column.key for column in table.columns] == COLUMNS[:2]


def test_controls_stand_in_the_table_of_their_claim_and_are_marked(out):
    settings = METHODS["ganpo_dpo"]
    for seed in range(2):
        write_run(out, "ganpo_dpo_frozen", seed, hyperparameters=settings | {"latent.trained": False})
        write_run(out, "ganpo_dpo", seed, hyperparameters=settings | {"latent.weight": 0.0})
        write_run(out, "ganpo_dpo_shuffled", seed, hyperparameters=settings | {"latent.labels": "shuffled"})
    (table,) = build(out).tables
    controls = {row.name: row.control for row in table.rows if row.control}
    assert set(controls) == {"ganpo_dpo_frozen", "ganpo_dpo, latent.weight=0", "ganpo_dpo_shuffled"}
    assert "no weight" in controls["ganpo_dpo, latent.weight=0"]


def test_rows_of_one_method_are_told_apart_by_what_differs(out):
    write_run(out, "dpo", 0, hyperparameters=METHODS["dpo"] | {"dpo.beta": 0.3})
    write_run(out, "dpo", 0, hyperparameters=METHODS["dpo"] | {"lr": 5e-5})
    (table,) = build(out).tables
    names = [row.name for row in table.rows if row.method == "dpo"]
    assert len(names) == len(set(names)) == 3
    assert sum("dpo.beta=0.3" in name for name in names) == 1
    assert sum("lr=5e-05" in name for name in names) == 1


def test_a_method_that_is_no_longer_registered_keeps_its_row(out):
    write_run(out, "forgotten", 0, hyperparameters={"forgotten.x": 1.0})
    assert "forgotten" in rows_by_name(build(out).tables[0])


def damage(folder, what):
    if what == "interrupted":
        (folder / "manifest.json").write_text('{"status": "running"}')
    elif what == "failed":
        (folder / "manifest.json").write_text('{"status": "failed"}')
    elif what == "manifest.json is missing":
        (folder / "manifest.json").unlink()
    elif what == "spec.json is damaged":
        (folder / "spec.json").write_text('{"method": "dp')
    elif what == "spec.json lacks data":
        (folder / "spec.json").write_text('{"method": "dpo", "hyperparameters": {}, "model": {}, "training": {}}')
    elif what == "ends at step":
        (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')


@pytest.mark.parametrize(
    "what",
    [
        "interrupted",
        "failed",
        "manifest.json is missing",
        "spec.json is damaged",
        "spec.json lacks data",
        "ends at step",
    ],
)
def test_unfinished_and_damaged_runs_are_left_out_with_the_reason(out, what):
    folder = write_run(out, "ipo", 0, hyperparameters={})
    damage(folder, what)
    board = build(out)
    assert [entry.path for entry in board.skipped] == [folder.name]
    assert what in board.skipped[0].reason
    assert "ipo" not in rows_by_name(board.tables[0])
    assert folder.name in markdown(board)


@pytest.mark.parametrize("text", ["[1]", "{}", '{"metrics": {}, "items": [], "settings": {}, "revision": 1}', "\x00"])
def test_a_damaged_evaluation_is_left_out_and_the_others_stay(out, text):
    folder = write_run(out, "ipo", 0, hyperparameters={})
    (folder / "evaluations" / "held_out-0a1b2c3d.json").write_text(text)
    board = build(out)
    assert [entry.path for entry in board.skipped] == [f"{folder.name}/evaluations/held_out-0a1b2c3d.json"]
    assert set(rows_by_name(board.tables[0])["ipo"].scores) == {"ifeval"}


def test_an_empty_store_is_an_empty_leaderboard(tmp_path):
    board = build(tmp_path)
    assert board.tables == ()
    assert "Nothing has been run" in markdown(board)


def test_the_untrained_model_alone_is_a_table(tmp_path):
    write_run(tmp_path, "base", None)
    (table,) = build(tmp_path).tables
    assert [row.name for row in table.rows] == ["untrained"]
    assert table.rows[0].scores["held_out relative"].rank is None


def test_mean_length_is_of_the_task_that_generates(board):
    for row in board.tables[0].rows:
        assert row.scores["held_out relative"].mean_length is None
        assert 40 <= row.scores["ifeval"].mean_length <= 128


def test_a_leaderboard_that_is_built_again_is_the_same(out):
    first = [path.read_bytes() for path in export(build(out), out)]
    assert [path.read_bytes() for path in export(build(out), out)] == first


def test_the_command_rebuilds_everything_and_fails_without_a_store(out, tmp_path, capsys):
    assert main(["--out", str(out)]) == 0
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *("leaderboard.csv", "leaderboard.json", "leaderboard.md", "report.html")
    }
    assert "ganpo_dpo" in capsys.readouterr().out
    assert main(["--out", str(tmp_path / "nothing")]) == 2
    assert "holds no runs" in capsys.readouterr().err


def test_runs_are_read_in_the_order_of_method_and_seed(store):
    runs = load(store).runs
    assert [(run.method, run.seed) for run in runs][:3] == [("base", None), ("dpo", 0), ("dpo", 1)]
    assert len(runs[1].steps) == 40


def test_what_a_search_chose_is_not_part_of_a_rows_name():
    found = {"lr": 1e-3, "dpo.beta": 0.5}
    assert changed("dpo@tuned", found, []) == {}
    assert changed("dpo", found, []) == {"dpo.beta": 0.5}


def test_a_setting_that_all_rows_share_is_said_once(tmp_path):
    tokens = {"sampling.max_new_tokens": 64}
    write_run(tmp_path, "base", None)
    write_run(tmp_path, "dpo", 0)
    write_run(tmp_path, "raft", 0, hyperparameters=tokens)
    write_run(tmp_path, "grpo", 0, hyperparameters=tokens | {"grpo.clip": 0.3})
    (table,) = build(tmp_path).tables
    assert {row.name for row in table.rows} == {"untrained", "dpo", "raft", "grpo, grpo.clip=0.3"}
    assert "Not the default, in every row that has it: sampling.max_new_tokens=64." in table.notes
    write_run(tmp_path, "rrhf", 0, hyperparameters={"sampling.max_new_tokens": 128})
    (table,) = build(tmp_path).tables
    assert "raft, sampling.max_new_tokens=64" in {row.name for row in table.rows}, "now it tells rows apart"
