"""The promises of delivery in their short form; `tests/proofs/delivery.py --long` is the long one."""

from pathlib import Path

import pytest

from proofs.delivery import PROOFS


@pytest.mark.parametrize("proof", PROOFS)
def test_the_promise_holds(proof: str, tmp_path: Path) -> None:
    print(PROOFS[proof](tmp_path, long=False))
