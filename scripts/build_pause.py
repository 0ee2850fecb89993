"""Build the pause programs, or check that the committed ones are what the sources give.

The compiler is a pinned zig, a wheel of 100 MB that is fetched into ``.tools`` on demand: nobody
needs it to install or to use cdimage. Its output does not depend on the folder it runs in.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "native"
TARGET = ROOT / "src" / "cdimage" / "pause" / "bin"
REQUIREMENTS = ROOT / "scripts" / "ziglang.txt"
SUMS = "SHA256SUMS"

COMMON = [
    "-Os", "-s", "-nostdlib", "-static", "-ffreestanding", "-Wall", "-Wextra", "-Werror",
    "-fno-stack-protector", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables",
    "-fno-ident", "-fno-sanitize=all", "-fno-builtin", "-Wl,--build-id=none",
]  # fmt: skip
# Kernels of arm64 have pages of up to 64 KiB, and map only segments that are aligned for them.
LINUX = ["pause_linux.c", "-Wl,-z,norelro", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=65536"]
WINDOWS = ["pause_windows.c", "-lkernel32", "-Wl,--subsystem,console", "-Wl,-e,mainCRTStartup"]
PROGRAMS = {
    "linux_amd64": ["x86_64-linux-musl", *LINUX],
    "linux_arm64": ["aarch64-linux-musl", *LINUX],
    "windows_amd64.exe": ["x86_64-windows-gnu", *WINDOWS],
}


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="compare, write nothing (the default)")
    action.add_argument("--write", action="store_true", help="replace the committed programs")
    write: bool = parser.parse_args().write
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch)
        try:
            build(built)
        except subprocess.CalledProcessError as error:
            print(f"build_pause: this failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
            return 1
        return _write(built) if write else _compare(built)


def build(output: Path) -> None:
    """Compile every program into ``output``, and write their digests beside them."""
    sums = []
    for name, (triple, source, *flags) in PROGRAMS.items():
        compile_program(triple, SOURCES / source, flags, output / name)
        digest = hashlib.sha256((output / name).read_bytes()).hexdigest()
        sums.append(f"{digest}  {name}\n")
    (output / SUMS).write_text("".join(sums))


def compile_program(triple: str, source: Path, flags: list[str], output: Path) -> None:
    """Compile one freestanding program; the compiler sees the source's name and not its folder."""
    command = [str(compiler()), "-m", "ziglang", "cc", "-target", triple, *COMMON]
    cache = str(ROOT / ".tools" / "zig" / "cache")
    # What a user's environment adds to a compiler's search paths would be seen in the output.
    env = {name: value for name, value in os.environ.items() if not name.endswith("_PATH")}
    env |= {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    command += [source.name, *flags, "-o", str(output)]
    subprocess.run(command, check=True, cwd=source.parent, env=env)


def compiler() -> Path:
    """The Python of an environment with the pinned zig, made on demand."""
    home = ROOT / ".tools" / "zig"
    python = home / "bin" / "python"
    # Written last: an installation that was interrupted is made again.
    stamp = home / REQUIREMENTS.name
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, "--require-hashes", "-r", str(REQUIREMENTS)], check=True)
        stamp.write_text(REQUIREMENTS.read_text())
    return python


def _write(built: Path) -> int:
    TARGET.mkdir(exist_ok=True)
    for name in [*PROGRAMS, SUMS]:
        (TARGET / name).write_bytes((built / name).read_bytes())
        # They are data here; the layer that they go into says that they are executable.
        (TARGET / name).chmod(0o644)
    return 0


def _compare(built: Path) -> int:
    differ = [
        name
        for name in [*PROGRAMS, SUMS]
        if not (TARGET / name).is_file()
        or (TARGET / name).read_bytes() != (built / name).read_bytes()
    ]
    if differ:
        print(
            f"the committed pause programs are not what the sources give: {', '.join(differ)}; "
            "run scripts/build_pause.py --write",
            file=sys.stderr,
        )
        return 1
    print("the committed pause programs are what the sources give, byte for byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
