"""The last words of a command: where its results are and how to look at them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

UI = "http://127.0.0.1:5000"


def closing_words(out: Path, log: Path, tracking_uri: str | None) -> str:
    """Four lines; `tracking_uri` None is the database below `out`, "none" no tracking."""
    lines = {"report": f"{out / 'report.html'}", "leaderboard": f"{out / 'leaderboard.md'} (also .csv, .json)"}
    lines["log"] = str(log)
    uri = tracking_uri or f"sqlite:///{out / 'mlflow.db'}"
    if uri.startswith(("http:", "https:")):
        lines["tracking UI"] = uri
    elif uri != "none":
        lines["tracking UI"] = f"{_mlflow()} ui --backend-store-uri {uri}, then open {UI}"
    return "\n".join(f"{name + ':':13}{text}" for name, text in lines.items())


def _mlflow() -> str:
    """The command beside this interpreter, as it is typed in the current folder."""
    path = Path(sys.executable).with_name("mlflow")
    if not path.is_file():
        return "mlflow"
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near
