"""Work on many tensors: in the order of the file, by two threads where they are large, with every error."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from denseport.checkpoint import SMALL, WORTH_A_THREAD, Tensor, in_two_threads

NAMES = ("d", "a", "c", "b", "e")


def tensors(nbytes: int) -> dict[str, Tensor]:
    values = np.zeros(nbytes // len(NAMES), np.uint8)
    return {name: Tensor.of(values) for name in NAMES}


@pytest.mark.parametrize(("nbytes", "threads"), [(WORTH_A_THREAD // 2, 1), (2 * WORTH_A_THREAD, 2)])
def test_two_threads_work_on_large_tensors_and_results_keep_their_order(nbytes: int, threads: int) -> None:
    found = in_two_threads(tensors(nbytes), lambda name, tensor: (name, tensor.nbytes, threading.get_ident()))
    assert tuple(found) == NAMES
    assert all(name == own and size == nbytes // len(NAMES) for name, (own, size, _) in found.items())
    assert len({thread for *_, thread in found.values()}) == threads


@pytest.mark.parametrize("broken", NAMES)
@pytest.mark.parametrize("nbytes", [WORTH_A_THREAD // 2, 2 * WORTH_A_THREAD])
def test_an_error_of_either_thread_reaches_the_caller(nbytes: int, broken: str) -> None:
    def work(name: str, _: Tensor) -> None:
        if name == broken:
            raise ValueError(name)

    with pytest.raises(ValueError, match=broken):
        in_two_threads(tensors(nbytes), work)


def test_no_two_large_tensors_are_in_memory_at_once() -> None:
    large = Tensor.of(np.zeros(SMALL + 1, np.uint8))
    found = in_two_threads(tensors(100) | {"f": large, "g": large}, lambda *_: threading.get_ident())
    assert found["f"] == found["g"] == threading.get_ident()
    assert len(set(found.values())) == 2
