"""The whole job, shown: an image pulled, prepared, started, exec'd into, stopped and untagged.

Everything runs on a containerd and a registry of the demonstration's own, which are gone when it
ends. Where no containerd can be had or started (no root, another system than Debian 12), a
directory takes its place. Run it with ``make run``, or ``make run IMAGE=name@digest`` for an image
of yours.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import textwrap
from contextlib import ExitStack
from pathlib import Path

from tests.daemons import Containerd, DaemonError, Registry, remove_cgroups
from tests.images import Pusher, busybox_tar, image_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_layout
from tests.node import Node
from tests.tools import ToolMissingError

from scripts import fetch_tools

GREETING = "echo I am the entrypoint of a user, and I am done"
JOB = ("/bin/sh", "-c", "echo 6 times 7 is $((6 * 7)), says process $$ of this container")
SMALL_JOB = ("/.hpcc/pause", "-v")


def say(text: str) -> None:
    """A paragraph."""
    print(f"\n{textwrap.fill(' '.join(text.split()), 96)}", flush=True)


def show(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a command as a person would type it, and show what it says."""
    print(f"  $ {' '.join(command)}", flush=True)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    print(textwrap.indent(done.stdout, "    "), end="", flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def demonstrate(node: Node, image: str, job: tuple[str, ...]) -> None:
    """One paragraph and one command a step."""
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CONTAINERD_ADDRESS": node.address,
        "CONTAINERD_NAMESPACE": node.namespace,
    }
    before = sum(node.files().values())
    say("""1. Pull and prepare. cdimage compares the digest before a layer moves, puts a pause
        program of 1 kB on top as the entrypoint, unpacks all of it, and registers it last.""")
    show("cdimage", "pull", image, env=env)
    say("2. It is listed by the digest that the user asked for: the key of everything.")
    digest = show("cdimage", "ls", env=env).splitlines()[1].split()[0]
    say("What the image would have run by itself is not lost:")
    show("cdimage", "inspect", digest, env=env)
    kept = sum(node.files().values()) - before
    say("""3. A worker starts it once. Whatever the image's entrypoint was, PID 1 is the pause
        program now. It has no network, and no way to privileges.""")
    box = show("cdimage", "start", digest, env=env).strip()
    say("4. Jobs are exec'd into it, as many as there are, in milliseconds each.")
    show("cdimage", "exec", "-n", box, "--", *job, env=env)
    show("cdimage", "ps", env=env)
    say("5. It ends at once, because the pause program listens; most images' would not.")
    show("cdimage", "stop", box, env=env)
    say("Or all of that in one command, from the image to the job's exit code:")
    show("cdimage", "run", "-n", image, "--", *job, env=env)
    say("6. Untag. cdimage waits for containerd's garbage collector, so the disk is free again.")
    show("cdimage", "untag", digest, env=env)
    left = sum(node.files().values()) - before
    print(f"    {kept:,} bytes were on disk for it; {left:,} are left")


def demonstrate_in_a_directory(image: str) -> None:
    """The same without a daemon: the prepared image is an OCI image layout."""
    with tempfile.TemporaryDirectory(prefix="cdimage-demo-") as folder:
        if not image:
            say("""An image is made, and put into an image layout: a user's program, and an
                entrypoint that exits at once.""")
            base = image_of([layer_of(tar_of({"app": b"a program"}))], {"Entrypoint": ["/app"]})
            files = layout_files([("demo", base.manifest)], blobs_of(base)[1:])
            image = f"oci:{write_layout(Path(folder) / 'users', files)}:demo"
        env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CDIMAGE_STORE": f"oci:{folder}/prepared",
        }
        say("""1. Pull and prepare. cdimage compares the digest before a layer moves, puts a pause
            program of 1 kB on top as the entrypoint, and registers the result last.""")
        print(f"  $ export CDIMAGE_STORE={env['CDIMAGE_STORE']}", flush=True)
        show("cdimage", "pull", "--platform", "linux/amd64", image, env=env)
        say("2. It is listed by the digest that the user asked for: the key of everything.")
        digest = show("cdimage", "ls", env=env).splitlines()[1].split()[0]
        say("What the image would have run by itself is not lost:")
        show("cdimage", "inspect", digest, env=env)
        say("3. Everything about it is computed anew, from its bytes.")
        show("cdimage", "verify", digest, env=env)
        say("""4. It leaves as an archive, for containerd (ctr image import), podman and skopeo;
            there a worker starts it once, and execs jobs into it.""")
        show("cdimage", "export", digest, f"{folder}/image.tar", env=env)
        say("5. Untag. What only this image held is gone from disk.")
        show("cdimage", "untag", digest, env=env)
        left = list((Path(folder) / "prepared" / "blobs").glob("*/*"))
        print(f"    {len(left)} blobs are left")


def why_no_containerd() -> str | None:
    """What stands in the way of a containerd of our own; None for nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "containerd and runc need root on Linux"
    if fetch_tools.main(["--for", "run"]) != 0:
        return "containerd cannot be fetched"
    return None


def main() -> int:
    """Start the daemons, demonstrate, and leave nothing."""
    image = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        if why := why_no_containerd():
            say(f"No containerd here ({why}): a directory takes its place.")
            demonstrate_in_a_directory(image)
            say("Nothing of it is left.")
            return 0
        with ExitStack() as stack:
            say("A containerd of our own is started; one that runs here already is not touched.")
            try:
                containerd = stack.enter_context(Containerd())
            except DaemonError as error:
                say(f"It does not start here ({error}): a directory takes its place.")
                demonstrate_in_a_directory(image)
                return 0
            node = Node(containerd, f"demo-{secrets.token_hex(4)}")
            stack.callback(remove_cgroups, node.namespace)
            stack.callback(node.clear)
            print(f"    containerd {_version(node)} listens at {node.address}")
            job: tuple[str, ...] = SMALL_JOB
            if not image:
                say("""So is a registry, with an image made of Debian's busybox. Its entrypoint
                    exits at once: started as it is, there would be nothing to exec into.""")
                registry = stack.enter_context(Registry())
                base = image_of([layer_of(busybox_tar())], {"Entrypoint": GREETING.split()})
                image, job = Pusher(registry.host).push(base, "demo/busybox").reference, JOB
                print(f"    {image} has the entrypoint: {GREETING}")
            demonstrate(node, image, job)
    except KeyboardInterrupt:
        return 130
    except (DaemonError, ToolMissingError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    say("Nothing of it is left: the daemons are stopped, and their folders removed.")
    return 0


def _version(node: Node) -> str:
    lines = node.ctr("version").partition("Server:")[2].splitlines()
    return lines[1].split()[1]


if __name__ == "__main__":
    sys.exit(main())
