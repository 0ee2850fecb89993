"""The ways to a containerd."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from tests.node import Node

import cdimage

AUTHORITY = trustme.CA()


def pem(folder: Path, name: str, authority: trustme.CA) -> cdimage.TLS:
    """Files of a client that trusts an authority, with a certificate of ours."""
    mine = AUTHORITY.issue_cert("client")
    files = [folder / f"{name}.{kind}" for kind in ("ca", "cert", "key")]
    authority.cert_pem.write_to_path(str(files[0]))
    mine.cert_chain_pems[0].write_to_path(str(files[1]))
    mine.private_key_pem.write_to_path(str(files[2]))
    return cdimage.TLS(*files)


@asynccontextmanager
async def tls_proxy(socket: str) -> AsyncIterator[str]:
    """What people put in front of a containerd that others shall reach: TLS, both ways."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_containerd_behind_a_tls_proxy_is_reached_with_certificates(
    node: Node, tmp_path: Path
) -> None:
    ours, wrong = pem(tmp_path, "ours", AUTHORITY), pem(tmp_path, "wrong", trustme.CA())
    async with tls_proxy(node.address) as address:
        async with cdimage.connect(address, node.namespace, tls=ours) as client:
            assert await cdimage.Store(client).get_existing_images() == []
        async with cdimage.connect(address, node.namespace, tls=wrong) as client:
            with pytest.raises(cdimage.UnavailableError, match="no containerd answers"):
                await client.introspection.version()


async def test_containerds_own_tcp_address_is_told_from_its_api(node: Node) -> None:
    async with cdimage.connect(f"tcp://{node.containerd.tcp_address}") as client:
        with pytest.raises(cdimage.BackendError, match="for CRI only"):
            await client.images.list()


@pytest.mark.parametrize("form", ["{}", "unix://{}"])
async def test_a_socket_is_named_by_its_path_or_as_a_url(node: Node, form: str) -> None:
    async with cdimage.connect(form.format(node.address), node.namespace) as client:
        plugins = await client.introspection.plugins()
        assert {"overlayfs", "native"} <= set(plugins.snapshotters)
        assert str(plugins.platform) == "linux/amd64"


async def test_the_environment_says_where_containerd_is(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINERD_ADDRESS", node.address)
    monkeypatch.setenv("CONTAINERD_NAMESPACE", node.namespace)
    async with cdimage.connect() as client:
        assert (client.address, client.namespace) == (node.address, node.namespace)
        assert await client.images.list() == []


async def test_the_namespaces_default_snapshotter_is_followed(
    client: cdimage.Client, node: Node
) -> None:
    for name in (node.other_snapshotter, node.snapshotter):
        label = f"containerd.io/defaults/snapshotter={name}"
        node.ctr("namespaces", "label", node.namespace, label)
        assert await cdimage.Store(client).get_snapshotter() == name
    assert await cdimage.Store(client, snapshotter="overlayfs").get_snapshotter() == "overlayfs"
