"""Put the real programs that tests and the demo start into `.tools/`, installing nothing.

    python3 scripts/fetch_tools.py [--for run|test|matrix|bench]

Debian's own packages are downloaded with the system's own apt sources and unpacked into
`.tools/<suite>`. No package script runs: so no service starts, and a containerd that this machine
already has is neither touched nor replaced. Needs Debian 12 and nothing but its Python.

`matrix` adds the containerds of newer suites, from the same mirror, beside Debian 12's runc; and
`bench` those, and what else changes images.
"""

import argparse
import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent

RUN = ("containerd", "runc", "docker-registry", "busybox-static")
# Wine finds its libraries beside itself only, so they come along even where the system has them.
WINE = ("wine64", "libwine", "libz-mingw-w64")
TEST = (
    *RUN,
    "skopeo",
    "umoci",
    "podman",
    "conmon",
    "libfaketime",
    "debootstrap",
    "qemu-user-static",
    "zstd",
    *WINE,
)
BENCH = (*TEST, "buildah", "docker.io")
PURPOSES = {"run": RUN, "test": TEST, "matrix": TEST, "bench": BENCH}

# What has containerd 1.7 and 2.1. Their programs are content with Debian 12's libc.
NEWER_SUITES = ("trixie", "forky")
# Their Pythons are not: they come with a libc of their own.
NEWER_PYTHONS = {"trixie": "3.13", "forky": "3.14"}
# Debian 12 has no crane.
PEERS = ("forky", ["crane"])
# With these in its PATH, containerd decompresses by them: so they are kept apart.
GUNZIPS = ("pigz", "isal")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Of what those depend on, only this is needed when the programs are started by hand: libraries,
# and the program that debootstrap downloads with.
DEPENDENCIES = re.compile(r"lib|wget$")

# Most of what is unpacked is never looked at: 0.9 of 1.3 GB.
UNWANTED = re.compile(
    r"usr/share/(doc|man|locale|bug|lintian|info)/|i386-windows/|i686-w64-mingw32/"
    r"|usr/bin/qemu-(?!aarch64-static)|usr/lib/cni/"
)
PROGRAMS = re.compile(r"(usr/)?s?bin/[^/]+$|usr/lib/wine/[^/]+$")


class FetchError(Exception):
    """The programs cannot be had; the message is one sentence for a person."""


class AptError(Exception):
    """Apt refused; the message is its last words."""


@dataclass(frozen=True)
class Suite:
    """A Debian release: its code name, what makes apt answer for it, and what of it is kept apart.

    The system's own suite needs no mirror. Another one has lists, cache and sources of its own, so
    that the system's apt never hears of it; signatures are checked with Debian's own keys.
    """

    codename: str
    mirror: str = ""
    kind: str = ""

    @property
    def folder(self) -> Path:
        """Where the programs of this suite, or those of a kind, are unpacked."""
        return ROOT / ".tools" / f"{self.codename}{self.kind}"

    @property
    def stamp(self) -> Path:
        """The versions that are unpacked, package by package; written last."""
        return self.folder / "packages.json"

    @property
    def apt_options(self) -> list[str]:
        """What makes apt answer for this suite."""
        options = ["APT::Sandbox::User=root"]
        if self.mirror:
            state = self.folder.with_suffix(".apt")
            for name in ("lists/partial", "cache/archives/partial"):
                (state / name).mkdir(parents=True, exist_ok=True)
            sources = state / "sources.list"
            sources.write_text(f"deb [signed-by={KEYRING}] {self.mirror} {self.codename} main\n")
            options += [
                f"Dir::Etc::SourceList={sources}", "Dir::Etc::SourceParts=-",
                f"Dir::State::Lists={state / 'lists'}", f"Dir::Cache={state / 'cache'}",
            ]  # fmt: skip
        return [word for option in options for word in ("-o", option)]

    def apt_get(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run apt-get and return what it printed."""
        command = ["apt-get", *self.apt_options, *arguments]
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, env=_plain_environment()
        )
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise AptError(errors[0] if errors else f"apt-get {arguments[0]} failed")
        return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch what is missing; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--for", dest="purpose", choices=PURPOSES, default="test")
    arguments = parser.parse_args(argv)
    try:
        suite = _suite_of_this_system()
        fetch(suite, PURPOSES[arguments.purpose])
        ready = [suite]
        if arguments.purpose in {"matrix", "bench"}:
            ready += [Suite(codename, _mirror(suite)) for codename in NEWER_SUITES]
            for newer in ready[1:]:
                fetch(newer, ["containerd"])
        if arguments.purpose == "bench":
            codename, packages = PEERS
            ready.append(Suite(codename, _mirror(suite), "-peers"))
            fetch(ready[-1], packages)
            ready.append(Suite(suite.codename, kind="-gunzips"))
            fetch(ready[-1], GUNZIPS)
        if arguments.purpose == "matrix":
            for codename, version in NEWER_PYTHONS.items():
                python = Suite(codename, _mirror(suite), "-python")
                parts = ("python{}-minimal", "libpython{}-minimal", "libpython{}-stdlib")
                fetch(python, [*(part.format(version) for part in parts), "libc6"])
                ready.append(python)
    except FetchError as error:
        print(f"fetch_tools: {error}", file=sys.stderr)
        return 1
    print(f"ready: {', '.join(str(suite.folder.relative_to(ROOT)) for suite in ready)}")
    return 0


def fetch(suite: Suite, packages: Sequence[str]) -> None:
    """Unpack those packages, and the libraries they miss here, into the suite's folder.

    Idempotent. Interrupted at any point it leaves files, each of them whole, and a stamp that does
    not name them: the next call fetches them again.

    Raises:
        FetchError: Apt does not have them or cannot download them, or a library is missing still.
    """
    with _locked(suite.folder.with_suffix(".lock")):
        unpacked = _read_stamp(suite)
        missing = [name for name in packages if name not in unpacked]
        if not missing:
            return
        print(f"fetching {', '.join(missing)}", flush=True)
        partial = suite.folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        versions = _download(suite, missing, partial / "packages")
        _unpack(partial / "packages", partial / "root")
        _finish_wine(partial / "root")
        _merge(partial / "root", suite.folder)
        _check_libraries(suite.folder)
        _write_stamp(suite, unpacked | versions)
        shutil.rmtree(partial)


def _suite_of_this_system() -> Suite:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise FetchError(f"{program} is not on this machine: the programs come from Debian 12.")
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")
    if codename != "bookworm":
        raise FetchError(f"the programs come from Debian 12 (bookworm), and this is {codename}.")
    return Suite(codename)


def _mirror(suite: Suite) -> str:
    """Where this system's own packages come from, which has the other suites as well."""
    if not KEYRING.is_file():
        raise FetchError(f"{KEYRING} is missing: install Debian's debian-archive-keyring.")
    form = "$(REPO_URI) $(CODENAME) $(COMPONENT)"
    for line in suite.apt_get("indextargets", "--format", form).splitlines():
        uri, codename, component = line.split()
        if (codename, component) == (suite.codename, "main"):
            return uri
    raise FetchError(f"apt has no source for the main packages of {suite.codename}.")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep two calls out of each other's way; the kernel lets go when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(suite: Suite, packages: Sequence[str], into: Path) -> dict[str, str]:
    """Download the packages with what they miss; return each one's version.

    Apt's lists may be absent, or older than the archive: then they are renewed, once.
    """
    into.mkdir(parents=True)
    try:
        _download_once(suite, packages, into)
    except AptError as first:
        if os.geteuid() != 0:
            raise FetchError(f"{first} (as root, run `apt-get update` once.)") from first
        # A source of somebody else's may fail; whether Debian's did is seen at the second try.
        with contextlib.suppress(AptError):
            suite.apt_get("update", "-q", "-o", "Acquire::http::Timeout=20")
        try:
            _download_once(suite, packages, into)
        except AptError as error:
            raise FetchError(f"apt cannot download {', '.join(packages)}: {error}") from error
    return dict(_name_and_version(path) for path in sorted(into.glob("*.deb")))


def _download_once(suite: Suite, packages: Sequence[str], into: Path) -> None:
    if suite.mirror:  # its libraries would be those of another system
        suite.apt_get("download", "-q", *packages, cwd=into)
        return
    plan = suite.apt_get("install", "--simulate", "--yes", "--no-install-recommends", *packages)
    # `Inst name (version …)` is new here; `Inst name [old] (new …)` is on the system and stays.
    new = re.findall(r"^Inst (\S+) \(", plan, re.MULTILINE)
    dependencies = [name for name in new if DEPENDENCIES.match(name)]
    suite.apt_get("download", "-q", *sorted({*packages, *dependencies}), cwd=into)


def _name_and_version(path: Path) -> tuple[str, str]:
    name, version, _ = path.stem.split("_")
    return name, unquote(version)


def _unpack(packages: Path, root: Path) -> None:
    root.mkdir()
    for package in sorted(packages.glob("*.deb")):
        command = ["dpkg-deb", "--extract", str(package), str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FetchError(f"{package.name} cannot be unpacked: {done.stderr.strip()}")


def _finish_wine(root: Path) -> None:
    """Do what the package's own script does: Wine loads only libraries that bear its mark.

    Start the server itself, not the wrapper that looks for it below `/usr`; and put both where
    programs are looked for.
    """
    library = root / "usr/x86_64-w64-mingw32/lib/zlib1.dll"
    if not library.is_file():
        return
    data = library.read_bytes()
    marked = data[:64] + b"Wine builtin DLL".ljust(32, b"\0") + data[96:]
    (folder,) = root.glob("usr/lib/*/wine/x86_64-windows")
    (folder / library.name).write_bytes(marked)
    wrapper = root / "usr/lib/wine/wineserver"
    wrapper.unlink()
    wrapper.symlink_to("wineserver64")
    programs = root / "usr/bin"
    programs.mkdir(exist_ok=True)
    for name in ("wine64", "wineserver"):
        (programs / name).symlink_to(f"../lib/wine/{name}")


def _merge(root: Path, folder: Path) -> None:
    """Move every file to its place, each in one step, so that programs in use stay whole."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if UNWANTED.search(f"{name}{'/' if path.is_dir() else ''}"):
            continue
        target = folder / name
        if path.is_dir() and not path.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
        else:
            path.replace(target)


def _check_libraries(folder: Path) -> None:
    """Fail when a program would not start for want of a library."""
    libraries = os.pathsep.join(str(path.parent) for path in folder.rglob("*.so.*"))
    env = _plain_environment() | {"LD_LIBRARY_PATH": libraries}
    for path in folder.rglob("*"):
        if not (PROGRAMS.search(str(path)) and path.is_file()):
            continue
        done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False, env=env)
        if absent := re.findall(r"(\S+) => not found", done.stdout):
            raise FetchError(f"{path.name} misses {', '.join(absent)} on this machine.")


def _read_stamp(suite: Suite) -> dict[str, str]:
    try:
        stamp: dict[str, str] = json.loads(suite.stamp.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return stamp


def _write_stamp(suite: Suite, versions: dict[str, str]) -> None:
    new = suite.stamp.with_suffix(".new")
    new.write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")
    new.replace(suite.stamp)


def _plain_environment() -> dict[str, str]:
    """The environment with messages in English, for they are read, and no question asked."""
    return dict(os.environ) | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


if __name__ == "__main__":
    sys.exit(main())
