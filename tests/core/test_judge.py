"""The judge of benchmarks/scale.py: a limit that slides, counted apart from any code of the client's."""

from __future__ import annotations

from typing import Any

from hypothesis import given, strategies as st

from benchmarks.scaling.judge import Judge, most_in_any

PATH = "/v1/audio/splits"


def create(judge: Judge, at: float, number: int) -> tuple[int, str, Any]:
    body = b'{"input": {"type": "direct_url", "url": "https://songs.example.com/w1/bulk/1.mp3"}}'
    return judge.answer(at, "POST", PATH, {"authorization": "Bearer k", "idempotency-key": str(number)}, body)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60).map(sorted), st.integers(1, 5))
def test_no_window_has_more_than_the_limit_and_a_request_that_fits_is_let_in(times: list[float], limit: int) -> None:
    judge = Judge(limit=limit, per=1.0, latency=0.0, processing=1.0, says=True)
    let_in = list[float]()
    for number, at in enumerate(times):
        status, more, _ = create(judge, at, number)
        fits = sum(at - 1.0 < before for before in let_in) < limit
        assert (status == 201) is fits
        assert bool(more) is not fits  # Retry-After
        let_in += [at] if fits else []
    assert most_in_any(let_in, 1.0) <= limit


def test_a_split_is_made_once_and_ends_after_its_time() -> None:
    judge = Judge(limit=9, per=1.0, latency=0.0, processing=2.0, says=False)
    first, again = (create(judge, at, 1)[2]["data"]["id"] for at in (0.0, 0.5))
    assert first == again
    states = [judge.answer(at, "GET", f"{PATH}/{first}", {}, b"")[2]["data"] for at in (1.0, 2.0)]
    assert [(state["status"], bool(state["stems"])) for state in states] == [("processing", False), ("succeeded", True)]
    assert judge.books()["done"] == [2.0]
