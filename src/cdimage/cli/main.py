"""The entry point and the commands' options; what a command does is loaded when it runs."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

import cdimage
from cdimage.errors import CdimageError

if TYPE_CHECKING:
    from cdimage.cli.settings import Settings

INTERRUPTED = 130
FAILED = 1
_SHOW_CURSOR = "\x1b[?25h"
_INTERRUPTED = "interrupted; the next pull goes on from what arrived"

_EPILOG = """\
Exit codes: 0 done; 1 failed on this machine; 2 wrong usage, reference, settings or pause program;
3 digest mismatch; 4 invalid image; 5 unsupported platform; 6 not found; 7 permission denied;
8 unavailable, try again; 9 the daemon or the registry failed; 130 interrupted.
"""

_CONNECTION = (
    click.option(
        "--store",
        envvar="CDIMAGE_STORE",
        metavar="STORE",
        help="containerd, oci:DIR or registry:HOST/PREFIX. [env: CDIMAGE_STORE; default: "
        "containerd, or an image layout in your data directory where none answers]",
    ),
    click.option(
        "--address",
        envvar="CONTAINERD_ADDRESS",
        metavar="ADDRESS",
        help="containerd's socket, or tcp://HOST:PORT. [env: CONTAINERD_ADDRESS; "
        "default: /run/containerd/containerd.sock]",
    ),
    click.option(
        "--namespace",
        envvar="CONTAINERD_NAMESPACE",
        metavar="NAME",
        help="containerd's namespace. [env: CONTAINERD_NAMESPACE; default: default]",
    ),
    click.option(
        "--snapshotter",
        envvar="CONTAINERD_SNAPSHOTTER",
        metavar="NAME",
        help="What images are unpacked into. [env: CONTAINERD_SNAPSHOTTER; "
        "default: the daemon's own]",
    ),
    click.option(
        "--tls",
        nargs=3,
        type=click.Path(exists=True, dir_okay=False),
        metavar="CA CERT KEY",
        help="PEM files for a containerd behind tcp://.",
    ),
)
_PLAIN_HTTP = click.option(
    "--plain-http", is_flag=True, help="Speak HTTP, without TLS, to registries."
)
_FORMAT = click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people, or for programs.",
)


def _connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which store, and how results are printed."""

    @functools.wraps(command)
    def run(
        store: str | None,
        address: str | None,
        namespace: str | None,
        snapshotter: str | None,
        tls: tuple[str, str, str] | None,
        plain_http: bool,
        output: str,
        **arguments: Any,
    ) -> Any:
        from cdimage.cli.settings import OutputFormat, Settings  # noqa: PLC0415 - needed here only

        form = OutputFormat(output)
        settings = Settings(store, address, namespace, snapshotter, tls, plain_http, form)
        return command(settings, **arguments)

    for option in (*reversed(_CONNECTION), _PLAIN_HTTP, _FORMAT):
        run = option(run)
    return run


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(cdimage.__version__, prog_name="cdimage")
def cli() -> None:
    """Prepare container images: any image, ready to be started once and exec'd into.

    An image is pulled, its digest verified, a tiny static pause program put on top of it as the
    entrypoint, and the result registered as prepared.hpcc.local/img:<digest>: on containerd, in a
    directory, or in a registry.
    """


@cli.command(short_help="Pull and prepare images.")
@click.argument("references", metavar="REF...", nargs=-1)
@click.option(
    "--file",
    "files",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    multiple=True,
    metavar="FILE",
    help="More references, one a line; # begins a comment, - is standard input.",
)
@click.option("--digest", metavar="DIGEST", help="The digest that REF must have.")
@click.option(
    "--platform",
    "platforms",
    metavar="OS/ARCH",
    multiple=True,
    help="As linux/arm64; several, or all, become one index. [default: the store's own]",
)
@click.option(
    "--inject",
    type=click.Choice(["layer", "alias"]),
    default="layer",
    show_default=True,
    help="How the pause program comes to the image; with alias, the runtime mounts it.",
)
@click.option(
    "--prepared-registry",
    envvar="CDIMAGE_PREPARED_REGISTRY",
    metavar="HOST/PREFIX",
    help="Look there for the prepared image first. [env: CDIMAGE_PREPARED_REGISTRY]",
)
@click.option(
    "--hosts-dir",
    "hosts_dirs",
    type=click.Path(exists=True, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="Where the hosts.toml of mirrors are. "
    "[default: /etc/containerd/certs.d, /etc/docker/certs.d]",
)
@click.option("--pause", metavar="FILE", help="A pause program for the platform, not the bundled.")
@click.option(
    "--check-access",
    is_flag=True,
    help="Ask the registry whether you may have an image that is here already.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--debug", is_flag=True, help="Show every request to a registry.")
@_connected
def pull(settings: Settings, *, debug: bool, **arguments: Any) -> Coroutine[Any, Any, int]:
    """Pull and prepare images.

    REF is an image reference, as debian:12 or ghcr.io/org/app@sha256:… Without a digest, the
    tag is resolved first, and the digest printed: it is the key of everything else. With several,
    one that fails does not stop the others; - reads more from standard input.

    Images that are in no registry: docker-archive:FILE[:NAME], oci-archive:FILE[:TAG],
    oci:DIR[:TAG], containerd:NAME.
    """
    from cdimage.cli import pull as pulling  # noqa: PLC0415 - loads gRPC
    from cdimage.cli.log import log_to_standard_error  # noqa: PLC0415

    log_to_standard_error(debug=debug, quiet=arguments["quiet"])
    return pulling.pull(settings, pulling.PullOptions(**arguments))


@cli.command(short_help="List the prepared images.")
@_connected
def ls(settings: Settings) -> Coroutine[Any, Any, None]:
    """List the prepared images, the newest first."""
    from cdimage.cli import listing  # noqa: PLC0415 - loads asyncio

    return listing.ls(settings)


@cli.command(short_help="Show a prepared image.")
@click.argument("digest")
@_connected
def inspect(settings: Settings, digest: str) -> Coroutine[Any, Any, None]:
    """Show a prepared image, and what its base would have run.

    DIGEST is the user's digest, as `cdimage ls` shows it; sha256: may be left out.
    """
    from cdimage.cli import commands  # noqa: PLC0415 - loads asyncio

    return commands.inspect(settings, digest)


@cli.command(short_help="Drop prepared images.")
@click.argument("digests", metavar="DIGEST...", nargs=-1, required=True)
@_connected
def untag(settings: Settings, digests: tuple[str, ...]) -> Coroutine[Any, Any, None]:
    """Drop prepared images, and wait until what only they held is gone from disk.

    One that is not there is success.
    """
    from cdimage.cli import commands  # noqa: PLC0415 - loads asyncio

    return commands.untag(settings, digests)


@cli.command(short_help="Check prepared images from their bytes.")
@click.argument("digests", metavar="DIGEST...", nargs=-1)
@_connected
def verify(settings: Settings, digests: tuple[str, ...]) -> Coroutine[Any, Any, int]:
    """Compute everything about prepared images anew, from their bytes, and say what is wrong.

    Without a DIGEST, all that are in the store are verified.
    """
    from cdimage.cli import moving  # noqa: PLC0415 - loads what it needs

    return moving.verify(settings, digests)


@cli.command(short_help="Write a prepared image as an OCI archive.")
@click.argument("digest")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@_connected
def export(settings: Settings, digest: str, file: str) -> Coroutine[Any, Any, None]:
    """Write a prepared image as an OCI archive, that other tools can read.

    FILE appears when it is complete; - is standard output.
    """
    from cdimage.cli import moving  # noqa: PLC0415 - loads what it needs

    return moving.export(settings, digest, file)


@cli.command(short_help="Copy prepared images to another store.")
@click.argument("digests", metavar="DIGEST...", nargs=-1, required=True)
@click.option("--to", "target", metavar="STORE", required=True, help="The other store.")
@_connected
def copy(settings: Settings, digests: tuple[str, ...], target: str) -> Coroutine[Any, Any, None]:
    """Copy prepared images, to the byte, from the store that --store names to another."""
    from cdimage.cli import moving  # noqa: PLC0415 - loads what it needs

    return moving.copy(settings, digests, target)


_CONTAINER = (
    click.option("--memory", metavar="SIZE", help="What it may use, as 512m. [default: all]"),
    click.option("--cpus", type=float, metavar="NUMBER", help="Processors, as 1.5. [default: all]"),
    click.option("--pids", type=int, metavar="NUMBER", help="Processes. [default: 2048]"),
    click.option("--read-only", is_flag=True, help="Its root file system may only be read."),
    click.option(
        "--network",
        metavar="NETWORK",
        help="host, or the path of a network namespace. [default: one of its own, without any]",
    ),
    click.option(
        "--mount",
        "mounts",
        multiple=True,
        metavar="MOUNT",
        help="/source:/target, /source:/target:ro or tmpfs:/target.",
    ),
)
_JOB = (
    click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="A variable."),
    click.option("-w", "--workdir", "cwd", metavar="DIR", help="Where. [default: the image's]"),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="Who. [default: the image's]"),
    click.option(
        "-t/-T",
        "--tty/--no-tty",
        "terminal",
        default=None,
        help="With a terminal. [default: when there is one at both ends]",
    ),
    click.option("-n", "--no-stdin", is_flag=True, help="Give it nothing to read."),
    click.option("--timeout", type=float, metavar="SECONDS", help="Kill it then."),
)
_COMMAND = click.argument("command", metavar="CMD...", nargs=-1, type=click.UNPROCESSED)
_LIFETIME = click.option(
    "--lifetime", type=float, metavar="SECONDS", help="End by itself then. [default: never]"
)
_REST_IS_THE_JOBS = {"allow_interspersed_args": False}


def _with(options: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _job(
    command: Sequence[str], *, no_stdin: bool, **options: Any
) -> tuple[Sequence[str], dict[str, Any]]:
    """What is left after --, and the options of the job."""
    rest = command[1:] if command[:1] == ("--",) else command
    if not rest:
        raise click.UsageError("say which command shall run: … -- CMD")
    return rest, {"stdin": not no_stdin, **options}


@cli.command(short_help="Run a command in an image.", context_settings=_REST_IS_THE_JOBS)
@click.argument("image")
@_COMMAND
@_with((*_CONTAINER, *_JOB))
@_connected
def run(settings: Settings, *, image: str, **arguments: Any) -> Coroutine[Any, Any, int]:
    """Run CMD in a new container of IMAGE, and remove it: prepared first, if need be.

    IMAGE is the digest of a prepared image, or a reference. CMD runs as the image's user, with the
    image's variables, in a container without a network that may not gain privileges. Standard
    streams, the terminal, signals and the exit code are passed through; 125 is a failure of
    cdimage, 126 a CMD that cannot be executed, 127 one that is not there.
    """
    from cdimage.cli import warm  # noqa: PLC0415 - loads gRPC

    names = ("memory", "cpus", "pids", "read_only", "network", "mounts")
    box = warm.BoxOptions(**{name: arguments.pop(name) for name in names})
    command, options = _job(**arguments)
    return warm.run(settings, image, box, warm.JobOptions(command=command, **options))


@cli.command(short_help="Start a container of an image.")
@click.argument("image")
@_with((*_CONTAINER, _LIFETIME))
@_connected
def start(settings: Settings, *, image: str, **arguments: Any) -> Coroutine[Any, Any, None]:
    """Start a container of IMAGE, for commands to be run in with exec; prints its id."""
    from cdimage.cli import warm  # noqa: PLC0415 - loads gRPC

    return warm.start(settings, image, warm.BoxOptions(**arguments))


@cli.command("exec", short_help="Run a command in a container.", context_settings=_REST_IS_THE_JOBS)
@click.argument("container")
@_COMMAND
@_with(_JOB)
@_connected
def execute(settings: Settings, *, container: str, **arguments: Any) -> Coroutine[Any, Any, int]:
    """Run CMD in a container that was started: its id, or the beginning of it.

    What CMD leaves behind ends with it. Exit codes are those of run.
    """
    from cdimage.cli import warm  # noqa: PLC0415 - loads gRPC

    command, options = _job(**arguments)
    return warm.execute(settings, container, warm.JobOptions(command=command, **options))


@cli.command(short_help="List the containers.")
@_connected
def ps(settings: Settings) -> Coroutine[Any, Any, None]:
    """List the containers that were started here, the oldest first."""
    from cdimage.cli import listing  # noqa: PLC0415 - loads asyncio

    return listing.ps(settings)


@cli.command(short_help="Stop containers.")
@click.argument("containers", metavar="CONTAINER...", nargs=-1, required=True)
@_connected
def stop(settings: Settings, containers: tuple[str, ...]) -> Coroutine[Any, Any, None]:
    """Stop containers with all that runs in them, and remove all that they had.

    One that is not there is success.
    """
    from cdimage.cli import warm  # noqa: PLC0415 - loads gRPC

    return warm.stop(settings, containers)


@cli.command(short_help="Print the image name of a digest.")
@click.argument("digest")
def name(digest: str) -> None:
    """Print the image name under which DIGEST is prepared. Asks nobody."""
    click.echo(cdimage.prepared_image_name(digest))


@cli.command(short_help="Say what is wrong here.")
@_connected
def doctor(settings: Settings) -> Coroutine[Any, Any, None]:
    """Check containerd and this machine: what is wrong, and what to do about it."""
    from cdimage.cli import doctor as examination  # noqa: PLC0415 - loads gRPC

    return examination.doctor(settings)


@cli.command(short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(cdimage completion bash)"."""
    from click.shell_completion import ShellComplete, get_completion_class  # noqa: PLC0415

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"there is no completion for {shell}")
    # bash's own source() starts a bash to ask for its version; who reads the script is one.
    click.echo(ShellComplete.source(found(cli, {}, "cdimage", "_CDIMAGE_COMPLETE")))


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one an error
    """Run the command line; returns the exit code, and never raises for a user's mistake."""
    try:
        work = cli.main(arguments, prog_name="cdimage", standalone_mode=False)
        if isinstance(work, Coroutine):
            with closing(work):  # interrupted, it may not have begun
                from cdimage.cli import interrupt  # noqa: PLC0415 - loads asyncio

                return interrupt.run(work, _end_now) or 0
        if isinstance(work, int):
            return work  # click's own: --help and --version
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _say(_INTERRUPTED, INTERRUPTED)
    except CdimageError as error:
        return _say(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader went away, as with `| head`; nothing is to be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (OSError, UnicodeError) as error:
        return _say(_words(error), FAILED)
    return 0


def _end_now() -> None:
    """End without having cleaned up, as a kill would."""
    _say(f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}{_INTERRUPTED}", INTERRUPTED)
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _words(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or ''} {error.strerror or error}".strip()
    return f"what was to be read is not text in UTF-8: {error}"


def _say(sentence: str, code: int) -> int:
    click.echo(f"cdimage: {sentence}", err=True)
    return code
