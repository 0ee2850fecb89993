"""The program: what it needs is loaded where Ctrl-C is answered already."""

import gc
import os
import signal
import sys

_INTERRUPTED = 130


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        from cdimage.cli.main import main as run  # noqa: PLC0415

        code = run()
    except KeyboardInterrupt:
        return _interrupted()
    except RuntimeError as error:
        # While a class is made, Python wraps it (3.11, type_new_set_names).
        if isinstance(error.__cause__, KeyboardInterrupt):
            return _interrupted()
        raise
    _end()
    return code


def _interrupted() -> int:
    os.write(2, b"cdimage: interrupted\n")
    _end()
    return _INTERRUPTED


def _end() -> None:
    """What is done is done: how it ended is not changed by Ctrl-C, now or before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Ctrl-C inside an exec() marks Python to die of the signal at its end, whoever answered it
    # (3.11, pythonrun.c, run_eval_code_obj). The next exec() takes the mark away.
    exec("")  # noqa: S102
    # Python would look for cycles in all that was loaded: a tenth of what `ls` takes.
    gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
