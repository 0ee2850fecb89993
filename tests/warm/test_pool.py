"""Containers that are ready before somebody asks for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.images import Pusher
from tests.node import Node
from tests.warm_images import busybox, prepared

import cdimage
from cdimage import warm

OpenPool = Callable[..., warm.WarmPool]


@pytest.fixture
async def open_pool(store: cdimage.Store, node: Node, folder: Path) -> AsyncIterator[OpenPool]:
    def make(**options: Any) -> warm.WarmPool:
        return warm.WarmPool(store, folder=folder, snapshotter=node.snapshotter, **options)

    yield make
    assert node.ctr("containers", "ls", "-q") == ""


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - the daemon does it
            await asyncio.sleep(0.02)


async def test_what_is_ready_is_handed_out_at_once_and_replaced(
    open_pool: OpenPool, client: cdimage.Client, digest: str
) -> None:
    async with open_pool(size=2) as pool:
        await pool.keep(digest)
        assert len(await warm.list(client)) == 2
        seen = set()
        for _ in range(3):
            async with pool.take(digest) as box:
                seen.add(box.id)
                assert (await box.exec(["ls", "/tmp"])).stdout == b""
                await box.exec(["touch", "/tmp/mine"])
        assert len(seen) == 3


async def test_a_tenant_has_his_own_again_and_nobody_elses(
    open_pool: OpenPool, digest: str
) -> None:
    async with open_pool(size=0) as pool:
        ids: dict[str | None, str] = {}
        for tenant in ("a", "b", "a", None, "b"):
            async with pool.take(digest, tenant=tenant) as box:
                assert box.id not in {it for who, it in ids.items() if who != tenant}
                assert ids.setdefault(tenant, box.id) == box.id
        async with pool.take(digest, tenant="a") as one, pool.take(digest, tenant="a") as two:
            assert one.id != two.id


async def test_a_container_whose_user_failed_is_not_used_again(
    open_pool: OpenPool, digest: str
) -> None:
    async with open_pool(size=0) as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.take(digest, tenant="a") as box:
                raise ZeroDivisionError
        async with pool.take(digest, tenant="a") as other:
            assert other.id != box.id


async def test_there_are_never_more_than_the_total(
    open_pool: OpenPool, client: cdimage.Client, digest: str
) -> None:
    async with open_pool(size=2, total=3) as pool:
        await pool.keep(digest)
        most = 0

        async def use() -> None:
            nonlocal most
            async with pool.take(digest) as box:
                await box.exec(["true"])
                most = max(most, len(await warm.list(client)))

        await asyncio.gather(*(use() for _ in range(10)))
        assert 2 <= most <= 3


async def test_what_nobody_asks_for_gives_way(
    open_pool: OpenPool,
    client: cdimage.Client,
    store: cdimage.Store,
    digest: str,
    pusher: Pusher,
    new_repository: Callable[[], str],
) -> None:
    other = await prepared(store, pusher, new_repository(), busybox(User="worker"))
    async with open_pool(size=1, total=1) as pool:
        await pool.keep(digest)
        async with pool.take(other) as box:
            assert box.user_digest == other
            assert [it.user_digest for it in await warm.list(client)] == [other]


async def test_containers_are_stopped_when_nobody_asks_for_them(
    open_pool: OpenPool, client: cdimage.Client, digest: str
) -> None:
    async with open_pool(size=1, max_idle=0.5) as pool:
        await pool.keep(digest)
        async with pool.take(digest, tenant="a"):
            pass

        async def is_empty() -> bool:
            return await warm.list(client) == []

        await until(is_empty)
        async with pool.take(digest) as box:
            assert (await box.exec(["true"])).exit_code == 0


async def test_what_cannot_be_started_is_told_to_who_asks_and_tried_again(
    open_pool: OpenPool, store: cdimage.Store, digest: str
) -> None:
    await store.untag_image(digest)
    async with open_pool(size=1) as pool:
        with pytest.raises(cdimage.NotFoundError, match="not prepared"):
            await pool.keep(digest)
        for _ in range(2):
            with pytest.raises(cdimage.NotFoundError, match="not prepared"):
                async with pool.take(digest):
                    pass
    with pytest.raises(cdimage.UnavailableError, match="pool has ended"):
        async with pool.take(digest):
            pass


async def test_everybody_who_waits_is_told_why_there_is_none(
    open_pool: OpenPool, store: cdimage.Store, digest: str
) -> None:
    await store.untag_image(digest)

    async def use(pool: warm.WarmPool) -> None:
        async with pool.take(digest):
            pass

    async with open_pool(size=0) as pool:
        failures = await asyncio.gather(*(use(pool) for _ in range(5)), return_exceptions=True)
        assert [type(it) for it in failures] == [cdimage.NotFoundError] * 5


async def test_what_is_given_back_late_is_stopped_with_the_pool(
    open_pool: OpenPool, client: cdimage.Client, digest: str
) -> None:
    pool = open_pool(size=1, max_idle=0.2)
    taken = pool.take(digest)
    async with pool:
        async with pool.take(digest, tenant="a") as mine:
            await until(lambda: _is_alone(client, mine))
            await asyncio.sleep(0.5)
            assert await _is_alone(client, mine)
        late = await taken.__aenter__()
    assert late.is_running
    await taken.__aexit__(None, None, None)
    assert await warm.list(client) == []


async def _is_alone(client: cdimage.Client, box: warm.Box) -> bool:
    return [it.id for it in await warm.list(client)] == [box.id]


async def test_what_ended_while_it_was_ready_is_not_handed_out(
    open_pool: OpenPool, client: cdimage.Client, digest: str
) -> None:
    async with open_pool(size=1) as pool:
        await pool.keep(digest)
        (ready,) = await warm.list(client)
        await warm.stop(client, ready.id)
        async with pool.take(digest) as box:
            assert box.id != ready.id
            assert (await box.exec(["true"])).exit_code == 0


async def test_who_waits_may_give_up_and_a_pool_that_is_cancelled_leaves_nothing(
    open_pool: OpenPool, client: cdimage.Client, digest: str
) -> None:
    async def work() -> None:
        async with open_pool(size=1, total=1) as pool, pool.take(digest):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3), pool.take(digest):
                    pass
            await asyncio.sleep(1000)

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    assert len(await warm.list(client)) == 1
    task.cancel()
    begin = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - begin < 10
    assert await warm.list(client) == []


def test_sizes_that_make_no_sense_are_refused(store: cdimage.Store) -> None:
    for options in ({"size": -1}, {"size": 1, "total": 0}, {"size": 1, "max_idle": 0}):
        with pytest.raises(cdimage.InvalidReferenceError):
            warm.WarmPool(store, **options)
