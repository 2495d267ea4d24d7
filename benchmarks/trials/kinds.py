"""The kinds of trouble: from a seed to a trial, by functions of chance alone."""

from __future__ import annotations

import random
from typing import Any, Literal

import attrs

from benchmarks.trials.chance import ALWAYS, Draw, draw_songs
from benchmarks.trials.conditions import CONDITIONS
from benchmarks.trials.scenario import OPS, CallName, Cancel, Cut, Fault, Meddling, Op, Raising, Trial, Where

AMBIGUOUS = (500, 502, 503, 504, 408, 520)  # a create so answered may have happened
REFUSING = (400, 401, 402, 403, 404, 422, 429)
RETRY_AFTER = ("", "0", "2", "-5", "soon", "1800001100", "120000", "1e3", "Thu, 01 Jan 1970 00:00:00 GMT", "9" * 20)
UNREADABLE = ("truncated", "page", "empty", "nan")
READABLE = (
    *("gzip", "deflate", "raw-deflate", "bom", "chunked", "created-missing", "created-epoch", "created-millis"),
    *("created-basic", "created-nano", "created-naive", "created-null", "credits-missing", "status-missing", "extra"),
)
HEADERS = ("huge-9000", "huge-30000", "huge-60000", "many-150", "many-400", "repeated", "latin")
ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (ValueError, RuntimeError, KeyError, BrokenPipeError, TimeoutError, TypeError, AssertionError)
}
_WITH_CUTS = ("cancel", "anyio", "leave", "close", "kill", "retag", "options", "spend", "session", "gate")


def draw(seed: int, kind: str = "") -> Trial:
    """Return the trial of a seed, of a given kind or of one that it draws."""
    rng = random.Random(f"{seed} {kind}")
    chosen = kind or list(KINDS)[seed % len(KINDS)]
    call: CallName = rng.choice(("batch", "batch", "split", "submit", "create", "resubmit"))
    usual: dict[str, Any] = {"call": call, "polls": rng.choice((0, 1, 2)), "framing": rng.choice(("length", "chunked"))}
    own = KINDS[chosen](rng)
    call = own.get("call", call)
    if chosen in _WITH_CUTS and rng.random() < 0.3:  # trouble seldom comes alone
        own["faults"] = (*own.get("faults", ()), *draw_cut(rng)["faults"])
    if "songs" not in own:
        own["songs"] = draw_songs(rng, rng.randint(2, 4) if call == "batch" else 1)
    return Trial(seed=seed, kind=chosen, **(usual | own))


def draw_status(rng: random.Random) -> dict[str, Any]:
    faults = [draw_refused(rng, rng.choice((*OPS, "create")), rng.choice((1, 2, 8))) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.4:  # no answer to a create is of any use, until the next run
        faults.insert(0, draw_refused(rng, "create", ALWAYS))
    return {"faults": tuple(faults)}


def draw_refused(rng: random.Random, op: Op, times: int) -> Fault:
    status = rng.choice(AMBIGUOUS if times == ALWAYS else (*AMBIGUOUS, *REFUSING, 409, 423, 301, 204))
    return Fault(
        op=op,
        nth=rng.randrange(3) if times < ALWAYS else 0,
        times=times,
        effect=status in AMBIGUOUS and rng.random() < 0.5,
        status=status,
        body=rng.choice(("", *UNREADABLE)),
        retry_after=rng.choice(RETRY_AFTER if times == 1 else RETRY_AFTER[:4]),  # the others may take an hour
    )


def draw_headers(rng: random.Random) -> dict[str, Any]:
    op: Op | Literal["all"] = rng.choice((*OPS, "create", "all"))
    form = rng.choice(HEADERS)
    return {"faults": tuple(Fault(op=each, times=ALWAYS, headers=form) for each in OPS if op in (each, "all"))}


def draw_bodies(rng: random.Random) -> dict[str, Any]:
    op: Op | Literal["all"] = rng.choice(("create", "create", "poll", "reserve", "upload", "all"))
    form = rng.choice(READABLE)
    return {"faults": tuple(Fault(op=each, times=ALWAYS, body=form) for each in OPS[:4] if op in (each, "all"))}


def draw_unreadable(rng: random.Random) -> dict[str, Any]:
    op: Op = rng.choice((*OPS[:4], "create", "create"))
    times = rng.choice((1, 2, 5)) if op == "poll" else rng.choice((1, 5, ALWAYS))
    fault = Fault(op=op, nth=rng.randrange(2), times=times, body=rng.choice(UNREADABLE))
    return {"faults": (fault,)}


def draw_refusal(rng: random.Random) -> dict[str, Any]:
    return {"faults": (Fault(op="create", times=ALWAYS, effect=False, status=rng.choice((200, 201)), body="refusal"),)}


def draw_cut(rng: random.Random) -> dict[str, Any]:
    faults = [draw_cut_at(rng, rng.choice((*OPS, "create")), rng.choice((1, 2, 6))) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.4:  # no create gets through, until the next run
        faults.insert(0, draw_cut_at(rng, "create", ALWAYS))
    return {"faults": tuple(faults), "proxied": rng.random() < 0.25}


def draw_cut_at(rng: random.Random, op: Op, times: int) -> Fault:
    of: Literal["request", "reply"] = rng.choice(("request", "reply", "reply"))
    most = 200 if times == ALWAYS else 4000  # a reply to a create is shorter than this
    cut = Cut(of=of, byte=rng.choice((0, 1, rng.randrange(200), rng.randrange(most))), reset=rng.random() < 0.5)
    effect = of == "reply" and rng.random() < 0.7
    return Fault(op=op, nth=rng.randrange(4) if times < ALWAYS else 0, times=times, effect=effect, cut=cut)


def draw_proxy(rng: random.Random) -> dict[str, Any]:
    songs = draw_songs(rng, 1, "url")
    status, dies = rng.choice((407, 403, 502, 503, 429)), None
    if rng.random() < 0.3:
        status, dies = 200, rng.randrange(25)
    return {
        "proxy_status": status,
        "proxy_bytes": dies,
        "call": rng.choice(("split", "submit", "create", "resubmit", "batch")),
        "songs": songs,
    }


def draw_clock(rng: random.Random) -> dict[str, Any]:
    leaps = (-3e8, -90_000.0, -7200.0, -60.0, 60.0, 7200.0, 90_000.0, 3e8)
    jumps = tuple((rng.randrange(25), rng.choice(leaps)) for _ in range(rng.randint(1, 3)))
    cut = Cut(of="reply", byte=rng.randrange(300), reset=rng.random() < 0.5)
    faults = (Fault(op="create", nth=rng.randrange(2), times=rng.choice((0, 1, 5)), cut=cut),)
    return {"jumps": jumps, "faults": faults, "call": "batch"}


def draw_cancel(rng: random.Random) -> dict[str, Any]:
    return draw_cancelled(rng, "task") | {"call": rng.choice(("batch", "split", "submit", "create", "resubmit"))}


def draw_anyio(rng: random.Random) -> dict[str, Any]:
    return draw_cancelled(rng, "scope") | {"thread_seconds": rng.choice((0.0, 0.0, 2.0))}


def draw_leave(rng: random.Random) -> dict[str, Any]:
    """Draw a loop that ends before the client was closed."""
    return draw_cancelled(rng, "leave") | {"call": rng.choice(("split", "submit", "create"))}


def draw_close(rng: random.Random) -> dict[str, Any]:
    return draw_cancelled(rng, "close")


def draw_feeder(rng: random.Random) -> dict[str, Any]:
    songs = draw_songs(rng, 4)
    error = rng.choice((*ERRORS, "CancelledError"))
    raising = Raising(where="sources", error=error, nth=rng.randrange(4))
    return {"call": "batch", "songs": songs, "raising": raising, "feeding": rng.choice(("plain", "async", "iter"))}


def draw_cancelled(rng: random.Random, how: Literal["task", "scope", "leave", "close"]) -> dict[str, Any]:
    """Draw a cancellation, mostly near a create, which may take longer than any grace."""
    near = rng.random() < 0.8
    cancel = Cancel(
        how=how,
        turn=rng.randint(1, 25 if near else 200),
        after_create=rng.randrange(2) if near else None,
        times=rng.choice((1, 2, 2, 3, 10)),
        gap=rng.choice((1, 1, 2, 3, 10)),
    )
    pauses = (rng.randrange(15), rng.randrange(15))
    return {"cancel": cancel, "pauses": pauses, "slow": rng.choice((0.0, 0.0, 3.0, 60.0))}


def draw_listener(rng: random.Random) -> dict[str, Any]:
    where: Where = rng.choice(("on_event", "on_progress"))
    return {"raising": draw_raising(rng, where, nth=rng.randrange(8), times=rng.choice((1, ALWAYS)))} | (
        {"call": rng.choice(("batch", "split"))} if where == "on_progress" else {}
    )


def draw_gate(rng: random.Random) -> dict[str, Any]:
    cut = Cut(of="reply", byte=rng.randrange(200), reset=rng.random() < 0.5)
    faults = (Fault(op="create", cut=cut),) if rng.random() < 0.5 else ()
    raising = draw_raising(rng, "before_send", nth=rng.randrange(2), times=ALWAYS)
    return {"raising": raising, "faults": faults, "call": rng.choice(("split", "submit", "create", "resubmit"))}


def draw_session(rng: random.Random) -> dict[str, Any]:
    where: Where = rng.choice(("tracing", "middleware"))
    return {"raising": draw_raising(rng, where, nth=rng.randrange(8), times=rng.choice((1, 1, 3, 8)))}


def draw_raising(rng: random.Random, where: Where, *, nth: int, times: int) -> Raising:
    return Raising(where=where, error=rng.choice(list(ERRORS)), nth=nth, times=times)


def draw_kill(rng: random.Random) -> dict[str, Any]:
    return {"kill": rng.randint(1, 300), "call": "batch", "thread_seconds": rng.choice((0.0, 0.01))}


def draw_wal(rng: random.Random) -> dict[str, Any]:
    return {"kill": rng.randint(60, 300), "call": "batch", "meddling": "journal renamed alone"}


def draw_owner(rng: random.Random) -> dict[str, Any]:
    meddling: Meddling = rng.choice(("journal opened and closed", "second process"))
    return {"call": "batch", "meddling": meddling, "turn": rng.randint(5, 150)}


def draw_sources(rng: random.Random) -> dict[str, Any]:
    return {"call": "batch", "meddling": "journal among the sources", "turn": rng.randint(30, 200)}


def draw_journal(rng: random.Random) -> dict[str, Any]:
    songs = draw_songs(rng, 5, "wav")
    return {"call": "batch", "meddling": "journal gone", "turn": rng.randint(20, 60), "in_flight": 1, "songs": songs}


def draw_retag(rng: random.Random) -> dict[str, Any]:
    songs = draw_songs(rng, rng.randint(1, 3), "wav", "mp3")
    return {
        "call": "batch",
        "meddling": "retagged",
        "songs": songs,
        "faults": draw_cut(rng)["faults"][: rng.randrange(2)],
    }


def draw_options(_: random.Random) -> dict[str, Any]:
    return {"call": "batch", "meddling": "defaults spelled out"}


def draw_spend(rng: random.Random) -> dict[str, Any]:
    songs = tuple(
        attrs.evolve(song, seconds=rng.randint(2, 60)) for song in draw_songs(rng, 4, "aac", "half-wav", "wav", "mp3")
    )
    return {"call": "batch", "songs": songs, "max_credits": float(rng.randint(1, 120))}


def draw_refund(rng: random.Random) -> dict[str, Any]:
    """Draw a service whose prices are sometimes below nothing."""
    polls = Fault(op="poll", times=ALWAYS, body="credits-negative")
    faults = (Fault(op="create", nth=rng.randrange(2), body="credits-negative"), polls)
    songs = tuple(attrs.evolve(song, seconds=10) for song in draw_songs(rng, 5, "wav"))
    return {"call": "batch", "songs": songs, "max_credits": 30.0, "in_flight": 1, "faults": faults}


def draw_same_id(rng: random.Random) -> dict[str, Any]:
    return {"call": "batch", "same_id": True, "songs": draw_songs(rng, rng.randint(2, 4))}


def draw_old_key(rng: random.Random) -> dict[str, Any]:
    cut = Cut(of="reply", byte=0, reset=rng.random() < 0.5)
    faults = (Fault(op="create", nth=rng.randrange(2), times=ALWAYS, cut=cut),)
    return {"call": "batch", "meddling": "a day and a half passes", "faults": faults}


KINDS: dict[str, Draw] = {
    "status": draw_status,
    "headers": draw_headers,
    "bodies": draw_bodies,
    "unreadable": draw_unreadable,
    "refusal": draw_refusal,
    "cut": draw_cut,
    "proxy": draw_proxy,
    "clock": draw_clock,
    "cancel": draw_cancel,
    "anyio": draw_anyio,
    "leave": draw_leave,
    "close": draw_close,
    "feeder": draw_feeder,
    "listener": draw_listener,
    "gate": draw_gate,
    "session": draw_session,
    "kill": draw_kill,
    "wal": draw_wal,
    "owner": draw_owner,
    "sources": draw_sources,
    "journal": draw_journal,
    "retag": draw_retag,
    "options": draw_options,
    "spend": draw_spend,
    "refund": draw_refund,
    "same-id": draw_same_id,
    "old-key": draw_old_key,
    **CONDITIONS,
}
