from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certs_d import urls, write

from cdimage.errors import InvalidConfigurationError
from cdimage.registry.hosts import find_hosts, normalized

SECRET = "hunter2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def failure(root: Path, registry: str = "r.example") -> str:
    with pytest.raises(InvalidConfigurationError) as caught:
        find_hosts([root], registry)
    assert SECRET not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


# What goes wrong.


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server = \n", "is not valid TOML, at line 1, column"),
        (f"[header]\nx = '{SECRET}", "is not valid TOML"),
        (b"\xff", "is not valid TOML"),
        ("server = 1", "server is not a text"),
        ("host = 1", "host is not a table"),
        ('[host]\n"https://m.example" = "pull"', "'https://m.example' of [host] is not a table"),
        ('[[host."https://m.example"]]', "is not a table"),
        (f'[host]\n"https://me:{SECRET}@m.example" = 1', "'…' of [host] is not a table"),
        ('[host]\n"\\n" = 1', "'\\n' of [host] is not a table"),
        ('capabilities = ["pull", "pul"]', "capabilities names another than pull, resolve"),
        ("capabilities = [1]", "is not a text or a list of texts"),
        ('skip_verify = "true"', "skip_verify is not true or false"),
        ('server = "x"\noverride_path = 1', "override_path is not true or false"),
        ("dial_timeout = 30", "dial_timeout is not a text"),
        ("ca = 1", "ca is not a text or a list of texts"),
        ("client = 1", "client is not a file"),
        ('client = [["a"]]', "client is not a file"),
        (f"header = '{SECRET}'", "header is not a table"),
        (f"header.x = {{y = '{SECRET}'}}", "x of [header] is not a text"),
        (f'header.x = "{SECRET}\\n"', "x of [header] is not a header"),
        (f'header.x = ["", "{SECRET}\\u0000"]', "x of [header] is not a header"),
        (f"header.'a b' = '{SECRET}'", "'a b' of [header] is not a header"),
        ('capability = ["pull"]', "capability is not a key of this file: write 'capabilities'"),
        ("Skip-Verify = true", "Skip-Verify is not a key of this file: write 'skip_verify'"),
        (f"headers.x = '{SECRET}'", "write 'header'"),
        ('[host."m.example"]\nserver = "x"', "server of [host.'m.example'] belongs to the top"),
    ],
)
def test_what_cannot_be_understood_is_an_error_that_says_where(
    root: Path, text: str | bytes, why: str
) -> None:
    folder = write(root, text)
    message = failure(root)
    assert message.startswith(f"{folder / 'hosts.toml'} ")
    assert why in message


def test_keys_of_a_newer_containerd_are_left_alone(root: Path) -> None:
    write(root, 'proxy = "http://p.example"\n[host."m.example"]\nproxy = "x"\n[new.table]')
    assert urls(find_hosts([root], "r.example")) == ["https://m.example/v2", "https://r.example/v2"]


@pytest.mark.parametrize(
    ("text", "key", "path"),
    [
        ('ca = "missing.pem"', "ca", "missing.pem"),
        ('ca = ["hosts.toml", "/missing.pem"]', "ca", "/missing.pem"),
        ('ca = ""', "ca", ""),
        ('ca = "a\\u0000b"', "ca", ""),
        ('client = "missing.pem"', "client", "missing.pem"),
        ('client = [["missing.cert", ""]]', "client", "missing.cert"),
        ('client = [["hosts.toml", "missing.key"]]', "client", "missing.key"),
    ],
)
def test_a_certificate_that_is_not_there_is_an_error_that_names_both_files(
    root: Path, text: str, key: str, path: str
) -> None:
    folder = write(root, text)
    message = failure(root)
    assert message.startswith(f"{folder / 'hosts.toml'} cannot be used: {key} names ")
    assert str(folder / path) in message


def test_a_dangling_certificate_of_dockers_folders_is_an_error(root: Path) -> None:
    path = root / "r.example" / "ca.crt"
    path.parent.mkdir()
    path.symlink_to("nowhere")
    assert f"{path} cannot be read: no such file" in failure(root)


def test_what_is_there_but_is_no_folder_or_no_file_is_an_error(root: Path) -> None:
    (root / "r.example").touch()
    assert f"{root / 'r.example' / 'hosts.toml'} cannot be read: not a directory" in failure(root)
    assert "r.example/r.example cannot be read: not a directory" in failure(root / "r.example")
    (root / "s.example" / "hosts.toml").mkdir(parents=True)
    assert "hosts.toml cannot be read: is a directory" in failure(root, "s.example")


def test_what_may_not_be_read_is_an_error() -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from cdimage.errors import InvalidConfigurationError\n"
        "from cdimage.registry.hosts import find_hosts\n"
        "os.getuid() or os.setuid(65534)\n"
        "for name in sys.argv[2:]:\n"
        "    try: find_hosts([Path(sys.argv[1])], name)\n"
        "    except InvalidConfigurationError as error: print(error)\n"
    )
    # Not in tmp_path, into which nobody else can look.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (write(root, "", "file.example") / "hosts.toml").chmod(0)
        write(root, "", "folder.example").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", script, root, "file.example", "folder.example"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        (root / "folder.example").chmod(0o700)
    assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [
        f"{root / host / 'hosts.toml'} cannot be read: permission denied"
        for host in ("file.example", "folder.example")
    ]


@pytest.mark.parametrize(
    "address",
    [
        "https://",
        "ftp://m.example",
        "unix:///run/x.sock",
        f"https://me:{SECRET}@m.example",
        f"https://m.example/?token={SECRET}",
        f"https://m.example/#{SECRET}",
        "https://m.example:99999",
        "https://m.example:port",
        "https://m example",
        "https://mö.example",
        "https://[::1",
        "https://[:::]",
        "https://m.example/a\\nb",
        "https://m.example/%zz",
        " https://m.example",
    ],
)
@pytest.mark.parametrize("form", ['server = "{}"', '[host."{}"]'])
def test_what_is_no_address_is_refused_and_its_secrets_are_not_shown(
    root: Path, address: str, form: str
) -> None:
    write(root, form.format(address))
    assert "is not the address of a registry" in failure(root)


def test_a_host_without_an_address_is_refused(root: Path) -> None:
    write(root, '[host.""]')
    assert "is not the address of a registry" in failure(root)


# Whatever the file holds.

KEYS = st.sampled_from(
    ["server", "host", "capabilities", "ca", "client", "skip_verify", "header", "override_path",
     "dial_timeout", "https://m.example", "m.example", "hots"]
)  # fmt: skip
WORDS = st.sampled_from(["pull", "resolve", "https://m.example", "1s", "hosts.toml", "x\x00"])
VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.dates()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | st.text("ab@\n\x7f", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


def toml(value: Any) -> str:
    """A value on one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(value[key])}" for key in value) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case date():
            return value.isoformat()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return json.dumps(value)


def check(data: bytes) -> None:
    """It is read, or refused in one line; nothing else comes of it."""
    with tempfile.TemporaryDirectory() as name:
        file = write(Path(name), data) / "hosts.toml"
        message = f"{file} is read"
        try:
            hosts = find_hosts([Path(name)], "r.example")
            assert all(normalized(host.url, override_path=True) for host in hosts)
        except InvalidConfigurationError as error:
            message = str(error)
        assert message.startswith(f"{file} ")
        assert message.isprintable()


@given(st.binary() | st.text("[]{}\"'=.,\n host#\\u1", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    check(data)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_values_are_read_or_refused(values: dict[str, Any]) -> None:
    check("\n".join(f"{toml(key)} = {toml(value)}" for key, value in values.items()).encode())


def test_endless_nesting_is_refused(root: Path) -> None:
    write(root, "ca = " + "[" * 100_000)
    assert "is not valid TOML" in failure(root)
