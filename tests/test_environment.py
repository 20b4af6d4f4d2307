"""How the virtual environment is made: what is missing is told first, and torch comes from where it can be had."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

import environment

PIP = ["pip"]


def missing(monkeypatch, *, version=(3, 11, 0), has_venv=True, free_gb=100.0):
    """What is told of a machine like this."""
    with monkeypatch.context() as machine:
        machine.setattr(sys, "version_info", version)
        machine.setattr(environment.importlib.util, "find_spec", lambda name: object() if has_venv else None)
        machine.setattr(environment.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free_gb * 1e9))
        return environment.missing("here")


def test_each_lack_is_named_with_its_remedy(monkeypatch):
    assert missing(monkeypatch) == []
    (python,) = missing(monkeypatch, version=(3, 10, 12))
    assert python == "Python 3.11 or later: this is 3.10; install one and name it, `make PYTHON=python3.11`"
    (venv,) = missing(monkeypatch, has_venv=False)
    assert "sudo apt install python3.11-venv" in venv
    (disk,) = missing(monkeypatch, free_gb=1.26)
    assert "here has 1.3 GB" in disk
    assert len(missing(monkeypatch, version=(3, 9, 0), has_venv=False, free_gb=0)) == 3


def test_nothing_is_installed_where_something_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(environment, "missing", lambda folder: ["bread: bake some", "salt: buy some"])
    monkeypatch.setattr(environment, "install", lambda venv: pytest.fail("it was installed"))
    assert environment.main() == 2
    assert capsys.readouterr().err == "missing: bread: bake some\nmissing: salt: buy some\n"


def test_what_pip_refused_is_shown(monkeypatch, capsys):
    def install(venv):
        raise subprocess.CalledProcessError(1, ["pip", "install", str(venv)])

    monkeypatch.setattr(environment, "missing", lambda folder: [])
    monkeypatch.setattr(environment, "install", install)
    monkeypatch.setattr(sys, "argv", ["environment.py", "a_venv"])
    assert environment.main() == 1
    assert "it ran: pip install a_venv" in capsys.readouterr().err


def commands(monkeypatch, *, system="Linux", gpu=False, own_sources=True, index=True):
    """What pip is asked for on a machine like this."""
    asked = []

    def run(command, **how):
        asked.append(command[1:])
        return SimpleNamespace(returncode=0 if own_sources else 1)

    monkeypatch.setattr(environment.platform, "system", lambda: system)
    monkeypatch.setattr(environment, "has_gpu", lambda: gpu)
    monkeypatch.setattr(environment, "answers", lambda url: index)
    monkeypatch.setattr(environment.subprocess, "run", run)
    environment.install_torch(PIP)
    return asked


def test_torch_is_the_cpu_build_where_there_is_no_gpu_and_pips_default_where_that_cannot_be_had(monkeypatch):
    assert commands(monkeypatch, gpu=True) == [["torch"]]
    assert commands(monkeypatch, system="Darwin") == [["torch"]]
    ((*_, requirement),) = commands(monkeypatch)
    pinned = [line for line in environment.CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")]
    assert [requirement] == [f"{line}+cpu" for line in pinned]
    _, indexed = commands(monkeypatch, own_sources=False)
    assert indexed == ["--extra-index-url", environment.TORCH_INDEX, requirement]
    assert commands(monkeypatch, own_sources=False, index=False)[1:] == [["torch"]]


@pytest.mark.parametrize(("script", "found"), [(None, False), ("exit 9", False), ("echo GPU 0", True)])
def test_a_gpu_is_what_its_driver_lists(monkeypatch, tmp_path, script, found):
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.has_gpu() is found


@pytest.fixture
def server():
    """Answers with the status that the path names; `/never` only when the test is over."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/never":
                over.wait()
                return
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        over.set()
        made.shutdown()


def test_an_index_answers_unless_it_is_broken_absent_or_silent(monkeypatch, server):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(environment, "REACHABLE_SECONDS", 60.0)
    assert environment.answers(f"{server}/200")
    assert environment.answers(f"{server}/403"), "it is there, whatever it thinks of the address"
    monkeypatch.setattr(environment, "REACHABLE_SECONDS", 0.5)
    for absent in (f"{server}/503", f"{server}/never", "http://127.0.0.1:9"):
        assert not environment.answers(absent)
