from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.certs_d import urls, write

from cdimage.registry.hosts import Capability, Host, find_hosts

HUB = "https://registry-1.docker.io/v2"

PULL = frozenset({Capability.PULL})
BOTH = frozenset(Capability)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


# The examples of containerd's docs/hosts.md.


def test_the_hub_is_asked_where_it_speaks_its_api(root: Path) -> None:
    write(
        root,
        """
        server = "https://docker.io"

        [host."https://registry-1.docker.io"]
          capabilities = ["pull", "resolve"]
        """,
        "docker.io",
    )
    assert find_hosts([root], "docker.io") == (
        Host(HUB, explicit_scheme=True),
        Host(HUB, explicit_scheme=True),
    )


def test_a_public_mirror_gives_bytes_but_does_not_say_what_a_tag_is(root: Path) -> None:
    folder = write(
        root,
        """
        server = "https://registry-1.docker.io"    # Exclude this to not use upstream

        [host."https://public-mirror.example.com"]
          capabilities = ["pull"]                  # Requires less trust
        [host."https://docker-mirror.internal"]
          capabilities = ["pull", "resolve"]
          ca = "docker-mirror.crt"
        """,
        "docker.io",
    )
    (folder / "docker-mirror.crt").touch()
    assert find_hosts([root], "docker.io") == (
        Host(
            "https://public-mirror.example.com/v2",
            capabilities=PULL,
            is_proxy=True,
            explicit_scheme=True,
        ),
        Host(
            "https://docker-mirror.internal/v2",
            ca=(folder / "docker-mirror.crt",),
            is_proxy=True,
            explicit_scheme=True,
        ),
        Host(HUB, explicit_scheme=True),
    )


@pytest.mark.parametrize(
    ("registry", "own"),
    [
        ("docker.io", HUB),
        ("r.example:5000", "https://r.example:5000/v2"),
        ("[::1]:5000", "https://[::1]:5000/v2"),
    ],
)
def test_a_mirror_for_all_registries_goes_before_each(root: Path, registry: str, own: str) -> None:
    write(root, '[host."https://m.example"]\ncapabilities = ["pull", "resolve"]', "_default")
    assert find_hosts([root], registry) == (
        Host("https://m.example/v2", is_proxy=True, explicit_scheme=True),
        Host(own),
    )


def test_a_server_alone_takes_the_place_of_the_registry(root: Path) -> None:
    write(root, 'server = "https://m.example"', "_default")
    (host,) = find_hosts([root], "quay.io")
    assert host == Host("https://m.example/v2", is_proxy=True, explicit_scheme=True)


def test_verification_can_be_left_out_and_tls_is_then_tried_on_plain_hosts(root: Path) -> None:
    write(
        root,
        """
        server = "https://registry-1.docker.io"

        [host."http://192.168.31.250:5000"]
          capabilities = ["pull", "resolve", "push"]
          skip_verify = true
        """,
        "docker.io",
    )
    host, _ = find_hosts([root], "docker.io")
    assert host == Host(
        "http://192.168.31.250:5000/v2",
        skip_verify=True,
        is_proxy=True,
        explicit_scheme=True,
        tls_first=True,
    )


def test_hosts_keep_the_order_of_the_file_and_headers_add_none(root: Path) -> None:
    folder = write(
        root,
        """
        server = "https://test-default.registry"
        ca = "default.pem"
        [header]
          x-custom-1 = "custom header"

        [host."https://mirror.registry"]
          capabilities = ["pull"]
          ca = "certs/mirror.pem"
          skip_verify = false
          [host."https://mirror.registry".header]
            x-custom-2 = ["value1", "value2"]

        [host."https://mirror-bak.registry/us"]
          capabilities = ["pull"]
          skip_verify = true

        [host."http://mirror.registry"]
          capabilities = ["pull"]

        [host."https://test-1.registry"]
          capabilities = ["pull", "resolve", "push", "referrers"]
          ca = ["certs/mirror.pem", "default.pem"]
          client = [["c.cert", "c.key"], ["c.pem", ""]]

        [host."https://test-2.registry"]
          client = "c.pem"

        [host."https://test-3.registry"]
          client = ["c.pem", "c.cert"]

        [host."https://non-compliant-mirror.registry/v2/upstream"]
          capabilities = ["pull"]
          override_path = true

        [host."https://no-prefix.registry"]
          override_path = true

        [host."https://only-header.registry".header]
          x-custom-1 = "just a header"

        [host."https://dial-timeout.registry"]
          dial_timeout = "3s"
        """,
    )
    (folder / "certs").mkdir()
    for name in ("default.pem", "certs/mirror.pem", "c.cert", "c.key", "c.pem"):
        (folder / name).touch()
    mirror, default, pem = (folder / x for x in ("certs/mirror.pem", "default.pem", "c.pem"))
    proxy: dict[str, Any] = {"is_proxy": True, "explicit_scheme": True}
    assert find_hosts([root], "r.example") == (
        Host(
            "https://mirror.registry/v2",
            PULL,
            (mirror,),
            headers={"x-custom-2": ("value1", "value2")},
            **proxy,
        ),
        Host("https://mirror-bak.registry/us/v2", PULL, skip_verify=True, **proxy),
        Host("http://mirror.registry/v2", PULL, **proxy),
        Host(
            "https://test-1.registry/v2",
            BOTH,
            (mirror, default),
            ((folder / "c.cert", folder / "c.key"), (pem, pem)),
            **proxy,
        ),
        Host("https://test-2.registry/v2", client=((pem, pem),), **proxy),
        Host(
            "https://test-3.registry/v2",
            client=((pem, pem), (folder / "c.cert", folder / "c.cert")),
            **proxy,
        ),
        Host("https://non-compliant-mirror.registry/v2/upstream", PULL, **proxy),
        Host("https://no-prefix.registry", **proxy),
        Host(
            "https://only-header.registry/v2", headers={"x-custom-1": ("just a header",)}, **proxy
        ),
        Host("https://dial-timeout.registry/v2", dial_timeout=3.0, **proxy),
        Host(
            "https://test-default.registry/v2",
            ca=(default,),
            headers={"x-custom-1": ("custom header",)},
            **proxy,
        ),
    )


def test_hosts_written_on_one_line_each_are_hosts_too(root: Path) -> None:
    write(root, 'host."https://z.example" = {}\nhost."a.example".capabilities = ["PULL"]')
    assert urls(find_hosts([root], "r.example")) == [
        "https://z.example/v2",
        "https://a.example/v2",
        "https://r.example/v2",
    ]


# Which file is read.


def test_nothing_is_configured_where_no_folder_is(root: Path) -> None:
    assert find_hosts([], "r.example") == ()
    assert find_hosts([root / "missing", root], "r.example") == ()


@pytest.mark.parametrize("registry", ["r.example:5000", "[::1]:5000"])
def test_the_folder_of_the_registry_goes_before_the_one_for_all(root: Path, registry: str) -> None:
    escaped = registry.removesuffix(":5000") + "_5000_"
    for name in ("_default", registry, escaped):
        write(root, f'[host."https://{len(name)}.example"]', name)
        assert find_hosts([root], registry)[0].url == f"https://{len(name)}.example/v2"


def test_the_first_root_with_a_folder_for_the_registry_wins(root: Path) -> None:
    write(root / "docker", 'server = "https://docker.example"')
    (root / "empty" / "r.example").mkdir(parents=True)
    write(root / "containerd", 'server = "https://containerd.example"', "_default")
    docker, empty, containerd = (root / x for x in ("docker", "empty", "containerd"))
    assert urls(find_hosts([docker, containerd], "r.example")) == ["https://docker.example/v2"]
    assert urls(find_hosts([containerd, docker], "r.example")) == ["https://containerd.example/v2"]
    assert find_hosts([empty, docker], "r.example") == ()


def test_the_file_is_read_anew_each_time(root: Path) -> None:
    for name in ("a.example", "b.example"):
        write(root, f'server = "{name}"')
        assert urls(find_hosts([root], "r.example")) == [f"https://{name}/v2"]


def test_dockers_folders_hold_certificates_for_the_registry_itself(root: Path) -> None:
    folder = root / "r.example"
    folder.mkdir()
    names = ("b.crt", "a.crt", "client.cert", "client.key", "both.cert", "other.key", "README")
    for name in names:
        (folder / name).touch()
    (folder / "folder.crt").mkdir()
    both = folder / "both.cert"
    expected = Host(
        "https://r.example/v2",
        ca=(folder / "a.crt", folder / "b.crt"),
        client=((both, both), (folder / "client.cert", folder / "client.key")),
    )
    assert find_hosts([root], "r.example") == (expected,)
    (folder / "hosts.toml").touch()
    assert find_hosts([root], "r.example") == (expected,)
    (folder / "hosts.toml").write_text("# nothing")
    assert find_hosts([root], "r.example") == (Host("https://r.example/v2"),)


def test_paths_are_absolute_even_when_the_folder_is_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(root / "certs.d", 'ca = "../ca.pem"')
    (folder / "../ca.pem").touch()
    monkeypatch.chdir(root)
    (host,) = find_hosts([Path("certs.d")], "r.example")
    assert host.ca == (folder / "../ca.pem",)
