import json

import pytest
from tests.golden import BASES, FILE, digests

VECTORS = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", BASES)
def test_a_prepared_image_has_the_recorded_digests(name: str) -> None:
    assert digests(name) == VECTORS[name]


def test_there_is_a_vector_for_every_base() -> None:
    assert set(VECTORS) == set(BASES)
