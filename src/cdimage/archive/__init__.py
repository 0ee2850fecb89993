"""Images from archive files, streamed: nothing is unpacked to disk."""

from cdimage.archive.source import ArchiveSource, open_archive

__all__ = ["ArchiveSource", "open_archive"]
