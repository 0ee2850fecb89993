import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdimage.layer import pause_layer, pause_path


@given(st.binary(max_size=3000), st.sampled_from(["linux", "windows"]))
def test_another_reader_finds_the_program_and_its_directories(program: bytes, system: str) -> None:
    layer = pause_layer(program, system)
    with tarfile.open(fileobj=io.BytesIO(layer.data), mode="r:") as archive:
        members = archive.getmembers()
        *directories, file = members
        content = archive.extractfile(file)
        assert content is not None
        assert content.read() == program
    assert all(member.isdir() for member in directories)
    assert file.isreg()
    assert {(m.mode, m.uid, m.gid, m.mtime, m.uname) for m in members} == {(0o755, 0, 0, 0, "")}
    expected = {
        "linux": [".hpcc", ".hpcc/pause"],
        "windows": ["Hives", "Files", "Files/.hpcc", "Files/.hpcc/pause.exe"],
    }
    assert [member.name for member in members] == expected[system]


def test_the_bytes_never_change() -> None:
    # A golden vector: the same on every machine and every Python. To make it again:
    # print(pause_layer(b"pause", "linux").digest)
    # Whoever has to, raises the number in `cdimage.prepare.recipe` as well.
    assert str(pause_layer(b"pause", "linux").digest) == (
        "sha256:c6344842f626384de9943d9344e47c29665744ad2262fa5f649514477635ce25"
    )
    assert str(pause_layer(b"pause", "windows").digest) == (
        "sha256:64c872cf23e5772e47989c71d5f2ee7041d4af9e44350d6fc832d52b38622e1e"
    )


@pytest.mark.parametrize(
    ("system", "path"), [("linux", "/.hpcc/pause"), ("windows", "C:\\.hpcc\\pause.exe")]
)
def test_the_program_lies_where_existing_workers_look_for_it(system: str, path: str) -> None:
    assert pause_path(system) == path
