"""Verifying a prepared image from the bytes that a store holds, and nothing else.

Every digest, size, diff ID and chain ID is computed anew; what was prepared is prepared again
and compared. All disagreements are reported, not only the first.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cdimage.compression import Decompressor
from cdimage.descriptor import Descriptor, MediaType, Platform
from cdimage.digest import Digest
from cdimage.errors import (
    CdimageError,
    DigestMismatchError,
    InvalidImageError,
    NotFoundError,
    UnavailableError,
)
from cdimage.image import Config, Index, Manifest, chain_ids
from cdimage.layer import PauseLayer, read_pause_layer
from cdimage.load import base_of, user_images
from cdimage.pause import PauseProgram
from cdimage.prepare import ALIAS, Prepared, is_prepared, prepare, prepare_index, recipe
from cdimage.prepared_store import Held, PreparedStore
from cdimage.pull import read
from cdimage.resolve import ResolvedImage, parse_document, read_config
from cdimage.store import PreparedImage

_ATTEMPTS: Final = 3
_PAUSE_LIMIT: Final = 9 << 20
_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Something that is not as it must be.

    Attributes:
        what: Where, as ``linux/amd64 layer 2``.
        expected: What must be there.
        found: What is there.
    """

    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.what}: {self.found}, and not {self.expected}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying an image has shown.

    Attributes:
        user_digest: Of the image.
        blobs: How many blobs were read.
        size: How many bytes they have.
        disagreements: What is wrong; none where all is well.
    """

    user_digest: Digest
    blobs: int
    size: int
    disagreements: tuple[Disagreement, ...]


async def verify_image(store: PreparedStore, user_digest: str) -> Verification:
    """Compute everything about a prepared image anew, from the bytes in its store.

    That the user's documents are those of the user digest; that the user's layers are there, in
    order, and unpack to their diff IDs; that the top layer holds the store's pause program and
    nothing else; that config, manifest and index differ from the user's only where they may.

    Raises:
        InvalidReferenceError: It is not a digest.
        NotFoundError: It is not prepared here, or was untagged meanwhile.
        UnavailableError: The store cannot be reached, or the image keeps changing.
    """
    for _ in range(_ATTEMPTS):
        image = await store.get_image(user_digest)
        async with store.contents() as source:
            found = await _Examination(store, source, image).run()
        if not found.disagreements:
            return found
        # An image that was untagged or prepared anew while we read is not a broken one.
        after = await store.get_image(user_digest)
        if (after.target, after.updated_at) == (image.target, image.updated_at):
            return found
    raise UnavailableError(f"{user_digest} keeps changing while it is verified: try again")


@dataclass
class _Examination:
    """One look at one image."""

    store: PreparedStore
    source: Held
    image: PreparedImage
    wrong: list[Disagreement] = field(default_factory=list)
    diff_ids: dict[Digest, Digest | None] = field(default_factory=dict)
    blobs: int = 0
    size: int = 0

    async def run(self) -> Verification:
        try:
            await self._examine()
        except (NotFoundError, InvalidImageError, DigestMismatchError) as error:
            self._note("the image", "readable", str(error))
        return Verification(self.image.user_digest, self.blobs, self.size, tuple(self.wrong))

    async def _examine(self) -> None:
        bases = await user_images(self.source, self.image)
        root = parse_document(await self._read(self.image.target), self.image.target)
        if isinstance(root, Manifest):
            pairs = [(self._base(bases, await self._config(root), root), root)]
        else:
            pairs = await self._members(root, bases)
        prepared: list[tuple[Mapping[str, Any], Prepared]] = []
        pauses: list[PauseProgram] = []
        platforms: list[Platform] = []
        for base, manifest in pairs:
            config = await self._config(manifest)
            platforms.append(config.platform)
            where = str(config.platform)
            if base is None:
                made_of = base_of(config, manifest)
                self._note(where, "made of the user's image", f"made of {made_of}")
                continue
            pause = await self._variant(where, base, manifest, config)
            pauses += [pause] if pause else []
            prepared.append((base.entry, Prepared(manifest, config, None)))
        if isinstance(root, Index):
            self._index(root, bases, prepared)
        await self._record(platforms, pauses)

    async def _members(
        self, index: Index, bases: Mapping[Digest, ResolvedImage]
    ) -> list[tuple[ResolvedImage | None, Manifest]]:
        pairs: list[tuple[ResolvedImage | None, Manifest]] = []
        for entry in index.manifests:
            try:
                document = parse_document(await self._read(entry), entry)
            except NotFoundError:
                if self.image.recipe == ALIAS:
                    continue  # of a platform that was not asked for
                raise
            if isinstance(document, Manifest):
                config = await self._config(document)
                pairs.append((self._base(bases, config, document), document))
        return pairs

    @staticmethod
    def _base(
        bases: Mapping[Digest, ResolvedImage], config: Config, manifest: Manifest
    ) -> ResolvedImage | None:
        return bases.get(manifest.digest) or bases.get(base_of(config, manifest))

    # One platform.

    async def _variant(
        self, where: str, base: ResolvedImage, manifest: Manifest, config: Config
    ) -> PauseProgram | None:
        """Compare a prepared manifest with the user's; the pause program that is in it."""
        layers, theirs = manifest.json.get("layers") or [], base.manifest.json.get("layers") or []
        await self._layers(where, manifest, config)
        if manifest.digest == base.manifest.digest:
            if self.image.recipe != ALIAS and not is_prepared(config):
                self._note(where, "a pause layer on top", "the user's own image")
            return None
        for number, entry in enumerate(theirs):
            found = layers[number] if number < len(layers) else None
            if found != entry:
                self._note(f"{where} layer {number}", f"the user's {_short(entry)}", _short(found))
        if len(layers) != len(theirs) + 1:
            self._note(where, f"{len(theirs) + 1} layers", f"{len(layers)} layers")
            return None
        pause = await self._pause_program(where, manifest.layers[-1], config)
        if pause is not None:
            self._compare(where, prepare(base.manifest, base.config, pause), manifest, config)
        return pause

    def _compare(self, where: str, wanted: Prepared, manifest: Manifest, config: Config) -> None:
        """Config and manifest must be, to the byte, what preparing makes of the base."""
        if wanted.config.data != config.data:
            self._differences(f"{where} config", wanted.config.json, config.json)
        if wanted.manifest.data != manifest.data:
            self._differences(f"{where} manifest", wanted.manifest.json, manifest.json)

    def _differences(self, where: str, wanted: Any, found: Any) -> None:
        """Note each field that differs; the same fields in other bytes differ as a whole."""
        before = len(self.wrong)
        self._compare_fields(where, wanted, found)
        if len(self.wrong) == before:
            self._note(where, "the bytes that preparing makes", "the same fields in other bytes")

    def _compare_fields(self, where: str, wanted: Any, found: Any) -> None:
        if isinstance(wanted, dict) and isinstance(found, dict):
            for key in {**wanted, **found}:
                self._compare_fields(f"{where}.{key}", wanted.get(key), found.get(key))
        elif wanted != found:
            self._note(where, _short(wanted), _short(found))

    async def _pause_program(
        self, where: str, layer: Descriptor, config: Config
    ) -> PauseProgram | None:
        where, platform = f"{where} top layer", config.platform
        if layer.size > _PAUSE_LIMIT:
            self._note(where, "a pause program", f"{layer.size} bytes")
            return None
        try:
            data = await read(self.source, layer)
            program = read_pause_layer(PauseLayer(data), platform.os)
        except CdimageError as error:
            self._note(where, "the pause program and nothing else", str(error))
            return None
        pause = PauseProgram(Platform(platform.os, platform.architecture), program)
        try:
            ours = self.store.pause.read(platform).digest
        except CdimageError as error:
            self._note(where, "a pause program of this store's", str(error))
            return pause
        if pause.digest != ours:
            self._note(where, f"the pause program {ours}", f"{pause.digest}: pull again")
        if not layer.media_type.endswith(".tar"):
            self._note(where, "an uncompressed layer", layer.media_type)
        return pause

    async def _layers(self, where: str, manifest: Manifest, config: Config) -> None:
        """Read every layer: digest, size, and what it unpacks to."""
        if len(manifest.layers) != len(config.diff_ids):
            self._note(where, f"{len(manifest.layers)} diff IDs", f"{len(config.diff_ids)}")
        for number, layer in enumerate(manifest.layers):
            if layer.digest not in self.diff_ids:
                self.diff_ids[layer.digest] = await self._unpack(f"{where} layer {number}", layer)
            actual = self.diff_ids[layer.digest]
            wanted = config.diff_ids[number] if number < len(config.diff_ids) else None
            if actual is not None and wanted is not None and actual != wanted:
                self._note(f"{where} layer {number}", f"diff ID {wanted}", f"unpacks to {actual}")
        self._chain_id(where, config)

    def _chain_id(self, where: str, config: Config) -> None:
        """The snapshots that the record names must be of this image, or of another platform's."""
        chain = chain_ids(config.diff_ids)
        if len(self.image.platforms) == 1 and chain:
            for snapshotter, name in self.image.snapshots.items():
                if name != str(chain[-1]):
                    self._note(f"{where} snapshot in {snapshotter}", str(chain[-1]), name)

    async def _unpack(self, where: str, layer: Descriptor) -> Digest | None:
        """The diff ID of a layer; None where it is not held or is broken."""
        digest, unpacked, size = hashlib.new(layer.digest.algorithm), hashlib.sha256(), 0
        reader = Decompressor()

        def take(chunk: bytes) -> None:
            digest.update(chunk)
            for piece in reader.decompress(chunk):
                unpacked.update(piece)

        try:
            async with self.source.fetch(replace(layer, data=None)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    await asyncio.to_thread(take, chunk)
            reader.finish()
        except NotFoundError as error:
            if not (MediaType.is_foreign(layer.media_type) and layer.urls):
                self._note(where, str(layer.digest), str(error))
            return None
        except InvalidImageError as error:
            self._note(where, "a layer that can be unpacked", str(error))
            return None
        self.blobs, self.size = self.blobs + 1, self.size + size
        actual = Digest(layer.digest.algorithm, digest.hexdigest())
        if actual != layer.digest or size != layer.size:
            expected = f"{layer.digest} of {layer.size} bytes"
            self._note(where, expected, f"{actual} of {size} bytes")
            return None
        return Digest("sha256", unpacked.hexdigest())

    # All of it.

    def _index(
        self,
        index: Index,
        bases: Mapping[Digest, ResolvedImage],
        prepared: list[tuple[Mapping[str, Any], Prepared]],
    ) -> None:
        root = next((base.indexes[0] for base in bases.values() if base.indexes), None)
        if self.image.recipe == ALIAS:
            if index.digest != self.image.user_digest:
                self._note("the index", str(self.image.user_digest), str(index.digest))
        elif root is None:
            self._note("the index", "an index of the user's", "none")
        else:
            wanted = prepare_index(root, prepared)
            if wanted.data != index.data:
                self._differences("the index", wanted.json, index.json)

    async def _record(self, platforms: list[Platform], pauses: list[PauseProgram]) -> None:
        image = self.image
        if [str(it) for it in platforms] != [str(it) for it in image.platforms]:
            found = ", ".join(map(str, image.platforms))
            self._note("the record", ", ".join(map(str, platforms)), found)
        wanted = ALIAS if image.recipe == ALIAS else recipe(*pauses)
        if pauses and image.recipe != wanted:
            self._note("the record's recipe", wanted, image.recipe or "none")
        if not await self.store.is_complete(image):
            self._note("the record", "everything behind it", "a snapshot or a blob is missing")

    async def _config(self, manifest: Manifest) -> Config:
        return await read_config(self.source, manifest)

    async def _read(self, descriptor: Descriptor) -> bytes:
        data = await read(self.source, replace(descriptor, data=None))
        self.blobs, self.size = self.blobs + 1, self.size + len(data)
        return data

    def _note(self, what: str, expected: str, found: str) -> None:
        self.wrong.append(Disagreement(what, expected, found))


def _short(value: object) -> str:
    digest = value.get("digest") if isinstance(value, dict) else None
    text = str(digest) if digest else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
