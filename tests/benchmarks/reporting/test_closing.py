"""The last words name files that are there and a command that can be typed."""

from pathlib import Path

from benchmarks.reporting.closing import closing_words


def test_the_last_words_name_report_leaderboard_log_and_tracking():
    out = Path(".advalign")
    words = dict(line.split(":", 1) for line in closing_words(out, out / "log.txt", None).splitlines())
    assert words["report"].strip() == ".advalign/report.html"
    assert words["leaderboard"].strip() == ".advalign/leaderboard.md (also .csv, .json)"
    assert words["log"].strip() == ".advalign/log.txt"
    command, _, place = words["tracking UI"].strip().partition(", then open ")
    assert command.endswith("mlflow ui --backend-store-uri sqlite:///.advalign/mlflow.db")
    assert place.startswith("http://")


def test_a_server_is_named_by_its_address_and_no_tracking_by_nothing():
    out = Path("out")
    assert closing_words(out, out / "log.txt", "https://tracking.example").endswith("https://tracking.example")
    assert "tracking" not in closing_words(out, out / "log.txt", "none")
