"""What can go wrong between a registry and a pull, and what the pull then does.

``python -m tests.fault_cases`` writes `docs/reliability.md` from this table; the tests see to it
that each line of it is what happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdimage.errors import (
    BackendError,
    CdimageError,
    DigestMismatchError,
    InvalidImageError,
    UnavailableError,
)
from tests import faults
from tests.faults import Act, Fault, altered, cut, refuse, stall
from tests.tools import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = ROOT / "docs" / "reliability.md"

_HEAD = """\
# Reliability

What a pull does when the way to the registry is bad. Made from the table of cases that the tests
run (`tests/fault_cases.py`), each with a real containerd and a real registry behind a proxy that
breaks things: after every one of them, each committed blob was read back and hashed, a pull that
failed had left no name, and the next pull, without the fault, succeeded.

| What goes wrong | What the pull does |
|---|---|
"""


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    Attributes:
        what: In words.
        faults: How it is done.
        error: What the pull raises; None when it succeeds.
        says: A part of the message.
        how: In words, how it succeeds or what the error is like.
        token_uses: How many requests a token is good for; None without tokens.
    """

    what: str
    faults: Sequence[tuple[str, Act, int | None]]
    error: type[CdimageError] | None = None
    says: str = ""
    how: str = ""
    token_uses: int | None = None


def case(
    what: str,
    *done: tuple[str, Act, int | None],
    error: type[CdimageError] | None = None,
    says: str = "",
    how: str = "",
    token_uses: int | None = None,
) -> Case:
    return Case(what, done, error, says, how, token_uses)


CUT = ("layers", cut(700_000), 1)

CASES = (
    case("the connection is cut in the middle of a layer, again and again",
         ("layers", cut(700_000), None), how="goes on from the bytes that arrived"),
    case("the connection is cut before the first byte, twice", ("layers", cut(0), 2),
         how="asks again"),
    case("the connection is cut before the first byte, every time", ("layers", cut(0), None),
         error=UnavailableError, says="broke before the end"),
    case("the connection is closed without an answer, twice", ("layers", faults.hang_up, 2),
         how="asks again"),
    case("the connection is closed without an answer to any request for a manifest",
         ("manifests", faults.hang_up, None), error=UnavailableError, says="closed the connection"),
    case("the connection stands still in the middle of a layer", ("layers", stall(700_000), 1),
         how="leaves it after the time-out, and goes on from the bytes that arrived"),
    case("every connection stands still before the first byte", ("layers", stall(0), None),
         error=UnavailableError, says="did not answer in time"),
    *(case(f"status {status}, twice, for a layer", ("layers", refuse(status), 2), how="asks again")
      for status in (429, 500, 502, 503)),
    *(case(f"status {status} with `Retry-After: 1`, for the manifest",
           ("manifests", refuse(status, "1"), 1), how="waits as long as it was asked to")
      for status in (429, 503)),
    *(case(f"status {status}, every time", ("layers", refuse(status), None),
           error=UnavailableError, says=f"answered with status {status}")
      for status in (429, 500, 502, 503)),
    case("status 429 with `Retry-After: 3600`", ("layers", refuse(429, "3600"), None),
         error=UnavailableError, says="try again in 3600 seconds",
         how="at once, with the time in `retry_after`"),
    case("ranges are ignored", CUT, ("layers", faults.ignore_range, None),
         how="skips the bytes that it has"),
    case("`Content-Range` names another range", CUT,
         ("layers", altered(content_range="bytes 0-9/10"), 1), how="asks again without a range"),
    case("`Content-Range` names another range, every time, asked for or not", CUT,
         ("layers", altered(content_range="bytes 7-9/10", status=206), None),
         error=BackendError, says="begins at another byte"),
    case("a range is answered with other bytes than it says", CUT,
         ("layers", altered(flip_at=10), 1), how="throws the layer away and fetches it again"),
    case("`Content-Length` is larger than what comes", ("layers", altered(700_000), 1),
         how="goes on from the bytes that arrived"),
    case("`Content-Length` is smaller than the layer",
         ("layers", altered(700_000, content_length="700000"), 1),
         how="asks for the rest"),
    case("`Docker-Content-Digest` is of something else",
         ("manifests", altered(docker_content_digest="sha256:" + "0" * 64), None),
         error=DigestMismatchError, says="has the digest"),
    case("one bit of a layer is turned, once", ("layers", altered(flip_at=500_000), 1),
         how="throws the layer away and fetches it again"),
    case("one bit of a layer is turned, every time", ("layers", altered(flip_at=500_000), None),
         error=DigestMismatchError, says="have the digest"),
    case("one bit of the manifest is turned",
         ("manifests", altered(flip_at=40, docker_content_digest=None), None),
         error=DigestMismatchError, says="not the expected"),
    case("a layer has no end", ("layers", faults.endless, None),
         error=DigestMismatchError, says="more than the", how="as soon as it is too long"),
    case("the manifest has no end", ("manifests", faults.endless, None),
         error=BackendError, says="sent more than", how="after 4 MiB"),
    case("layers are redirected to another host", ("layers", faults.redirect_to_peer, None),
         how="follows; that host sees no `Authorization`", token_uses=9),
    case("redirects lead in circles", ("layers", faults.redirect_in_circles, None),
         error=BackendError, says="redirects in circles"),
    case("tokens expire in the middle", ("layers", cut(700_000), None),
         how="gets new ones", token_uses=2),
    case("the token service is busy, twice", ("token", refuse(503), 2), how="asks again",
         token_uses=9),
    case("the token service is down", ("token", refuse(503), None),
         error=UnavailableError, says="a token for", token_uses=9),
    case("a page for people comes in place of a layer", ("layers", faults.portal, None),
         error=DigestMismatchError, says="instead of the"),
    case("a page for people comes in place of the manifest", ("manifests", faults.portal, None),
         error=InvalidImageError, says="JSON"),
    case("what comes is not HTTP", ("layers", faults.babble, None),
         error=BackendError, says="is not HTTP"),
)  # fmt: skip


_TROUBLE = "tests/integration/test_trouble.py"

SURVIVED = (
    ("the process that pulls is killed, at 100 random moments",
     "no name without all that is behind it; the next pull goes on, and both together fetch "
     "at most 1.2 times the image; after `untag` and the end of the lease nothing is left",
     _TROUBLE, "test_a_killed_pull_is_continued_by_the_next_one"),
    ("containerd is killed at 20 random moments, and started again",
     "the same, and no record of anybody's is lost",
     _TROUBLE, "test_a_daemon_that_is_killed_loses_no_record_and_the_next_pull_goes_on"),
    ("containerd's disk is full",
     "fails: `UnavailableError`; with space again, the next pull goes on from what arrived",
     _TROUBLE, "test_a_full_disk_is_told_and_the_next_pull_goes_on"),
    ("64 callers in 8 processes ask for one digest", "the registry sends each blob once",
     _TROUBLE, "test_sixty_four_callers_in_eight_processes_fetch_each_blob_once"),
    ("20 images that share a base are asked for at once", "the registry sends each blob once",
     "tests/cli/test_pulling_many.py",
     "test_twenty_images_that_share_a_base_cost_each_distinct_blob_once"),
    ("`ctr image pull` pulls the same image at the same time", "the registry sends each blob once",
     _TROUBLE, "test_beside_containerds_own_client_each_layer_is_fetched_once"),
    ("one of two processes that pull the same is killed",
     "the other takes over from the bytes that are there",
     _TROUBLE, "test_a_waiter_takes_over_from_a_leader_that_dies"),
    ("an image has 5 GB", "a process needs at most 100 MB, and no more than for a small image",
     "tests/integration/test_memory.py",
     "test_a_large_image_needs_no_more_memory_than_a_small_one"),
    ("Ctrl-C, at any moment, or while containerd hangs", "is answered within a second",
     "tests/cli/test_pulling_many.py", "test_ctrl_c_is_answered_though_the_daemon_hangs"),
)  # fmt: skip
"""What happens to processes and disks: in words, with what is seen, and the test that sees it."""

_CROWDS = "tests/integration/test_layout_crowds.py"
_FLEET = "tests/integration/test_prepared_in_a_registry.py"

WITHOUT_DAEMON = (
    ("8 processes pull, list, untag and verify in one image layout, for a minute",
     "no one sees a broken image; with all untagged, nothing is left",
     _CROWDS, "test_many_processes_never_see_a_broken_layout_and_leave_nothing"),
    ("processes on a layout are killed at 50 random moments",
     "what is named is whole; with all untagged and the leases over, nothing is left",
     _CROWDS, "test_killed_at_random_processes_leave_a_layout_that_is_whole"),
    ("a registry that images are prepared in is busy (429, 503)", "is asked again",
     _FLEET, "test_a_registry_that_is_busy_is_asked_again"),
    ("it fails in an upload, or refuses a manifest",
     "fails, and nothing is named; the next call succeeds",
     _FLEET, "test_a_registry_that_fails_leaves_no_name_and_the_next_pull_succeeds"),
    ("it cannot mount, cannot list, or deletes no tags",
     "blobs are copied; listing says so; tags are taken off by way of a manifest of their own",
     _FLEET, "test_a_registry_that_cannot_do_everything_will_do"),
    ("it deletes nothing", "untagging says so, and changes nothing",
     _FLEET, "test_a_registry_that_does_not_delete_says_so_and_loses_nothing"),
    ("what it holds under a prepared name is something else",
     "is not taken; the worker prepares by itself, and says so",
     _FLEET, "test_what_is_prepared_there_is_believed_only_if_it_is_the_users_image"),
    ("an archive means harm (paths that climb, links, devices, holes, bombs, endless headers)",
     "is refused in one sentence, with little memory, and nothing is written",
     "tests/unit/test_archive_malicious.py", "test_members_that_no_image_has_are_refused"),
    ("a layout means harm (links, pipes, holes, sizes that lie, a million entries)",
     "is refused in one sentence, and nothing is written outside",
     "tests/unit/test_layout_malicious.py", "test_it_is_refused_in_one_sentence"),
)  # fmt: skip
"""The same for the stores that need no daemon, and for archives."""

_SURVIVED_HEAD = """
## Processes and disks

`make test` does a part of the rounds, `make soak` all of them.

| What happens | What is seen |
|---|---|
"""


_WITHOUT_DAEMON_HEAD = """
## Without a daemon

| What happens | What is seen |
|---|---|
"""


def page() -> str:
    """The document."""
    cases = "".join(f"| {case.what} | {_outcome(case)} |\n" for case in CASES)
    survived, others = (
        "".join(f"| {what} | {seen} |\n" for what, seen, _, _ in rows)
        for rows in (SURVIVED, WITHOUT_DAEMON)
    )
    return _HEAD + cases + _SURVIVED_HEAD + survived + _WITHOUT_DAEMON_HEAD + others


def _outcome(case: Case) -> str:
    if case.error is None:
        return f"succeeds: {case.how}"
    how = f", {case.how}" if case.how else ""
    return f"fails{how}: `{case.error.__name__}`, “… {case.says} …”"


def faults_of(case: Case) -> list[Fault]:
    """Faults for one run of a case."""
    return [Fault(kind, act, times) for kind, act, times in case.faults]


if __name__ == "__main__":
    PAGE.write_text(page())
