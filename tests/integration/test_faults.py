"""Every fault of the table, on a real containerd and a real registry."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable

import pytest
from tests.daemons import Registry as RegistryDaemon
from tests.fault_cases import CASES, PAGE, SURVIVED, WITHOUT_DAEMON, Case, faults_of, page
from tests.faults import Answer, Asked, Fault, FaultyRegistry
from tests.images import Pushed, Pusher, image_of, layer_of, tar_of
from tests.node import Node
from tests.tools import ROOT

import cdimage
from cdimage.containerd import ingest
from cdimage.errors import CdimageError
from cdimage.registry.credentials import Credentials
from cdimage.store import State

SIZE = 2_000_000
SECRET = "hunter2"
PATIENCE = cdimage.Retry(first_seconds=0.01, longest_seconds=0.05)


@pytest.fixture
def pushed(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    """An image that no other test has pulled, so that nothing of it is here."""
    layers = [layer_of(tar_of({f"{n}": os.urandom(SIZE)}), "none") for n in range(2)]
    return pusher.push(image_of(layers), new_repository())


@pytest.fixture
async def faulty(registry: RegistryDaemon) -> AsyncIterator[FaultyRegistry]:
    peer = FaultyRegistry(registry.host)
    async with peer.serving(), FaultyRegistry(registry.host, peer=peer).serving() as faulty:
        yield faulty


@pytest.fixture
async def store(client: cdimage.Client) -> AsyncIterator[cdimage.Store]:
    async with cdimage.Registry(still_seconds=0.3) as registry:
        yield cdimage.Store(client, open_source=registry.open, retry=PATIENCE, concurrency=1)


def check_blobs(node: Node) -> None:
    """Every committed blob has the bytes that its digest names."""
    folder = node.containerd.root / "io.containerd.content.v1.content/blobs/sha256"
    for digest in node.blobs():
        data = (folder / digest.partition(":")[2]).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
async def test_what_goes_wrong(
    case: Case, store: cdimage.Store, node: Node, faulty: FaultyRegistry, pushed: Pushed
) -> None:
    reference = f"{faulty.host}/{pushed.reference.partition('/')[2]}"
    faulty.faults, faulty.token_uses = faults_of(case), case.token_uses
    credentials = Credentials("me", SECRET) if case.token_uses else None
    events: list[cdimage.Progress] = []

    async def pull() -> None:
        await store.pull_image(
            reference, pushed.digest, credentials=credentials, progress=events.append
        )

    if case.error is None:
        await pull()
    else:
        with pytest.raises(CdimageError) as caught:
            await pull()
        assert type(caught.value) is case.error, str(caught.value)
        message = str(caught.value)
        assert case.says in message
        assert "\n" not in message
        assert SECRET not in message
        assert faulty.host in message or pushed.digest in message or "sha256:" in message
        assert node.images() == set()
        check_blobs(node)
        faulty.faults = []
        await pull()
    check_blobs(node)
    assert set(pushed.layers) <= node.blobs()
    assert await store.get_existing_images() == [pushed.digest]
    assert len(faulty.seen) <= 40
    assert faulty.peer is not None
    assert [asked for asked in faulty.peer.seen if "authorization" in asked.headers] == []
    if "redirected to another host" in case.what:
        assert faulty.peer.seen


def test_the_page_says_what_the_table_says() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.fault_cases`"


@pytest.mark.parametrize(("file", "test"), [row[2:] for row in (*SURVIVED, *WITHOUT_DAEMON)])
def test_what_the_page_says_of_processes_is_tested(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize(("of_image", "of_all", "most"), [(2, 9, 6), (3, 4, 4), (1, 1, 1)])
async def test_no_more_layers_are_fetched_at_the_same_time_than_wanted(
    client: cdimage.Client,
    faulty: FaultyRegistry,
    pusher: Pusher,
    new_repository: Callable[[], str],
    of_image: int,
    of_all: int,
    most: int,
) -> None:
    running = [0]

    async def count(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
        running.append(running[-1] + 1)
        await asyncio.sleep(0.1)
        await answer.send_head()
        await answer.send_body()
        running.append(running[-1] - 1)

    faulty.faults = [Fault("layers", count)]
    async with cdimage.Registry() as registry, asyncio.TaskGroup() as group:
        store = cdimage.Store(
            client, open_source=registry.open, concurrency=of_image, total_concurrency=of_all
        )
        for _ in range(3):
            layers = [layer_of(tar_of({f"{n}": os.urandom(100_000)}), "none") for n in range(4)]
            image = pusher.push(image_of(layers), new_repository())
            reference = f"{faulty.host}/{image.reference.partition('/')[2]}"
            group.create_task(store.pull_image(reference, image.digest))
    assert max(running) == most


async def test_a_large_first_layer_is_there_before_others_are_asked_for(
    client: cdimage.Client,
    pusher: Pusher,
    new_repository: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingest, "_HEAD_START", 60.0)
    sizes = (17_000_000, 100_000, 100_000)
    layers = [layer_of(tar_of({"file": os.urandom(size)}), "none") for size in sizes]
    image = pusher.push(image_of(layers), new_repository())
    events: list[tuple[str, State]] = []
    await cdimage.Store(client).pull_image(
        image.reference,
        image.digest,
        progress=lambda event: events.append((str(event.descriptor.digest), event.state)),
    )
    first, *others = [layer.blob.digest for layer in layers]
    arrived = events.index((first, State.FETCHED))
    assert all(events.index((it, State.FETCHING)) > arrived for it in others)


@pytest.mark.parametrize(("size", "head_start"), [(17_000_000, 0.05), (1_000_000, 60.0)])
async def test_a_first_layer_that_is_slow_or_small_holds_up_no_others(
    client: cdimage.Client,
    faulty: FaultyRegistry,
    pusher: Pusher,
    new_repository: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    head_start: float,
) -> None:
    monkeypatch.setattr(ingest, "_HEAD_START", head_start)
    layers = [layer_of(tar_of({"file": os.urandom(it)}), "none") for it in (size, 100_000)]
    image = pusher.push(image_of(layers), new_repository())
    first, second = [layer.blob.digest for layer in layers]
    other_asked = asyncio.Event()

    async def hold_the_first(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
        if first in asked.path:
            await other_asked.wait()
        elif second in asked.path:
            other_asked.set()
        await answer.send_head()
        await answer.send_body()

    faulty.faults = [Fault("layers", hold_the_first)]
    reference = f"{faulty.host}/{image.reference.partition('/')[2]}"
    async with asyncio.timeout(20):
        await cdimage.Store(client).pull_image(reference, image.digest)


async def test_the_proxy_itself_breaks_nothing(
    store: cdimage.Store, faulty: FaultyRegistry, pushed: Pushed
) -> None:
    await store.pull_image(f"{faulty.host}/{pushed.reference.partition('/')[2]}", pushed.digest)
    assert len(faulty.seen) == 1 + 1 + len(pushed.layers)  # manifest, config, layers
    assert json.loads(json.dumps(await store.get_existing_images())) == [pushed.digest]
