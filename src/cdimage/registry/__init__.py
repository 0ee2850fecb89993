"""Registries, as a source of images. The HTTP client is loaded when the first one is asked."""

from cdimage.registry.client import HOSTS_FOLDERS, Registry
from cdimage.registry.repository import Repository

__all__ = ["HOSTS_FOLDERS", "Registry", "Repository"]
