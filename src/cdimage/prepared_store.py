"""What all stores of prepared images do alike: find the image, prepare it, have it stored."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol
from weakref import WeakValueDictionary

from cdimage.descriptor import Descriptor, Platform
from cdimage.digest import Digest
from cdimage.errors import (
    CdimageError,
    DigestMismatchError,
    InvalidPauseProgramError,
    InvalidReferenceError,
    NotFoundError,
    UnsupportedPlatformError,
)
from cdimage.image import Config, Index, Manifest
from cdimage.pause import PauseBinaries
from cdimage.preparation import Inject, Preparation, make_preparation
from cdimage.prepare import ALIAS, Original, original, recipe
from cdimage.pull import Tracker, copy_blob, one_error, put, read
from cdimage.reference import Reference
from cdimage.resolve import (
    ResolvedImage,
    Wanted,
    parse_document,
    read_config,
    resolve_image,
    resolve_images,
)
from cdimage.retry import PersistentSource, Retry
from cdimage.store import (
    ContentStore,
    PreparedImage,
    Progress,
    ProgressCallback,
    Source,
    State,
)

if TYPE_CHECKING:
    from cdimage.registry.credentials import Credentials

DEFAULT_CONCURRENCY: Final = 3
DEFAULT_TOTAL_CONCURRENCY: Final = 12

OpenSource = Callable[[Reference, "Credentials | None"], Source]
"""Opens what a reference names, for whoever these credentials belong to."""

_logger = logging.getLogger(__name__)


class Held(Source, Protocol):
    """A source of images by digest that may hold a part of an image only."""

    async def check(self, preparation: Preparation) -> None:
        """See whether it holds all of an image, and is right about it, before anything is begun.

        Raises:
            NotFoundError: Something is missing.
            DigestMismatchError: It holds another image.
        """
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What one call of `pull_image` asks for.

    Attributes:
        named: The reference, as the caller wrote it.
        digest: The user digest.
        wanted: Of which platforms.
        inject: How the pause program comes to a container.
        before: What is prepared already, and out of date.
        progress: Told what happens to each blob.
    """

    named: Reference
    digest: Digest
    wanted: Wanted
    inject: Inject
    before: PreparedImage | None
    progress: ProgressCallback


class PreparedStore(ABC):
    """An `ImageStore`, but for where and how its images are kept.

    Safe for concurrent use, by tasks and by processes.
    """

    def __init__(
        self,
        *,
        pause: PauseBinaries | None,
        open_source: OpenSource | None,
        prepared_registry: str | None,
        concurrency: int,
        total_concurrency: int,
        retry: Retry | None,
    ) -> None:
        self.pause = pause or PauseBinaries.bundled()
        self._open_source = open_source
        self._prepared_registry = prepared_registry and Reference.parse(prepared_registry)
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(total_concurrency)
        self._retry = retry or Retry()
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()

    # What each store does in its own way.

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call it in a message, as ``containerd at /run/…``."""

    @property
    def place(self) -> Reference:
        """Where images come from that are copied out of this store."""
        return Reference("", self.name, transport="store")

    @abstractmethod
    async def list_images(self) -> list[PreparedImage]:
        """The prepared images that are here, those that were registered last first.

        Raises:
            UnavailableError: The store cannot be reached.
        """

    @abstractmethod
    async def untag_image(self, user_digest: str) -> None:
        """Drop a prepared image, and wait until what only it held is gone.

        Idempotent: an image that is not there is success.

        Raises:
            InvalidReferenceError: It is not a digest.
            UnavailableError: The store cannot be reached.
        """

    @abstractmethod
    def contents(self) -> AbstractAsyncContextManager[Held]:
        """What is here, as a source: the users' images that were prepared, by digest."""

    @abstractmethod
    async def add_image(self, preparation: Preparation, source: Source, order: Order) -> None:
        """Store all of an image, from a source, and register it last.

        Cancelled, or after an error that may pass, it leaves what arrived for the next call.
        """

    @abstractmethod
    async def find_image(self, digest: Digest) -> PreparedImage | None:
        """The prepared image of that user digest; None when there is none."""

    @abstractmethod
    async def _default_platform(self) -> Platform:
        """What to choose from an index when the caller does not say."""

    async def is_complete(self, image: PreparedImage) -> bool:  # noqa: ARG002 - others look
        """Whether everything behind a name that is there is there as well."""
        return True

    # What all of them do alike.

    async def get_existing_images(self) -> list[str]:
        """The user digests of the prepared images that are here, sorted.

        Raises:
            UnavailableError: The store cannot be reached.
        """
        return sorted(str(image.user_digest) for image in await self.list_images())

    async def get_image(self, user_digest: str) -> PreparedImage:
        """The prepared image of that digest.

        Raises:
            InvalidReferenceError: It is not a digest.
            NotFoundError: It is not prepared here.
            UnavailableError: The store cannot be reached.
        """
        image = await self.find_image(Digest.parse(user_digest))
        if image is None:
            raise NotFoundError(f"{user_digest} is not prepared here: pull it first")
        return image

    async def get_original(self, user_digest: str) -> Original | None:
        """What the user's image would have run; None where the record is not cdimage's.

        Of several platforms, the first one's.

        Raises:
            InvalidReferenceError: It is not a digest.
            NotFoundError: It is not prepared here.
            UnavailableError: The store cannot be reached.
        """
        image = await self.get_image(user_digest)
        async with self.contents() as source:
            document = parse_document(await read(source, image.target), image.target)
            while isinstance(document, Index):
                first = document.manifests[0]
                document = parse_document(await read(source, first), first)
            return original(await read_config(source, document))

    async def resolve_image(
        self, image_path: str, *, credentials: Credentials | None = None
    ) -> str:
        """The digest that a reference names now: to be passed to `pull_image`.

        Args:
            image_path: As for `pull_image`.
            credentials: As for `pull_image`.

        Raises:
            InvalidReferenceError: It is not a reference.
            NotFoundError: There is no such image.
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The registry cannot be reached; try again.
        """
        reference = Reference.parse(image_path)
        if reference.digest is not None:
            return str(reference.digest)
        async with self._source(reference, credentials) as source:
            return str((await source.resolve(reference)).digest)

    async def pull_image(
        self,
        image_path: str,
        expected_digest: str,
        *,
        platform: Wanted = None,
        inject: Inject | Literal["layer", "alias"] = Inject.LAYER,
        credentials: Credentials | None = None,
        check_access: bool = False,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Pull an image, verify its digest, put the pause program on top and register it.

        As `ImageStore.pull_image`. Cancelled, it leaves what arrived for the next call. After an
        error that trying again would not mend, nothing is left.

        Args:
            image_path: A reference, as ``debian:12`` or ``ghcr.io/org/app@sha256:…``, or what is
                in no registry, as ``oci-archive:FILE`` (see `Reference`).
            expected_digest: The digest of an index or of a manifest; the key from now on.
            platform: What the image must be for. None is what a manifest says, or the store's
                default where there is a choice. Several, or ``all`` that have a pause program,
                become one prepared index.
            inject: ``layer``, or ``alias`` for a record that points at the user's own manifest.
            credentials: The caller's own, for this pull alone, in place of those that this
                machine keeps. Mirrors and other hosts never see them.
            check_access: Ask the registry, by a request for the manifest, whether these
                credentials may have the image, even if it is here already: for workers that
                serve several tenants. A tenant without any passes ``Credentials()``.
            progress: Told what happens to each blob.
        """
        reference, digest = Reference.parse(image_path), Digest.parse(expected_digest)
        wanted, how = _checked_platforms(platform), _checked_inject(inject)
        if reference.digest not in {None, digest}:
            raise DigestMismatchError(
                f"the reference {reference} and the expected digest {digest} are not the same",
                expected=str(digest),
                actual=str(reference.digest),
            )
        if check_access:
            async with self._source(reference, credentials) as source:
                await source.resolve(reference.at(digest))
        # The first caller does the work; those who waited find it done.
        async with self._locks.setdefault(digest, asyncio.Lock()):
            before = await self.find_image(digest)
            if before is not None and await self._is_current(before, wanted, how):
                return
            order = Order(reference, digest, wanted, how, before, progress or _ignore)
            await self._obey(order, credentials)

    async def _obey(self, order: Order, credentials: Credentials | None) -> None:
        """Prepare from the nearest place that has the image whole."""
        by_digest = order.named.at(order.digest)
        try:
            # What is held whole needs no network.
            async with self.contents() as held:
                await self._prepare(order, held, by_digest, held)
                return
        except (NotFoundError, UnsupportedPlatformError):
            pass
        if self._prepared_registry and not order.named.transport:
            try:
                async with self._prepared_variants(self._prepared_registry) as prepared:
                    await self._prepare(order, prepared, by_digest, prepared)
                    return
            except NotFoundError as error:
                _logger.info("prepared here, because: %s", error)
            except CdimageError as error:
                _logger.warning("prepared here, because: %s", error)
        async with self._source(order.named, credentials) as source:
            await self._prepare(order, source, order.named, None)

    async def _prepare(
        self, order: Order, source: Source, reference: Reference, held: Held | None
    ) -> None:
        images = await self._resolve(order, source, reference)
        preparation = make_preparation(
            images,
            self.pause.read,
            inject=order.inject,
            is_index=_is_several(order.wanted),
            is_all=order.wanted == "all",
        )
        if held is not None:
            await held.check(preparation)
        await self.add_image(preparation, source, order)

    async def _resolve(
        self, order: Order, source: Source, reference: Reference
    ) -> list[ResolvedImage]:
        wanted, digest = order.wanted, order.digest
        if wanted is None or isinstance(wanted, Platform):
            default = await self._default_platform()
            return [await resolve_image(source, reference, digest, wanted, default)]
        can_prepare = self.pause.has if order.inject is Inject.LAYER else _always
        return await resolve_images(source, reference, digest, wanted, can_prepare)

    async def _is_current(self, image: PreparedImage, wanted: Wanted, inject: Inject) -> bool:
        """Whether nothing is left to do: same pause program, same platforms, all there."""
        if wanted == "all":
            has_them = image.is_all
        else:
            asked = [wanted] if isinstance(wanted, Platform) else wanted or ()
            has_them = all(any(it.satisfies(one) for it in image.platforms) for one in asked)
        return (
            has_them
            and image.recipe == self._recipe(image, inject)
            and await self.is_complete(image)
        )

    def _recipe(self, image: PreparedImage, inject: Inject) -> str | None:
        """What the recipe would be today; None where there is a pause program no more."""
        if inject is Inject.ALIAS:
            return ALIAS
        try:
            return recipe(*map(self.pause.read, image.platforms))
        except (UnsupportedPlatformError, InvalidPauseProgramError):
            return None

    @asynccontextmanager
    async def _source(
        self, reference: Reference, credentials: Credentials | None
    ) -> AsyncIterator[Source]:
        if reference.transport:
            async with self._local_source(reference) as local:
                yield local
        elif self._open_source is not None:
            yield PersistentSource(self._open_source(reference, credentials), self._retry)
        else:
            from cdimage.registry import Registry  # noqa: PLC0415 - loads an HTTP client

            async with Registry() as registry:
                yield PersistentSource(registry.open(reference, credentials), self._retry)

    def _local_source(self, reference: Reference) -> AbstractAsyncContextManager[Source]:
        """Where an image comes from that is in no registry."""
        from cdimage.transports import open_local  # noqa: PLC0415 - loads what it opens

        return open_local(reference)

    @asynccontextmanager
    async def _prepared_variants(self, where: Reference) -> AsyncIterator[Held]:
        """What a registry holds prepared, as a source."""
        from cdimage.registry import Registry  # noqa: PLC0415 - loads an HTTP client
        from cdimage.registry.prepared import PreparedRepository  # noqa: PLC0415

        async with Registry() as registry:
            opened = (self._open_source or registry.open)(where, None)
            yield PreparedRepository(PersistentSource(opened, self._retry), where)


async def store_blobs(
    content: ContentStore,
    source: Source,
    preparation: Preparation,
    progress: Tracker,
    *limits: asyncio.Semaphore,
    documents: Sequence[Index | Manifest | Config] | None = None,
) -> None:
    """Store everything of an image but its name, all at the same time.

    Args:
        content: Where to.
        source: Where the layers come from.
        preparation: The image.
        progress: Told what happens to each layer.
        limits: How many layers are fetched at the same time.
        documents: What is stored beside the layers; None is all.
    """
    if documents is None:
        documents = (*preparation.base_documents, *preparation.documents)
    async with one_error() as group:
        for layer in preparation.layers:
            group.create_task(_copy(content, source, layer, progress, *limits))
        for descriptor, data in preparation.pause_layers.items():
            group.create_task(put(content, descriptor, data, {}))
        for document in documents:
            group.create_task(put(content, document.descriptor, document.data, {}))


async def _copy(
    content: ContentStore,
    source: Source,
    layer: Descriptor,
    progress: Tracker,
    *limits: asyncio.Semaphore,
) -> None:
    if await content.exists(layer):
        progress(Progress(layer, State.EXISTS, layer.size, layer.size))
        return
    progress(Progress(layer, State.WAITING, 0))
    await copy_blob(source, content, layer, limits=limits, labels={}, progress=progress)


def _checked_platforms(wanted: Wanted) -> Wanted:
    """What is wanted, or a sentence that says what can be."""
    if wanted is None or wanted == "all" or isinstance(wanted, Platform):
        return wanted
    if isinstance(wanted, list | tuple) and wanted:
        platforms = tuple(one for one in wanted if isinstance(one, Platform))
        if len(platforms) == len(wanted):
            return platforms
    raise InvalidReferenceError(
        f"{wanted!r} does not say which platforms: pass a Platform, several, or 'all'"
    )


def _checked_inject(inject: str) -> Inject:
    try:
        return Inject(inject)
    except ValueError:
        raise InvalidReferenceError(
            f"{inject!r} is no way to inject the pause program: write layer, or alias"
        ) from None


def _is_several(wanted: Wanted) -> bool:
    return wanted is not None and not isinstance(wanted, Platform)


def _always(platform: Platform) -> bool:  # noqa: ARG001 - an alias needs no pause program
    return True


def _ignore(event: Progress) -> None:
    """Nobody asked for progress."""
