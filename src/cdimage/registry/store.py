"""The store of prepared images in a registry: a fleet prepares once, and pulls."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from cdimage.descriptor import MediaType, Platform
from cdimage.digest import Digest
from cdimage.errors import (
    BackendError,
    CdimageError,
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
)
from cdimage.image import Config, Index, Manifest, dump_json, optional_object
from cdimage.notes import ALL_PLATFORMS, RECIPE, platforms_in
from cdimage.pause import PauseBinaries
from cdimage.preparation import Inject, Preparation
from cdimage.prepared_store import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TOTAL_CONCURRENCY,
    Held,
    OpenSource,
    Order,
    PreparedStore,
    store_blobs,
)
from cdimage.pull import Tracker, one_error, put
from cdimage.reference import Reference
from cdimage.registry.client import Registry
from cdimage.registry.content import RegistryContent
from cdimage.registry.credentials import Credentials
from cdimage.registry.failure import checked, read_bounded
from cdimage.registry.prepared import (
    CREATED,
    EMPTY,
    REPLACED,
    BaseRepository,
    base_artifact,
    base_tag_of,
    read_artifact,
    tag_of,
)
from cdimage.registry.repository import Repository
from cdimage.resolve import parse_document
from cdimage.retry import PersistentSource, Retry, persistently
from cdimage.store import PreparedImage, Source

_PAGE: Final = 1000
_PAGE_LIMIT: Final = 8 << 20
_NEXT: Final = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_AT_ONCE: Final = 8


class RegistryStore(PreparedStore):
    """An `ImageStore` in a registry: ``HOST/PREFIX:<hex of the user's digest>``.

    Of an image that is in the same registry, blobs are mounted: only the pause layer, a config
    and a manifest move. Those of others are copied. Workers pull what is prepared as any image, or
    are told to look here (``prepared_registry=`` of the other stores).

    Args:
        repository: ``HOST/PREFIX``.
        registry: Speaks to it, and to the users' registries; the caller closes it.
        credentials: For this repository; None is those that this machine keeps.
        pause: As for `cdimage.Store`.
        open_source: As for `cdimage.Store`.
        concurrency: As for `cdimage.Store`.
        total_concurrency: As for `cdimage.Store`.
        retry: As for `cdimage.Store`.

    Raises:
        InvalidReferenceError: It is not the name of a repository.
    """

    def __init__(
        self,
        repository: str,
        registry: Registry,
        *,
        credentials: Credentials | None = None,
        pause: PauseBinaries | None = None,
        open_source: OpenSource | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        total_concurrency: int = DEFAULT_TOTAL_CONCURRENCY,
        retry: Retry | None = None,
    ) -> None:
        super().__init__(
            pause=pause,
            open_source=open_source or registry.open,
            prepared_registry=None,
            concurrency=concurrency,
            total_concurrency=total_concurrency,
            retry=retry,
        )
        self._reference = Reference.parse(repository)
        if not self._reference.is_bare or self._reference.transport:
            raise InvalidReferenceError(
                f"{repository!r} must be HOST/PREFIX, without tag or digest"
            )
        self._repository: Repository = registry.open(self._reference, credentials)
        self._reading = PersistentSource(self._repository, self._retry)

    @property
    def name(self) -> str:
        """As ``registry.example/prepared``."""
        return self._reference.name

    @property
    def place(self) -> Reference:
        """The repository: what is copied from it may be mounted."""
        return self._reference

    async def get_existing_images(self) -> list[str]:
        """The user digests of the prepared images that are here, sorted; one request.

        Raises:
            BackendError: The registry cannot list.
            UnavailableError: It cannot be reached.
        """
        found = [_user_digest(tag) for tag in await self._tags()]
        return sorted(str(digest) for digest in found if digest is not None)

    async def list_images(self) -> list[PreparedImage]:
        """The prepared images that are here, those that were prepared last first.

        Raises:
            BackendError: The registry cannot list.
            UnavailableError: It cannot be reached.
        """
        limit = asyncio.Semaphore(_AT_ONCE)

        async def find(text: str) -> PreparedImage | None:
            async with limit:
                return await self.find_image(Digest.parse(text))

        digests = await self.get_existing_images()
        async with one_error() as group:
            tasks = [group.create_task(find(digest)) for digest in digests]
        found = [image for task in tasks if (image := task.result()) is not None]
        return sorted(found, key=lambda image: str(image.updated_at), reverse=True)

    async def untag_image(self, user_digest: str) -> None:
        """Drop a prepared image. Idempotent.

        Its disk space is free when the registry has next collected its garbage.

        Raises:
            InvalidReferenceError: It is not a digest.
            BackendError: The registry does not delete; nothing was changed.
            UnavailableError: It cannot be reached.
        """
        digest = Digest.parse(user_digest)
        content = RegistryContent(self._repository, self._retry)
        unused: set[Digest] = set()
        with suppress(NotFoundError):
            unused |= await self._named(tag_of(digest))
            await self._delete_tag(content, tag_of(digest))
        with suppress(NotFoundError):
            artifact, value = await read_artifact(self._reading, self._reference, digest)
            unused |= _replaced(value)
            await content.delete_manifest(str(artifact.digest))
        if unused:
            for one in unused - await self._used(unused):
                await content.delete_manifest(str(one))

    async def _delete_tag(self, content: RegistryContent, tag: str) -> None:
        """Delete a tag, and leave others of the same manifest.

        Where tags cannot be deleted, it is first made to name a manifest of its own.
        """
        if await content.delete_manifest(tag):
            return
        await put(content, EMPTY, b"{}", {})
        value = {
            "schemaVersion": 2,
            "mediaType": MediaType.OCI_MANIFEST,
            "config": {
                "mediaType": EMPTY.media_type,
                "digest": str(EMPTY.digest),
                "size": EMPTY.size,
            },
            "layers": [],
            "annotations": {"hpcc.dev/untagged": tag},
        }
        own = Manifest(dump_json(value), MediaType.OCI_MANIFEST)
        await content.put_manifest(own)
        if not await content.delete_manifest(str(own.digest)):
            raise BackendError(
                f"{self.name}:{tag} cannot be untagged: the registry does not delete; "
                "nothing was changed (of the registry's own settings, see storage.delete.enabled)"
            )
        await content.put_manifest(own, tag)
        await content.delete_manifest(str(own.digest))

    async def _named(self, tag: str) -> set[Digest]:
        """What a tag names: a manifest, or an index and its manifests.

        Raises:
            NotFoundError: There is no such tag.
        """
        found = await self._reading.resolve(self._at(tag))
        named = {found.digest}
        with suppress(InvalidImageError):  # somebody's artifact, or what an untagging has left
            document = parse_document(found.data or b"", found)
            named |= (
                {it.digest for it in document.manifests} if isinstance(document, Index) else set()
            )
        return named

    async def _used(self, manifests: set[Digest]) -> set[Digest]:
        """Those of the manifests that a prepared image needs; all, where nobody can tell."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def named(tag: str) -> set[Digest]:
            async with limit:
                with suppress(NotFoundError):
                    return await self._named(tag)
                return set()

        try:
            tags = [tag for tag in await self._tags() if _user_digest(tag)]
        except BackendError:
            return manifests
        return set().union(*await asyncio.gather(*map(named, tags)))

    @asynccontextmanager
    async def contents(self) -> AsyncIterator[Held]:
        """What is here, as a source."""
        yield BaseRepository(self._reading, self._reference)

    async def add_image(self, preparation: Preparation, source: Source, order: Order) -> None:
        """Push all of an image, and its tag last.

        Cancelled, it leaves blobs that nothing refers to: the next call finds them, or the
        registry collects them.
        """
        if preparation.index is not None and order.inject is Inject.ALIAS:
            raise InvalidReferenceError(
                "a registry does not take an index without all that it lists: "
                "ask for an alias of one platform"
            )
        named, tracker = order.named, Tracker(order.progress)
        is_near = not named.transport and named.registry == self._reference.registry
        configs = {it.digest for it in preparation.base_documents if isinstance(it, Config)}
        content = RegistryContent(
            self._repository,
            self._retry,
            named.repository if is_near else None,
            {layer.digest for layer in preparation.layers} | configs,
        )
        blobs = [it for it in preparation.documents if isinstance(it, Config)]
        async with one_error() as group:
            group.create_task(put(content, EMPTY, b"{}", {}))
            await store_blobs(
                content,
                source,
                preparation,
                tracker,
                asyncio.Semaphore(self._concurrency),
                self._slots,
                documents=[*preparation.base_documents, *blobs],
            )
        digest = preparation.user_digest
        replaced, stale = await self._replaced(order.before, preparation)
        with _explaining(preparation):
            for document in preparation.documents:
                if isinstance(document, Index | Manifest) and document is not preparation.root:
                    await content.put_manifest(document)
            await content.put_manifest(base_artifact(preparation, replaced), base_tag_of(digest))
            await content.put_manifest(preparation.root, tag_of(digest))
        if stale is not None:
            await content.delete_manifest(str(stale))
        tracker.finish()

    async def _replaced(
        self, before: PreparedImage | None, now: Preparation
    ) -> tuple[set[Digest], Digest | None]:
        """The manifests of what was prepared before, and its artifact."""
        found: set[Digest] = set()
        kept = {document.digest for document in now.documents}
        if before is None:
            return found, None
        with suppress(NotFoundError):
            found |= await self._named(tag_of(now.user_digest))
            artifact, value = await read_artifact(self._reading, self._reference, now.user_digest)
            found |= _replaced(value)
            return found - kept, artifact.digest
        return found - kept, None

    async def find_image(self, digest: Digest) -> PreparedImage | None:
        """The prepared image of that user digest; None when there is none."""
        try:
            target = await self._reading.resolve(self._at(tag_of(digest)))
        except NotFoundError:
            return None
        try:
            _, value = await read_artifact(self._reading, self._reference, digest)
        except NotFoundError:
            value = {}
        notes = value.get("annotations") or {}
        is_ours = (value.get("subject") or {}).get("digest") == str(target.digest)
        created = notes.get(CREATED)
        return PreparedImage(
            user_digest=digest,
            name=f"{self.name}:{tag_of(digest)}",
            target=replace(target, data=None),
            platforms=platforms_in(notes),
            recipe=notes.get(RECIPE, "") if is_ours else "",
            is_all=ALL_PLATFORMS in notes,
            updated_at=datetime.fromisoformat(created) if isinstance(created, str) else None,
        )

    async def _default_platform(self) -> Platform:
        return Platform.of_this_machine()

    def _at(self, tag: str) -> Reference:
        return replace(self._reference, tag=tag)

    async def _tags(self) -> list[str]:
        """All tags, page by page; none where the repository does not exist yet."""
        path, found = f"tags/list?n={_PAGE}", list[str]()
        while path:
            what = f"the list of tags of {self.name}"
            ask = partial(self._repository.request, "GET", path, what)
            response = await persistently(self._retry, ask)
            if response.status == 404:
                response.release()
                return found
            if response.status in {400, 405, 501}:
                response.release()
                raise BackendError(f"{what} cannot be read: the registry does not list")
            async with await checked(response, what):
                data = await read_bounded(response, _PAGE_LIMIT, what)
                following = _NEXT.search(response.headers.get("Link", ""))
            try:
                found += [str(tag) for tag in json.loads(data).get("tags") or []]
            except (ValueError, AttributeError, TypeError) as error:
                raise BackendError(f"{what} cannot be read: it is not a list") from error
            path = f"tags/list?{urlsplit(following[1]).query}" if following else ""
        return found


@contextmanager
def _explaining(preparation: Preparation) -> Iterator[None]:
    """Say what may be the matter with a registry that does not take a manifest."""
    try:
        yield
    except CdimageError as error:
        if any(MediaType.is_foreign(layer.media_type) for layer in preparation.layers):
            error.args = (
                f"{error} (the image has foreign layers, which a registry takes only if it is told "
                "to: see validation.manifests.urls of its settings)",
            )
        raise


def _user_digest(tag: str) -> Digest | None:
    """What a tag was made from; None for another kind of tag."""
    for algorithm, length in (("sha256", 64), ("sha512", 128)):
        if len(tag) == length:
            try:
                return Digest.parse(f"{algorithm}:{tag}")
            except CdimageError:
                return None
    return None


def _replaced(artifact: Mapping[str, Any]) -> set[Digest]:
    text = optional_object(artifact, "annotations").get(REPLACED)
    with suppress(InvalidReferenceError):
        return set(map(Digest.parse, str(text or "").split()))
    return set()
