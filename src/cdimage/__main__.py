"""The program: what it needs is loaded where Ctrl-C is answered already."""

import os
import signal
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        from cdimage.cli.main import main as run  # noqa: PLC0415
    except KeyboardInterrupt:
        os.write(2, b"cdimage: interrupted\n")
        return 130
    code = run()
    # What is done is done: how it ended is not changed by Ctrl-C while Python cleans up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
