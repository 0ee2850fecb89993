"""The requests that a registry must be asked for a prepared image, with cdimage's HTTP library."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import aiohttp
from tests.images import OCI_MANIFEST, Pushed, digest_of

_MANIFEST: Final = {"Accept": OCI_MANIFEST, "Content-Type": OCI_MANIFEST}
_BYTES: Final = {"Content-Type": "application/octet-stream"}


class Requests:
    """A layer put on top of images of one registry, and nothing else: no check, and no record."""

    def __init__(self, repository: str, layer: bytes) -> None:
        """Put this layer there; made within the event loop that it is used in."""
        self._session = aiohttp.ClientSession()
        self._repository = repository
        self._layer = layer

    async def close(self) -> None:
        """End the connections."""
        await self._session.close()

    async def prepare(self, image: Pushed) -> None:
        """What does not wait for an answer is asked at the same time."""
        host, _, rest = image.reference.partition("/")
        name, _, tag = rest.rpartition(":")
        source, target = f"http://{host}/v2/{name}", f"http://{host}/v2/{self._repository}"
        manifest = json.loads(await self._get(f"{source}/manifests/{tag}"))
        url = f"{source}/blobs/{manifest['config']['digest']}"
        mounts = [
            self._ask("POST", f"{target}/blobs/uploads/?mount={it['digest']}&from={name}")
            for it in manifest["layers"]
        ]
        found = await asyncio.gather(self._config(url, target), self._top(target), *mounts)
        manifest["config"] |= _entry(found[0])
        manifest["layers"].append(manifest["layers"][0] | _entry(self._layer))
        data = json.dumps(manifest).encode()
        await self._ask("PUT", f"{target}/manifests/{tag}", data, _MANIFEST)

    async def _config(self, url: str, target: str) -> bytes:
        config = json.loads(await self._get(url))
        config["config"]["Entrypoint"] = ["/pause"]
        config["rootfs"]["diff_ids"].append(digest_of(self._layer))
        data = json.dumps(config).encode()
        await self._upload(target, data)
        return data

    async def _top(self, target: str) -> None:
        async with self._session.head(f"{target}/blobs/{digest_of(self._layer)}") as answer:
            is_there = answer.status == 200
        if not is_there:
            await self._upload(target, self._layer)

    async def _upload(self, target: str, data: bytes) -> None:
        begun = await self._ask("POST", f"{target}/blobs/uploads/")
        await self._ask("PUT", f"{begun['Location']}&digest={digest_of(data)}", data, _BYTES)

    async def _get(self, url: str) -> bytes:
        async with self._session.get(url, headers=_MANIFEST, raise_for_status=True) as answer:
            return await answer.read()

    async def _ask(self, method: str, url: str, data: bytes = b"", headers: Any = None) -> Any:
        async with self._session.request(
            method, url, data=data, headers=headers, raise_for_status=True
        ) as answer:
            return answer.headers


def _entry(data: bytes) -> dict[str, Any]:
    return {"digest": digest_of(data), "size": len(data)}
