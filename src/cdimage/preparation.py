"""What is to be stored of an image: the user's documents, and what was made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cdimage.descriptor import Descriptor, Platform
from cdimage.digest import Digest
from cdimage.image import Config, Index, Manifest
from cdimage.pause import PauseProgram
from cdimage.prepare import ALIAS, Prepared, prepare, prepare_index, recipe
from cdimage.resolve import ResolvedImage


class Inject(StrEnum):
    """How the pause program comes to a container.

    With ``layer`` it is in the image. With ``alias`` the record points at the user's own
    manifest, for runtimes that mount the program from the host and start it themselves.
    """

    LAYER = "layer"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class Variant:
    """One platform of an image: the user's, and what is stored of it."""

    image: ResolvedImage
    prepared: Prepared

    @property
    def platform(self) -> Platform:
        """What it runs on."""
        return self.prepared.config.platform


@dataclass(frozen=True, slots=True)
class Preparation:
    """An image with all that a store has to hold of it.

    Attributes:
        user_digest: The key.
        variants: At least one, in the order of the user's index.
        index: What is registered where several platforms were asked for; None for one.
        recipe: Of the pause programs.
        is_all: Whether these are all the platforms that can be prepared.
    """

    user_digest: Digest
    variants: tuple[Variant, ...]
    index: Index | None
    recipe: str
    is_all: bool

    @property
    def root(self) -> Index | Manifest:
        """What is registered."""
        return self.index or self.variants[0].prepared.manifest

    @property
    def target(self) -> Descriptor:
        """Of what is registered."""
        return self.root.descriptor

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """Of the variants."""
        return tuple(variant.platform for variant in self.variants)

    @property
    def base_documents(self) -> tuple[Index | Manifest | Config, ...]:
        """The user's own, outermost first: with them the image can be prepared again."""
        images = [variant.image for variant in self.variants]
        found: list[Index | Manifest | Config] = [it for image in images for it in image.indexes]
        for image in images:
            found += [image.manifest, image.config]
        return tuple({document.digest: document for document in found}.values())

    @property
    def documents(self) -> tuple[Index | Manifest | Config, ...]:
        """What was made: configs, then manifests, then the index, as they are to be written."""
        prepared = [variant.prepared for variant in self.variants]
        return (
            *(one.config for one in prepared),
            *(one.manifest for one in prepared),
            *([self.index] if self.index else []),
        )

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """Those that come from a source, base first, each once."""
        found = [
            layer
            for variant in self.variants
            for layer in (
                variant.image.manifest if variant.prepared.layer else variant.prepared.manifest
            ).layers
        ]
        return tuple({layer.digest: layer for layer in found}.values())

    @property
    def digests(self) -> set[Digest]:
        """Of everything that a store has to hold."""
        documents = {it.digest for it in (*self.base_documents, *self.documents)}
        return documents | {layer.digest for layer in (*self.layers, *self.pause_layers)}

    @property
    def pause_layers(self) -> dict[Descriptor, bytes]:
        """Those that were made here."""
        return {
            variant.prepared.manifest.layers[-1]: variant.prepared.layer.data
            for variant in self.variants
            if variant.prepared.layer is not None
        }


def make_preparation(
    images: Sequence[ResolvedImage],
    read_pause: Callable[[Platform], PauseProgram],
    *,
    inject: Inject,
    is_index: bool,
    is_all: bool = False,
) -> Preparation:
    """Prepare each image; a pure function but for reading the pause programs.

    Args:
        images: Of one user digest.
        read_pause: The pause program for a platform.
        inject: How it comes to a container.
        is_index: Whether what is registered is an index, where the user's is one.
        is_all: Whether these are all the platforms that can be prepared.

    Raises:
        CdimageError: As `prepare`, and ``read_pause``.
    """
    first = images[0]
    if inject is Inject.ALIAS:
        variants = [
            Variant(image, Prepared(image.manifest, image.config, None)) for image in images
        ]
        made_by = ALIAS
    else:
        pauses = [read_pause(image.config.platform) for image in images]
        variants = [
            Variant(image, prepare(image.manifest, image.config, pause))
            for image, pause in zip(images, pauses, strict=True)
        ]
        made_by = recipe(*pauses)
    index = first.indexes[0] if is_index and first.indexes else None
    if index is not None and inject is Inject.LAYER:
        entries = [(variant.image.entry, variant.prepared) for variant in variants]
        index = prepare_index(index, entries)
    return Preparation(first.user_digest, tuple(variants), index, made_by, is_all)
