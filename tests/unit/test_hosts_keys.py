from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certs_d import write

from cdimage.errors import InvalidConfigurationError
from cdimage.registry.hosts import Capability, Host, find_hosts, normalized

HUB = "https://registry-1.docker.io/v2"

SECRET = "hunter2"

PULL = frozenset({Capability.PULL})
BOTH = frozenset(Capability)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def only(root: Path, keys: str) -> Host:
    """The host of one table with these keys."""
    write(root, f'[host."https://m.example"]\n{keys}\n')
    return find_hosts([root], "r.example")[0]


# The keys.


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", BOTH),
        ("capabilities = []", BOTH),
        ('capabilities = ["resolve"]', {Capability.RESOLVE}),
        ('capabilities = ["Pull", "push"]', PULL),
        ('capabilities = ["push", "referrers"]', frozenset()),
    ],
)
def test_a_host_is_trusted_with_what_the_file_says(
    root: Path, keys: str, expected: frozenset[Capability]
) -> None:
    assert only(root, keys).capabilities == expected


def test_what_stands_at_the_top_is_for_the_registry_itself(root: Path) -> None:
    write(root, 'capabilities = ["pull"]\nskip_verify = true\ndial_timeout = "1s"\n')
    assert find_hosts([root], "r.example") == (
        Host("https://r.example/v2", PULL, skip_verify=True, dial_timeout=1.0),
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("0", 0.0),
        ("30s", 30.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("+2s", 2.0),
        ("10us", 1e-5),
        ("10µs10μs", 2e-5),
        ("100ns", 1e-7),
    ],
)
def test_durations_are_those_of_go(root: Path, text: str, seconds: float | None) -> None:
    assert only(root, f'dial_timeout = "{text}"').dial_timeout == (
        None if seconds is None else pytest.approx(seconds)
    )


@pytest.mark.parametrize(
    "text", ["30", "s", "-1s", "1 s", "1d", "1s ", ".s", "1e3s", "٣s", "3000000h", "9" * 999 + "s"]
)
def test_what_is_no_duration_is_refused(root: Path, text: str) -> None:
    with pytest.raises(InvalidConfigurationError, match=r"dial_timeout of .* is not a duration"):
        only(root, f'dial_timeout = "{text}"')


@pytest.mark.parametrize(
    ("address", "keys", "expected"),
    [
        ("http://m.example:5000", "", False),
        ("http://m.example:5000", "skip_verify = false", True),
        ("http://m.example", 'ca = "hosts.toml"', True),
        ("http://m.example:5000", 'client = "hosts.toml"', True),
        ("http://m.example:80", "skip_verify = true", False),
        ("https://m.example", "skip_verify = true", False),
    ],
)
def test_plain_hosts_with_settings_of_tls_may_speak_it(
    root: Path, address: str, keys: str, expected: bool
) -> None:
    write(root, f'[host."{address}"]\n{keys}\n')
    assert find_hosts([root], "r.example")[0].tls_first is expected


@pytest.mark.parametrize(
    ("registry", "server", "expected"),
    [
        ("r.example", "https://r.example", False),
        ("R.example", "https://r.Example", False),
        ("r.example", "https://r.example:443/path", False),
        ("r.example:443", "https://r.example", False),
        ("r.example:80", "http://r.example", False),
        ("r.example", "https://r.example:80", True),
        ("r.example", "https://r.example:5000", True),
        ("r.example", "https://m.example", True),
        ("docker.io", "docker.io", False),
        ("docker.io", "https://registry-1.docker.io", False),
        ("r.example", "https://docker.io", True),
        ("[::1]:5000", "http://[::1]:5000", False),
    ],
)
def test_another_host_than_the_registrys_own_is_a_proxy(
    root: Path, registry: str, server: str, expected: bool
) -> None:
    write(root, f'server = "{server}"', registry)
    assert find_hosts([root], registry)[-1].is_proxy is expected


def test_a_host_does_not_show_its_headers(root: Path) -> None:
    host = only(root, f"header.authorization = '{SECRET}'")
    assert host.headers == {"authorization": (SECRET,)}
    assert SECRET not in repr(host)
    assert hash(host) == hash(only(root, ""))


def test_reading_loads_no_http_client() -> None:
    script = "import sys, cdimage.registry.hosts; print('aiohttp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# Addresses.


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("m.example", "https://m.example/v2"),
        ("https://m.example", "https://m.example/v2"),
        ("HTTPS://M.Example/", "https://m.example/v2"),
        ("http://m.example:5000/v2/", "http://m.example:5000/v2"),
        ("https://m.example/a//b/./c/../d", "https://m.example/a/b/d/v2"),
        ("https://m.example//v2", "https://m.example/v2"),
        ("https://m.example/../..", "https://m.example/v2"),
        ("https://m.example/v2/hub", "https://m.example/v2/hub/v2"),
        ("localhost:5000", "https://localhost:5000/v2"),
        ("http_proxy.example", "https://http_proxy.example/v2"),
        ("10.0.0.1/a%20b", "https://10.0.0.1/a%20b/v2"),
        ("http://[FD00::1]:5000/x", "http://[fd00::1]:5000/x/v2"),
        ("[::1]", "https://[::1]/v2"),
        ("https://docker.io", HUB),
    ],
)
def test_an_address_ends_in_the_version_of_the_api(address: str, url: str) -> None:
    assert normalized(address) == (url, "://" in address)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://m.example", "https://m.example"),
        ("https://m.example/", "https://m.example"),
        ("https://m.example/v2/hub/", "https://m.example/v2/hub"),
    ],
)
def test_an_overridden_path_is_only_tidied(address: str, url: str) -> None:
    assert normalized(address, override_path=True) == (url, True)


ADDRESSES = st.from_regex(
    r"(https?://)?([a-z]\.?|docker\.io|\[::1\])(:[0-9]+)?(/[a-z.%0-9]*)*", fullmatch=True
)


@given(st.text(max_size=20) | ADDRESSES, st.booleans())
def test_normalizing_twice_is_normalizing_once(address: str, override_path: bool) -> None:
    found = normalized(address, override_path=override_path)
    if found is not None:
        url, _ = found
        assert normalized(url, override_path=override_path) == (url, True)
        assert not url.endswith("/")
