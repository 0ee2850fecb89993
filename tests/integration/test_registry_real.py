"""The registry as a source, against Debian's docker-registry: in the clear, with users, on TLS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from tests.daemons import Registry as RegistryDaemon
from tests.images import Pushed, Pusher, image_of, index_of, layer_of, tar_of

from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import NotFoundError, PermissionDeniedError
from cdimage.image import Manifest
from cdimage.pull import read
from cdimage.reference import Reference
from cdimage.registry import Registry
from cdimage.registry.credentials import Credentials, basic_header

ALICE = Credentials("alice", "hunter2")
# bcrypt of that password, cost 5: there is no bcrypt in the standard library.
HTPASSWD = "alice:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n"
IMAGE = image_of([layer_of(tar_of({"data": bytes(range(256)) * 9000}), "none")])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


async def read_image(pushed: Pushed) -> Descriptor:
    """Resolve an image and read its config and its layers, checked."""
    reference = Reference.parse(pushed.reference)
    async with Registry() as registry:
        source = registry.open(reference)
        found = await source.resolve(reference)
        assert str(found.digest) == pushed.digest
        assert await source.resolve(reference.at(found.digest)) == found
        data = await read(source, found)
        if found.media_type in MediaType.MANIFESTS:
            manifest = Manifest.parse(data, found.media_type)
            for descriptor in (manifest.config, *manifest.layers):
                await read(source, descriptor)
        return found


@pytest.mark.parametrize("docker", [False, True])
async def test_an_image_of_each_family_is_read_whole(
    pusher: Pusher, new_repository: Callable[[], str], docker: bool
) -> None:
    image = image_of([layer_of(tar_of({"a": b"b"}), docker=docker)], docker=docker)
    found = await read_image(pusher.push(image, new_repository()))
    assert found.media_type == (MediaType.DOCKER_MANIFEST if docker else MediaType.OCI_MANIFEST)


async def test_an_index_is_resolved_as_one(
    pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    pushed = pusher.push_index(index_of({"linux/amd64": IMAGE}), [IMAGE], new_repository())
    assert (await read_image(pushed)).media_type == MediaType.OCI_INDEX


async def test_a_layer_continues_from_any_offset(
    pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    reference = Reference.parse(pusher.push(IMAGE, new_repository()).reference)
    blob = IMAGE.layers[0].blob
    layer = Descriptor.of(blob.media_type, blob.data)
    async with Registry() as registry:
        source = registry.open(reference)
        for offset in (0, 1, len(blob.data) // 2, len(blob.data) - 1):
            async with source.fetch(layer, offset) as chunks:
                assert b"".join([part async for part in chunks]) == blob.data[offset:]


async def test_what_is_not_there_is_not_found(
    pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    reference = Reference.parse(pusher.push(IMAGE, new_repository()).reference)
    missing = Descriptor(MediaType.OCI_LAYER, Digest.of(b"missing"), 7)
    async with Registry() as registry:
        source = registry.open(reference)
        with pytest.raises(NotFoundError):
            await source.resolve(reference.at(missing.digest))
        with pytest.raises(NotFoundError):
            async with source.fetch(missing):
                pass


async def test_a_registry_with_users_lets_in_who_is_logged_in(folder: Path) -> None:
    users = folder / "htpasswd"
    users.write_text(HTPASSWD)
    with RegistryDaemon(htpasswd=users) as daemon:
        pushed = Pusher(daemon.host, basic_header(ALICE)).push(IMAGE, "private/app")
        with pytest.raises(PermissionDeniedError, match="docker login"):
            await read_image(pushed)
        for password, is_right in (("wrong", False), (ALICE.password, True)):
            entry = {"username": ALICE.username, "password": password}
            (folder / "config.json").write_text(json.dumps({"auths": {daemon.host: entry}}))
            if is_right:
                await read_image(pushed)
            else:
                with pytest.raises(PermissionDeniedError):
                    await read_image(pushed)


async def test_a_registry_on_tls_is_read_when_its_authority_is_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    issued.private_key_pem.write_to_path(key)
    for number, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(certificate, append=number > 0)
    with RegistryDaemon(certificate=(certificate, key)) as daemon:
        reference = Reference.parse(f"{daemon.host}/app")
        async with Registry() as registry:
            with pytest.raises(PermissionDeniedError, match="certificate"):
                await registry.open(reference).resolve(reference)
        authority.cert_pem.write_to_path(folder / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        async with Registry() as registry:
            with pytest.raises(NotFoundError):
                await registry.open(reference).resolve(reference)
