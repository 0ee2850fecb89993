"""What a container may not do, each tried from inside."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.images import Pusher, busybox_tar, debian_layer, image_of, layer_of
from tests.node import Node
from tests.warm_images import prepared

import cdimage
from cdimage import warm

ROOT_MAY_NOT = {
    "mount": "busybox mount -t tmpfs tmpfs /tmp",
    "bind-mount": "busybox mount -o bind /bin /tmp",
    "load a module": "echo > /tmp/m; busybox insmod /tmp/m",
    "write to /proc/sys": "echo 1 > /proc/sys/kernel/panic",
    "write to /proc/sysrq-trigger": "echo b > /proc/sysrq-trigger",
    "read the kernel's memory": "test -s /proc/kcore || busybox dd if=/none",
    "change its control groups": "echo 1 > /sys/fs/cgroup/freezer/cgroup.procs",
    "write to /sys": "echo 1 > /sys/kernel/uevent_seqnum",
    "make a device": "busybox mknod /tmp/d b 8 0",
    "change the clock": "busybox date -s 2000-01-01 && test $(busybox date +%Y) = 2000",
    "change the host's name": "busybox hostname other",
    "make namespaces": "busybox unshare -m true",
    "leave its root": "busybox chroot /proc/1/root/../../.. ls /work && ls /root/.bashrc",
    "reboot": "busybox reboot -f",
    "read a disk": "busybox dd if=/dev/vda of=/dev/null count=1",
}


@pytest.mark.parametrize("what", ROOT_MAY_NOT)
async def test_root_in_a_container_may_not(box: warm.Box, what: str) -> None:
    result = await box.exec(["sh", "-c", ROOT_MAY_NOT[what]], user="0", timeout=20)
    assert result.exit_code != 0, result
    assert result.stderr


async def test_it_reaches_no_network_but_its_own_loopback(box: warm.Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reached = await box.exec(["busybox", "nc", "-w", "2", "127.0.0.1", str(port)], timeout=20)
    assert reached.exit_code != 0
    interfaces = await box.exec(["busybox", "ip", "-o", "link"])
    assert interfaces.stdout.count(b"\n") == 1
    assert b"lo: <LOOPBACK,UP" in interfaces.stdout
    script = (
        "busybox nc -l -p 7777 > /tmp/got & sleep 0.3; echo hi | busybox nc localhost 7777; "
        "wait; cat /tmp/got"
    )
    assert (await box.exec(["sh", "-c", script], timeout=20)).stdout == b"hi\n"


async def test_it_sees_neither_the_nodes_processes_nor_its_mounts(
    box: warm.Box, node: Node
) -> None:
    pids = await box.exec(["sh", "-c", "echo /proc/[0-9]*"])
    assert len(pids.stdout.split()) <= 3
    mounts = (await box.exec(["cat", "/proc/self/mountinfo"])).stdout.decode()
    points = {line.split()[4] for line in mounts.splitlines()}
    for point in points:
        assert point.split("/")[1] in {"", "proc", "dev", "sys", "etc"}, point
    sources = await box.exec(["ls", "/dev"])
    assert set(sources.stdout.split()) <= {
        b"console", b"core", b"fd", b"full", b"mqueue", b"null", b"ptmx", b"pts", b"random",
        b"shm", b"stderr", b"stdin", b"stdout", b"tty", b"urandom", b"zero",
    }  # fmt: skip


async def test_a_set_uid_program_gains_nothing(
    client: cdimage.Client,
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    new_repository: Callable[[], str],
    folder: Path,
) -> None:
    image = image_of([debian_layer()], {"User": "1234"})
    digest = await prepared(store, pusher, new_repository(), image)
    make = ["sh", "-c", "cp /usr/bin/id /bin/gain && chmod 4755 /bin/gain"]
    async with warm.start(client, digest, folder=folder, snapshotter=node.snapshotter) as box:
        assert (await box.exec(make, user="0")).exit_code == 0
        assert (await box.exec(["/bin/gain", "-u"])).stdout == b"1234\n"
        status = (await box.exec(["cat", "/proc/self/status"])).stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    granted = warm.Grants(new_privileges=True)
    async with warm.start(
        client, digest, folder=folder, grants=granted, snapshotter=node.snapshotter
    ) as box:
        assert (await box.exec(make, user="0")).exit_code == 0
        assert (await box.exec(["/bin/gain", "-u"])).stdout == b"0\n"


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_the_first_process_is_nobody_without_capabilities(box: warm.Box) -> None:
    fields = _status(box.pid)
    assert fields["Uid"].split() == ["65534"] * 4
    assert int(fields["CapEff"], 16) == 0


async def test_two_containers_see_nothing_of_each_other(
    client: cdimage.Client, box: warm.Box, digest: str, node: Node, folder: Path
) -> None:
    async with warm.start(client, digest, folder=folder, snapshotter=node.snapshotter) as other:
        sleeper = asyncio.create_task(other.exec(["sleep", "1000"]))
        await other.exec(["touch", "/tmp/secret", "/dev/shm/secret"])
        found = await box.exec(["sh", "-c", "ps; ls /tmp /dev/shm"])
        assert b"sleep" not in found.stdout
        assert b"secret" not in found.stdout
        sleeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sleeper


async def test_a_root_file_system_that_may_only_be_read(
    client: cdimage.Client, digest: str, node: Node, folder: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("shared\n")
    mounts = [
        warm.Mount("/scratch", size=warm.MiB),
        warm.Mount("/in", str(shared), read_only=True),
        warm.Mount("/out", str(shared)),
    ]
    async with warm.start(
        client, digest, folder=folder, read_only=True, mounts=mounts, hostname="other",
        snapshotter=node.snapshotter, env={"A": "1"}, cwd="/out", user="worker",
    ) as box:  # fmt: skip
        script = "touch /etc/x || touch /in/x || touch /x; id -u; pwd; echo $A; cat /in/file"
        result = await box.exec(["sh", "-c", script])
        assert result.stdout == b"1234\n/out\n1\nshared\n"
        assert result.stderr.count(b"Read-only file system") == 3
        assert (await box.exec(["sh", "-c", "echo 1 > /out/y"], user="0")).exit_code == 0
        assert (await box.exec(["busybox", "hostname"])).stdout == b"other\n"
        full = await box.exec(
            ["busybox", "dd", "if=/dev/zero", "of=/scratch/z", "bs=1M", "count=3"]
        )
        assert b"No space left" in full.stderr
    assert (shared / "y").read_text() == "1\n"


async def test_limits_hold_and_are_told_to_the_container(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    limits = warm.Limits(memory=64 * warm.MiB, cpus=0.5, pids=16)
    async with warm.start(
        client, digest, limits=limits, folder=folder, snapshotter=node.snapshotter
    ) as box:
        script = "for i in $(busybox seq 20); do sleep 5 & done; wait"
        assert b"can't fork" in (await box.exec(["sh", "-c", script], timeout=20)).stderr
        quota = await box.exec(["cat", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"])
        if quota.exit_code:  # the second version's
            quota = await box.exec(["cat", "/sys/fs/cgroup/cpu.max"])
        assert quota.stdout.split()[0] == b"50000"


async def test_a_container_that_is_full_says_so(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    async with warm.start(
        client, digest, limits=warm.Limits(pids=16), folder=folder, snapshotter=node.snapshotter
    ) as box:
        script = "for i in $(busybox seq 14); do sleep 1000 & done; echo; wait"
        async with box.spawn(["sh", "-c", script]) as job:
            await job.stdout.read()
            for _ in range(20):
                try:
                    assert (await box.exec(["true"])).exit_code == 0
                except cdimage.UnavailableError as error:
                    assert "used up its limit of processes" in str(error)  # noqa: PT017 - either
        assert (await box.exec(["true"])).exit_code == 0


@pytest.fixture
async def as_others(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> AsyncIterator[warm.Box]:
    users = warm.UserNamespace(first=200_000)
    async with warm.start(
        client, digest, user_namespace=users, folder=folder, snapshotter=node.snapshotter
    ) as box:
        yield box


async def test_root_of_a_user_namespace_is_nobody_outside(
    as_others: warm.Box, client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    box = as_others
    assert (await box.exec(["id", "-u"])).stdout == b"0\n"
    script = "touch /made /tmp/made; ls -ln /bin/busybox /made | busybox awk '{print $3}'"
    assert (await box.exec(["sh", "-c", script])).stdout == b"0\n0\n"
    async with box.spawn(["sleep", "1000"]):
        assert _owners(b"sleep\x001000\x00") == [200_000]
    await box.write_file("/in/it", b"data", user="worker")
    assert (await box.exec(["cat", "/in/it"], user="worker")).stdout == b"data"
    assert (await box.exec(["ls", "-ln", "/in/it"])).stdout.split()[2] == b"1234"
    users = warm.UserNamespace(first=200_000)
    before = node.snapshots()
    async with warm.start(
        client, digest, user_namespace=users, folder=folder, snapshotter=node.snapshotter
    ) as again:
        assert len(node.snapshots() - before) == 1  # the files are changed once
        assert (await again.exec(["ls", "/made"])).exit_code != 0


async def test_a_file_of_several_names_changes_its_owner_once(
    client: cdimage.Client,
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    new_repository: Callable[[], str],
    folder: Path,
) -> None:
    tar = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=tar, mode="a") as archive:
        for name in ("one", "two"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname, link.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
            archive.addfile(link)
    image = image_of([layer_of(tar.getvalue())])
    digest = await prepared(store, pusher, new_repository(), image)
    async with warm.start(
        client, digest, user_namespace=warm.UserNamespace(first=200_000), folder=folder,
        snapshotter=node.snapshotter,
    ) as box:  # fmt: skip
        script = "ls -ln /one /two | busybox awk '{print $3}'"
        result = await box.exec(["sh", "-c", script])
        assert (result.stdout, result.stderr) == (b"0\n0\n", b"")


def _owners(command: bytes) -> list[int]:
    return [it.stat().st_uid for it in Path("/proc").glob("[0-9]*") if _command(it) == command]


def _command(path: Path) -> bytes:
    try:
        return (path / "cmdline").read_bytes()
    except OSError:
        return b""


async def test_what_a_user_namespace_took_is_gone_with_the_image(
    as_others: warm.Box, store: cdimage.Store, digest: str, node: Node
) -> None:
    await as_others.stop()
    await store.untag_image(digest)
    assert node.is_empty()


async def test_what_is_granted_is_granted(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    grants = warm.Grants(network="host", capabilities=["CAP_SYS_ADMIN"], all_system_calls=True)
    async with warm.start(
        client, digest, grants=grants, folder=folder, snapshotter=node.snapshotter
    ) as box:
        mounted = await box.exec(["busybox", "mount", "-t", "tmpfs", "tmpfs", "/tmp"])
        assert mounted.exit_code == 0, mounted
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            command = ["busybox", "nc", "-w", "2", "127.0.0.1", str(port)]
            job = asyncio.create_task(box.exec(command, timeout=20))
            server.settimeout(10)
            connection, _ = await asyncio.to_thread(server.accept)
            connection.close()
            assert (await job).exit_code == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: warm.Limits(memory=1000),
        lambda: warm.Limits(cpus=0),
        lambda: warm.Limits(pids=15),
        lambda: warm.Mount("relative"),
        lambda: warm.Mount("/x", "relative"),
        lambda: warm.Mount("/x", "/y", size=5),
        lambda: warm.UserNamespace(first=0),
        lambda: warm.Grants(network="bridge"),
        lambda: warm.Grants(capabilities=["NET_RAW"]),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(cdimage.InvalidReferenceError):
        make()
