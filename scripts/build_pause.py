"""Build the pause programs, or check that the committed ones are what the sources give.

The compiler is a pinned zig, a wheel of 100 MB that is fetched into ``.tools`` on demand: nobody
needs it to install or to use cdimage. Its output does not depend on the folder or the host.
"""

from __future__ import annotations

import argparse
import hashlib
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
LINUX = ["pause_linux.c", "-Wl,-z,norelro", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096"]
WINDOWS = ["pause_windows.c", "-lkernel32", "-Wl,--subsystem,console", "-Wl,-e,mainCRTStartup"]
PROGRAMS = {
    "linux_amd64": ["x86_64-linux-musl", *LINUX],
    "linux_arm64": ["aarch64-linux-musl", *LINUX],
    "windows_amd64.exe": ["x86_64-windows-gnu", *WINDOWS],
}


def compiler() -> Path:
    """The Python of an environment with the pinned zig, made on demand."""
    home = ROOT / ".tools" / "zig"
    python = home / "bin" / "python"
    stamp = home / REQUIREMENTS.name
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
        venv.create(home, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "-q", "--require-hashes", "-r", REQUIREMENTS]
        subprocess.run(install, check=True)
        stamp.write_text(REQUIREMENTS.read_text())
    return python


def build(output: Path) -> None:
    """Compile every program into ``output``, and write their digests beside them."""
    python = compiler()
    sums = []
    for name, (triple, source, *flags) in PROGRAMS.items():
        command = [python, "-m", "ziglang", "cc", "-target", triple, *COMMON]
        subprocess.run([*command, source, *flags, "-o", output / name], check=True, cwd=SOURCES)
        digest = hashlib.sha256((output / name).read_bytes()).hexdigest()
        sums.append(f"{digest}  {name}\n")
    (output / SUMS).write_text("".join(sums))


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the committed programs")
    write: bool = parser.parse_args().write
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch)
        build(built)
        names = [*PROGRAMS, SUMS]
        if write:
            TARGET.mkdir(exist_ok=True)
            for name in names:
                (TARGET / name).write_bytes((built / name).read_bytes())
            return 0
        differ = [
            name
            for name in names
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
