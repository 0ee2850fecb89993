"""What every store promises: one suite over all of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.backends import Backend
from tests.daemons import Registry
from tests.images import (
    Image,
    Pushed,
    Pusher,
    image_of,
    index_of,
    layer_of,
    tar_of,
)
from tests.stores import check_verified

import cdimage
from cdimage.pause import PauseBinaries
from cdimage.prepared_store import PreparedStore
from cdimage.store import Progress, State

LINUX = cdimage.Platform("linux", "amd64")
ARM = cdimage.Platform("linux", "arm64")


def unique(platform: str = "linux/amd64", **execution: object) -> Image:
    """An image with a layer that no other test has, and one that many have."""
    layers = [
        layer_of(tar_of({"shared": b"x" * 10_000})),
        layer_of(tar_of({"own": os.urandom(99)})),
    ]
    return image_of(layers, execution, platform=platform)


@pytest.fixture
def image(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(unique(Entrypoint=["/app"], Cmd=["serve"], User="7"), new_repository())


@pytest.fixture
def other(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(unique(), new_repository())


@pytest.fixture
def both(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    """An index for two platforms that have a pause program, and one that has none."""
    images = {name: unique(name) for name in ("linux/arm64", "linux/s390x", "linux/amd64")}
    return pusher.push_index(index_of(images), [*images.values()], new_repository())


def other_pause(tmp_path: Path) -> PauseBinaries:
    bundled = PauseBinaries.bundled()
    assert bundled.linux_amd64 is not None
    changed = tmp_path / "pause"
    changed.write_bytes(Path(bundled.linux_amd64).read_bytes() + b"another build")
    return PauseBinaries(linux_amd64=changed)


async def test_what_is_pulled_is_listed_and_whole(store: PreparedStore, image: Pushed) -> None:
    keeps_the_contract: cdimage.ImageStore = store
    assert await keeps_the_contract.get_existing_images() == []
    assert await store.get_existing_images() == []
    await store.pull_image(image.reference, image.digest)
    assert await store.get_existing_images() == [image.digest]
    found = await store.get_image(image.digest)
    assert (str(found.user_digest), found.platforms) == (image.digest, (LINUX,))
    (listed,) = await store.list_images()
    assert (listed.target, listed.name) == (found.target, found.name)
    await check_verified(store, image.digest)


async def test_untagging_leaves_nothing_and_can_be_repeated(
    store: PreparedStore, backend: Backend, image: Pushed
) -> None:
    await store.untag_image(image.digest)
    await store.pull_image(image.reference, image.digest)
    assert not backend.is_empty()
    await store.untag_image(image.digest)
    assert await store.get_existing_images() == []
    assert backend.is_empty()
    await store.untag_image(image.digest)


async def test_what_another_image_holds_stays(
    store: PreparedStore, image: Pushed, other: Pushed
) -> None:
    for one in (image, other):
        await store.pull_image(one.reference, one.digest)
    await store.untag_image(image.digest)
    assert await store.get_existing_images() == [other.digest]
    await check_verified(store, other.digest)


async def test_two_user_digests_of_one_manifest_are_two_images(
    store: PreparedStore, backend: Backend, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    one = unique()
    index = pusher.push_index(index_of({"linux/amd64": one}), [one], new_repository())
    await store.pull_image(index.reference, index.digest)
    await store.pull_image(index.reference, one.digest)
    assert await store.get_existing_images() == sorted([index.digest, one.digest])
    found = [await store.get_image(digest) for digest in (index.digest, one.digest)]
    assert found[0].target.digest == found[1].target.digest
    await store.untag_image(index.digest)
    await check_verified(store, one.digest)
    await store.untag_image(one.digest)
    assert backend.is_empty()


async def test_a_second_pull_asks_for_nothing(
    store: PreparedStore, backend: Backend, registry: Registry, image: Pushed
) -> None:
    await store.pull_image(image.reference, image.digest)
    before = len(registry.requests())
    async with backend.open() as again:
        await again.pull_image(image.reference, image.digest, platform=LINUX)
    asked = registry.requests()[before:]
    repository = image.reference.partition("/")[2].rpartition(":")[0]
    assert not [request for request in asked if f"/{repository}/" in request.path]


async def test_an_image_that_is_another_is_refused_and_leaves_nothing(
    store: PreparedStore, backend: Backend, image: Pushed, other: Pushed
) -> None:
    with pytest.raises(cdimage.DigestMismatchError):
        await store.pull_image(image.reference, other.digest)
    assert await store.get_existing_images() == []
    assert backend.is_empty()


async def test_what_is_not_there_is_not_found(store: PreparedStore, image: Pushed) -> None:
    nowhere = image.reference.replace(":latest", ":nowhere")
    with pytest.raises(cdimage.NotFoundError):
        await store.pull_image(nowhere, image.digest)
    with pytest.raises(cdimage.NotFoundError):
        await store.get_image(image.digest)
    with pytest.raises(cdimage.NotFoundError):
        await store.get_original(image.digest)


@pytest.mark.parametrize("wrong", ["", "sha256:12", "md5:00", "../../etc"])
async def test_what_is_no_digest_is_refused(store: PreparedStore, wrong: str) -> None:
    for call in (store.get_image(wrong), store.untag_image(wrong), store.pull_image("x", wrong)):
        with pytest.raises(cdimage.InvalidReferenceError):
            await call


async def test_another_platform_than_the_image_has_is_refused(
    store: PreparedStore, backend: Backend, image: Pushed
) -> None:
    with pytest.raises(cdimage.UnsupportedPlatformError):
        await store.pull_image(image.reference, image.digest, platform=ARM)
    assert backend.is_empty()


async def test_the_original_can_be_read_back(store: PreparedStore, image: Pushed) -> None:
    await store.pull_image(image.reference, image.digest)
    found = await store.get_original(image.digest)
    assert found is not None
    assert (str(found.base), found.entrypoint, found.cmd, found.user) == (
        image.digest, ["/app"], ["serve"], "7",
    )  # fmt: skip


async def test_a_new_pause_program_is_put_in_without_the_users_registry(
    backend: Backend, registry: Registry, image: Pushed, tmp_path: Path
) -> None:
    async with backend.open() as store:
        await store.pull_image(image.reference, image.digest)
        old = await store.get_image(image.digest)
    before = len(registry.requests())
    async with backend.open(pause=other_pause(tmp_path)) as newer:
        await newer.pull_image(image.reference, image.digest)
        new = await newer.get_image(image.digest)
        assert new.target.digest != old.target.digest
        await check_verified(newer, image.digest)
        repository = image.reference.partition("/")[2].rpartition(":")[0]
        asked = registry.requests()[before:]
        assert not [request for request in asked if f"/{repository}/" in request.path]
        await newer.untag_image(image.digest)
    assert backend.is_empty()


async def test_all_platforms_become_one_index(
    store: PreparedStore, backend: Backend, both: Pushed
) -> None:
    await store.pull_image(both.reference, both.digest, platform="all")
    found = await store.get_image(both.digest)
    assert found.is_all
    assert [str(it) for it in found.platforms] == ["linux/arm64", "linux/amd64"]
    assert found.target.media_type.endswith("image.index.v1+json")
    await check_verified(store, both.digest)
    await store.untag_image(both.digest)
    assert backend.is_empty()


async def test_platforms_can_be_named_and_added_to(store: PreparedStore, both: Pushed) -> None:
    await store.pull_image(both.reference, both.digest, platform=LINUX)
    single = await store.get_image(both.digest)
    assert single.platforms == (LINUX,)
    await store.pull_image(both.reference, both.digest, platform=[LINUX, ARM])
    found = await store.get_image(both.digest)
    assert found.platforms == (ARM, LINUX)
    assert found.target != single.target
    await store.pull_image(both.reference, both.digest, platform=ARM)  # is here
    assert (await store.get_image(both.digest)).target == found.target
    await check_verified(store, both.digest)


async def test_a_platform_without_a_pause_program_is_refused(
    store: PreparedStore, backend: Backend, both: Pushed
) -> None:
    mainframe = cdimage.Platform("linux", "s390x")
    with pytest.raises(cdimage.UnsupportedPlatformError):
        await store.pull_image(both.reference, both.digest, platform=[LINUX, mainframe])
    assert backend.is_empty()


@pytest.mark.parametrize("wrong", [[], "linux/amd64", ["linux/amd64"], 7])
async def test_what_is_no_platform_is_refused(
    store: PreparedStore, image: Pushed, wrong: Any
) -> None:
    with pytest.raises(cdimage.InvalidReferenceError, match="pass a Platform, several, or 'all'"):
        await store.pull_image(image.reference, image.digest, platform=wrong)
    odd: Any = "magic"
    with pytest.raises(cdimage.InvalidReferenceError, match="write layer, or alias"):
        await store.pull_image(image.reference, image.digest, inject=odd)


async def test_an_alias_is_the_users_own_manifest(
    store: PreparedStore, backend: Backend, image: Pushed
) -> None:
    await store.pull_image(image.reference, image.digest, inject="alias")
    found = await store.get_image(image.digest)
    assert str(found.target.digest) == image.digest
    assert found.recipe == "alias"
    await check_verified(store, image.digest)
    await store.pull_image(image.reference, image.digest)
    assert str((await store.get_image(image.digest)).target.digest) != image.digest
    await check_verified(store, image.digest)
    await store.untag_image(image.digest)
    assert backend.is_empty()


async def test_an_alias_of_all_platforms_is_the_users_own_index(
    store: PreparedStore, backend: Backend, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    images = {name: unique(name) for name in ("linux/arm64", "linux/amd64")}
    index = pusher.push_index(index_of(images), [*images.values()], new_repository())
    pull = store.pull_image(index.reference, index.digest, platform="all", inject="alias")
    if not backend.takes_partial_indexes:
        with pytest.raises(cdimage.InvalidReferenceError):
            await pull
        return
    await pull
    found = await store.get_image(index.digest)
    assert str(found.target.digest) == index.digest
    await check_verified(store, index.digest)
    await store.untag_image(index.digest)
    assert backend.is_empty()


async def test_many_callers_fetch_once(
    store: PreparedStore, registry: Registry, image: Pushed
) -> None:
    before = len(registry.requests())
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(store.pull_image(image.reference, image.digest))
    await check_verified(store, image.digest)
    repository = image.reference.partition("/")[2].rpartition(":")[0]
    asked = [request.path for request in registry.requests()[before:] if request.method == "GET"]
    for layer in image.layers:
        assert asked.count(f"/v2/{repository}/blobs/{layer}") <= 1


async def test_cancelled_at_any_moment_no_name_is_left_and_the_next_pull_succeeds(
    backend: Backend, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    layers = [layer_of(tar_of({"f": os.urandom(300_000)}), "none") for _ in range(3)]
    image = pusher.push(image_of(layers), new_repository())
    async with backend.open() as store:
        for number in range(1, 12):
            may_be_named = await cancelled_at(store, image, number)
            if await store.get_existing_images():
                assert may_be_named
                await check_verified(store, image.digest)
                await store.untag_image(image.digest)
        await store.pull_image(image.reference, image.digest)
        await check_verified(store, image.digest)


async def cancelled_at(store: PreparedStore, image: Pushed, number: int) -> bool:
    """Pull, and cancel it at an event; whether that may have been after the name was there."""
    events: list[Progress] = []

    def count(event: Progress) -> None:
        events.append(event)
        if len(events) == number:
            task.cancel()

    task = asyncio.create_task(store.pull_image(image.reference, image.digest, progress=count))
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return not task.cancelled() or events[number - 1].state is State.DONE


async def test_progress_adds_up(store: PreparedStore, image: Pushed) -> None:
    events: list[Progress] = []
    await store.pull_image(image.reference, image.digest, progress=events.append)
    latest = {event.descriptor.digest: event for event in events}
    assert set(image.layers) <= {str(digest) for digest in latest}
    assert all(event.is_last and event.offset == event.total for event in latest.values())
    assert {event.state for event in latest.values()} <= {State.EXISTS, State.DONE}


async def test_a_layer_that_is_another_is_refused_and_leaves_nothing(
    store: PreparedStore, backend: Backend, pusher: Pusher, registry: Registry,
    new_repository: Callable[[], str],
) -> None:  # fmt: skip
    data = tar_of({"f": os.urandom(20_000)})
    image = pusher.push(image_of([layer_of(data, "none")]), new_repository())
    path = registry.blob_path(image.layers[0])
    path.write_bytes(bytes(len(data)))
    try:
        with pytest.raises((cdimage.DigestMismatchError, cdimage.InvalidImageError)):
            await pull_and_verify(store, image)
        if await store.get_existing_images() == []:
            assert backend.is_empty()
    finally:
        path.write_bytes(data)


async def pull_and_verify(store: PreparedStore, image: Pushed) -> None:
    """A registry mounts its own blobs without reading them: verifying shows what is wrong."""
    await store.pull_image(image.reference, image.digest)
    await check_verified(store, image.digest)
