"""Prepared images in a registry: what is beside them, and reading it.

Beside ``HOST/PREFIX:<hex>``, the prepared image, there is ``HOST/PREFIX:base-<hex>``, an artifact
(image-spec v1.1.0, ``manifest.md``, "Guidelines for Artifact Usage") whose layers are the user's
own documents: so a worker sees by itself that the image is the user's and our layer on top.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from cdimage.descriptor import Descriptor, MediaType, text_field
from cdimage.digest import Digest
from cdimage.errors import DigestMismatchError, InvalidImageError, NotFoundError
from cdimage.image import Manifest, dump_json, optional_object, parse_json
from cdimage.notes import notes_of
from cdimage.preparation import Preparation
from cdimage.pull import read
from cdimage.reference import Reference
from cdimage.store import Source

REPLACED: Final = "hpcc.dev/replaced"
CREATED: Final = "org.opencontainers.image.created"
EMPTY: Final = Descriptor.of("application/vnd.oci.empty.v1+json", b"{}")

_ARTIFACT: Final = "application/vnd.cdimage.base.v1"
_DOCUMENT: Final = "application/vnd.cdimage.base.document.v1"
_MEDIA_TYPE: Final = "hpcc.dev/media-type"
_TAG_LIMIT: Final = 128


def tag_of(user_digest: Digest) -> str:
    """The tag of a prepared image."""
    return user_digest.hex


def base_tag_of(user_digest: Digest) -> str:
    """The tag of the user's documents."""
    return f"base-{user_digest.hex}"[:_TAG_LIMIT]


def base_artifact(preparation: Preparation, replaced: Collection[Digest]) -> Manifest:
    """The artifact that keeps the user's documents, and says how the image was prepared.

    Args:
        preparation: The image.
        replaced: Manifests that it was before, and that nobody may need any more.
    """
    documents = preparation.base_documents
    value = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_MANIFEST,
        "artifactType": _ARTIFACT,
        "config": _entry(EMPTY),
        # Registries look for manifests elsewhere than for blobs, which these are here.
        "layers": [
            {
                **_entry(replace(document.descriptor, media_type=_DOCUMENT)),
                "annotations": {_MEDIA_TYPE: document.media_type},
            }
            for document in documents
        ],
        "subject": _entry(preparation.target),
        "annotations": {
            **notes_of(preparation),
            **({REPLACED: " ".join(map(str, sorted(replaced)))} if replaced else {}),
            CREATED: datetime.now(UTC).isoformat(timespec="microseconds"),
        },
    }
    return Manifest(dump_json(value), MediaType.OCI_MANIFEST)


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


async def read_artifact(
    source: Source, repository: Reference, user_digest: Digest
) -> tuple[Descriptor, Mapping[str, Any]]:
    """The artifact beside a prepared image, and its JSON object.

    Raises:
        NotFoundError: There is none.
    """
    found = await source.resolve(replace(repository, tag=base_tag_of(user_digest)))
    value = parse_json(await read(source, found), "artifact")
    if value.get("artifactType") != _ARTIFACT:
        raise NotFoundError(f"{repository.name} has another artifact for {user_digest}")
    return found, value


class BaseRepository:
    """The users' images that were prepared in a registry, as a source: by digest."""

    def __init__(self, source: Source, repository: Reference) -> None:
        self._source = source
        self._repository = repository
        self._documents: dict[Digest, Descriptor] = {}

    @property
    def name(self) -> str:
        """The repository's."""
        return self._source.name

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find a user's manifest or index that was prepared here.

        Raises:
            NotFoundError: It was not.
        """
        if reference.digest is None:
            raise NotFoundError(f"{self.name} is asked by digest, and {reference} has none")
        _, value = await read_artifact(self._source, self._repository, reference.digest)
        artifact = Manifest(dump_json(value), MediaType.OCI_MANIFEST)
        for entry, layer in zip(value.get("layers") or [], artifact.layers, strict=True):
            kind = text_field(optional_object(entry, "annotations"), _MEDIA_TYPE)
            self._documents[layer.digest] = replace(layer, media_type=kind)
        found = self._documents.get(reference.digest)
        if found is None:
            raise NotFoundError(f"{self.name} does not hold the documents of {reference.digest}")
        return replace(found, data=await read(self, found))

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob, or one of the users' documents, from ``offset`` to its end."""
        if descriptor.digest in self._documents:
            descriptor = replace(descriptor, media_type=_DOCUMENT, data=None)
        async with self._source.fetch(descriptor, offset) as chunks:
            yield chunks

    async def check(self, preparation: Preparation) -> None:
        """That a layer is missing is seen when it is read."""


class PreparedRepository(BaseRepository):
    """A registry that images were prepared in, believed only as far as can be seen.

    Its users' documents are those that the user digest names. What is registered there must be,
    to the byte, what is made of them here: the user's layers in their order, our layer on top, and
    nothing else.
    """

    async def check(self, preparation: Preparation) -> None:
        """See whether what is prepared there is what is prepared here.

        Raises:
            NotFoundError: Nothing is.
            DigestMismatchError: It is something else.
        """
        digest, target = preparation.user_digest, preparation.target.digest
        named = replace(self._repository, tag=tag_of(digest))
        try:
            found = await self._source.resolve(named)
        except InvalidImageError as error:
            raise NotFoundError(f"{named} is not an image: {error}") from None
        if found.digest != target:
            raise DigestMismatchError(
                f"{named} is {found.digest}, and not {target}, which is made of {digest} here",
                expected=str(target),
                actual=str(found.digest),
            )
