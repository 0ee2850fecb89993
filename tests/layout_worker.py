"""One of many processes on an image layout: ``layout_worker DIR SOURCES SECONDS SEED``.

Pulls, lists, untags and verifies at random. Ends with 1, and a word about it, when it sees a
layout that is broken.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

import cdimage
from cdimage.errors import CdimageError, NotFoundError, UnavailableError


async def work(store: cdimage.LayoutStore, sources: dict[str, Path], seconds: float) -> int:
    """Until the time is over; how much was done."""
    done = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        digest = random.choice(list(sources))
        todo = random.choice(["pull", "pull", "pull", "list", "verify", "verify", "untag"])
        try:
            if todo == "pull":
                await store.pull_image(f"oci:{sources[digest]}", digest)
            elif todo == "list":
                assert set(await store.get_existing_images()) <= set(sources)
            elif todo == "verify":
                found = await cdimage.verify_image(store, digest)
                assert not found.disagreements, "; ".join(map(str, found.disagreements))
            else:
                await store.untag_image(digest)
        except NotFoundError:
            if todo == "pull":
                raise
        except UnavailableError:
            if todo != "verify":  # the image keeps changing, say others who work on it
                raise
        done += 1
    return done


def main() -> int:
    """Work, and say how it went."""
    layout, sources, seconds, seed = sys.argv[1:]
    random.seed(int(seed))
    images = {path.name.replace("-", ":"): path for path in Path(sources).iterdir()}
    try:
        print(asyncio.run(work(cdimage.LayoutStore(layout), images, float(seconds))))
    except (AssertionError, CdimageError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
