"""Further kinds of trouble: what passes, what never ends, and what is lost although it was written."""

from __future__ import annotations

import random
from typing import Any, Literal

import attrs

from aistemsplitter_async.config import PARK
from benchmarks.trials.chance import ALWAYS, Draw, draw_songs
from benchmarks.trials.misfits import MISFITS
from benchmarks.trials.scenario import OPS, CallName, Cancel, Cut, Disk, Fault, Op, Reservations, Sleep
from benchmarks.trials.songs import STEMS, Song

INTACT = (
    "aws-chunked",
    "",
    "utf-8",
    "binary",
    "identity",
    "identity, identity",
    "aws-chunked|identity",
    "UTF-8",
    "none",
)
WAITS = (
    "seconds",
    "fraction",
    "spaces",
    "date",
    "zone",
    "epoch",
    "epoch",
    "epoch-millis",
    "epoch-millis",
)  # see `replies.write_wait`
NONSENSE = (
    *("1000000000", "Fri, 31 Dec 9999 23:59:59 GMT", "120000", "86400", "9" * 20, "-5", "0", "soon", "1e3", "0x10"),
    *(
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "99999999999999",
        "2027-01-15T08:00:00Z",
        "30, 60",
        "NaN",
        "inf",
        "1_0",
    ),
)
_MINUTE = 60.0
_MIB = 1024 * 1024


def draw_coding(rng: random.Random) -> dict[str, Any]:
    """Draw a name of a content coding: of bytes that are as they were, or of some that would have to be decoded."""
    coded = rng.random() < 0.25
    fault = Fault(op="download", times=ALWAYS, headers=f"coding-{rng.choice(INTACT)}")
    if coded:
        fault = Fault(op="download", times=ALWAYS, body=rng.choice(("gzip", "deflate")))
    return {"faults": (fault,), "call": rng.choice(("batch", "split")), "by_itself": True}


def draw_endless(rng: random.Random) -> dict[str, Any]:
    """Draw a stem that never ends, and perhaps a disk that does."""
    room = rng.choice((0, 0, 48 * _MIB))
    songs = draw_songs(rng, 2, "url", "wav")
    return {
        "call": rng.choice(("batch", "batch", "split")),
        "songs": songs,
        "endless": rng.choice((1, ALWAYS)),
        "announced": rng.random() < 0.4,
        "disk": Disk(room=room),
        "framing": "length" if room else rng.choice(("length", "chunked")),
    }


def draw_many(rng: random.Random) -> dict[str, Any]:
    stems = tuple(f"part{number}" for number in range(rng.choice((40, 100, 160))))
    return {"call": "batch", "stems": stems, "songs": draw_songs(rng, 1, "url"), "polls": 0}


def draw_slow_disk(rng: random.Random) -> dict[str, Any]:
    return {"thread_seconds": rng.choice((0.3, 2.0)), "call": rng.choice(("batch", "split"))}


def draw_lag(rng: random.Random) -> dict[str, Any]:
    """Draw a service whose parts learn of a split, or of its stems, some time later."""
    op: Op = rng.choice(("poll", "download"))
    status = 404 if op == "poll" else rng.choice((403, 404))
    form = rng.choice(("", "page")) if op == "poll" else ""
    seconds = rng.choice((1.0, 5.0, 20.0, 45.0, 4 * 3600.0))
    fault = Fault(op=op, effect=False, status=status, body=form, young=seconds)
    return {"faults": (fault,), "call": rng.choice(("batch", "split")), "by_itself": True}


def draw_pages(rng: random.Random) -> dict[str, Any]:
    """Draw a minute in which something between answers with 200 and a page, or with nothing."""
    op: Op = rng.choice(OPS)
    effect = op == "download" or (op == "create" and rng.random() < 0.5)
    fault = Fault(
        op=op,
        times=ALWAYS,
        nth=rng.randrange(3),
        lasts=rng.choice((1.0, 20.0, _MINUTE)),
        status=None if op == "download" else 200,
        body=rng.choice(("page", "empty")),
        effect=effect,
    )
    return {"faults": (fault,), "call": "batch", "by_itself": True, "patience": PARK}


def draw_gateway(rng: random.Random) -> dict[str, Any]:
    """Draw refusals, mostly one, that are of something in front of the service, on the way there or back."""
    op = rng.choice((*OPS, "create"))
    effect = op == "create" and rng.random() < 0.5  # it looked at the answer, and did not like that
    times = rng.choice((1, ALWAYS)) if effect else 1  # until the next run
    fault = Fault(op=op, nth=rng.randrange(3) if times == 1 else 0, times=times, status=403, body="page", effect=effect)
    return {"faults": (fault,), "call": "batch", "by_itself": True}


def draw_reservation(rng: random.Random) -> dict[str, Any]:
    """Draw reservations that are over soon, by the service's clock or by one that is wrong."""
    lifetime = rng.choice((-3600.0, -1.0, 1.0, 20.0, 29.0, 90.0, 600.0, 600.0))
    upload = rng.choice((0.0, 0.0, 3.0, 40.0))
    refused: Literal["", "worker", "create"] = rng.choice(("", "", "worker", "create"))
    skew = rng.choice((0.0, -7200.0, -900.0, 900.0, 900.0, 7200.0, 90_000.0))
    return {
        "reservations": Reservations(
            lifetime=lifetime, refused=refused, upload=upload, status=rng.choice((403, 410, 503))
        ),
        "dated": rng.random() < 0.8,
        "skew": skew,
        "songs": draw_songs(rng, 2, "wav", "mp3"),
        "call": rng.choice(("batch", "batch", "split")),
    }


def draw_retry_after(rng: random.Random) -> dict[str, Any]:
    """Draw a refusal that says how long to wait, in a form that is common, or in one that is nonsense."""
    certain = rng.random() < 0.7
    seconds = rng.choice((5.0, 5.0, 30.0, 30.0, 100.0, 600.0, 7200.0))
    call = rng.choice(("batch", "split", "submit"))
    op: Op = rng.choice((*OPS, "create") if call != "submit" else ("reserve", "upload", "create"))
    fault = Fault(
        op=op,
        nth=rng.randrange(2) if call == "batch" else 0,
        status=rng.choice((429, 429, 503)),
        effect=False,
        retry_after=f"@{rng.choice(WAITS)}" if certain else rng.choice(NONSENSE),
        at_least=seconds if certain else 0.0,
        date=rng.random() < 0.5,
        times=rng.choice((1, 1, 2)),
    )
    return {
        "faults": (fault,),
        "call": call,
        "songs": draw_songs(rng, 2 if call == "batch" else 1, "wav", "mp3"),
        "again": call != "batch",
        "rest": 3700.0,
        "timeout": rng.choice((None, None, 60.0, 900.0)),
        "patience": rng.choice((60.0, PARK)),
    }


def draw_sleep(rng: random.Random) -> dict[str, Any]:
    """Draw a laptop that is closed for a while."""
    counted = rng.random() < 0.3
    sleep = Sleep(
        request=rng.randrange(24), seconds=600.0 if counted else rng.choice((600.0, 8 * 3600.0)), monotonic=counted
    )
    call = rng.choice(("batch", "batch", "split", "submit"))
    return {"sleep": sleep, "call": call, "songs": draw_songs(rng, 4 if call == "batch" else 1), "polls": 3}


def draw_loops(rng: random.Random) -> dict[str, Any]:
    """Draw a gate that is used in another event loop, while this one has taken all its slots."""
    return {
        "meddling": "gate in another loop",
        "turn": rng.randint(10, 150),
        "limit": rng.choice((2, 5, 600)),
        "call": "batch",
    }


def draw_misfit(rng: random.Random) -> dict[str, Any]:
    misfits = tuple(rng.choice(list(MISFITS)) for _ in range(rng.randint(1, 2)))
    feeding = rng.choice(("plain", "async"))
    return {"call": "batch", "misfits": misfits, "feeding": feeding, "songs": draw_songs(rng, 2)}


def draw_sick(rng: random.Random) -> dict[str, Any]:
    """Draw one song whose create is answered with 500, while others are well."""
    count = rng.randint(3, 6)
    return {
        "call": "batch",
        "songs": draw_songs(rng, count),
        "sick": rng.randrange(count),
        "sick_effect": rng.random() < 0.5,
        "in_flight": rng.choice((None, 1, 2)),
        "patience": PARK,
    }


def draw_power(rng: random.Random) -> dict[str, Any]:
    """Draw a power cut at a moment of a batch whose downloads break off again and again."""
    cut = Cut(of="reply", byte=rng.randrange(200, 400), reset=rng.random() < 0.5)
    return {
        "call": "batch",
        "kill": rng.randint(60, 330),
        "disk": Disk(power=True),
        "journal_in": rng.choice(("", "new", "new/deep/down")),
        "faults": (Fault(op="download", times=rng.choice((0, 5, ALWAYS, ALWAYS)), cut=cut),),
        "framing": "length",
        "patience": PARK,
        "songs": draw_songs(rng, 2),
    }


def draw_sync(rng: random.Random) -> dict[str, Any]:
    """Draw a disk that cannot write what it took, and says so when it is asked to sync."""
    cut = Cut(of="reply", byte=rng.randrange(200, 1400), reset=rng.random() < 0.5)
    return {
        "call": rng.choice(("batch", "split")),
        "disk": Disk(fails=(rng.randint(1, 12), rng.choice((1, 1, 3, ALWAYS)))),
        "faults": (Fault(op="download", times=rng.choice((0, 2, ALWAYS)), cut=cut),),
        "framing": "length",
    }


def draw_more(rng: random.Random) -> dict[str, Any]:
    """Draw a batch that wants more stems than one before it, and is killed or loses its connections."""
    cut = Cut(of="reply", byte=rng.randrange(200, 1400), reset=rng.random() < 0.5)
    return {
        "call": "batch",
        "earlier": (rng.choice(STEMS),),
        "kill": rng.choice((0, rng.randint(1, 150))),
        "faults": (Fault(op="download", times=rng.choice((0, 2, ALWAYS)), cut=cut),),
        "framing": "length",
    }


def draw_mix(rng: random.Random) -> dict[str, Any]:
    """Draw a mix whose making, or whose stems, something interrupts."""
    cut = Cut(of="reply", byte=rng.randrange(200, 1400), reset=rng.random() < 0.5)
    call: CallName = rng.choice(("batch", "batch", "split"))
    return {
        "call": call,
        "mixes": True,
        "stems": ("vocals", "drums", "bass"),
        "kill": rng.choice((0, rng.randint(1, 200))) if call == "batch" else 0,
        "disk": Disk(fails=(rng.randint(1, 20), rng.choice((0, 0, 1, 3)))),
        "faults": (Fault(op="download", nth=rng.randrange(4), times=rng.choice((0, 2, ALWAYS)), cut=cut),),
        "framing": "length",
    }


def draw_open(rng: random.Random) -> dict[str, Any]:
    """Draw stems that are handed over as they come, over connections that break, or to a caller that is cancelled."""
    size = rng.choice((1000, 300_000))
    cut = Cut(of="reply", byte=rng.randrange(size + 300), reset=rng.random() < 0.5)
    fault = Fault(op="download", nth=rng.randrange(3), times=rng.choice((1, 1, 2, 6, ALWAYS)), cut=cut)
    if rng.random() < 0.2:
        fault = attrs.evolve(fault, cut=None, body=rng.choice(("page", "empty", "gzip")), times=rng.choice((1, 6)))
    cancel = Cancel(how=rng.choice(("task", "scope", "close")), turn=rng.randint(1, 250), times=rng.choice((1, 2)))
    songs = (Song(0, "url", 60),)  # as long as such stems may be
    return {
        "call": "open",
        "stem_bytes": size,
        "songs": songs,
        "faults": (fault,),
        "cancel": cancel if rng.random() < 0.3 else None,
    }


def draw_new_key(rng: random.Random) -> dict[str, Any]:
    """Draw an API key that is replaced while creates may be without an answer."""
    cut = Cut(of="reply", byte=rng.randrange(200), reset=rng.random() < 0.5)
    faults = (Fault(op="create", nth=rng.randrange(3), times=ALWAYS, effect=rng.random() < 0.7, cut=cut),)
    kill = rng.choice((0, 0, rng.randint(60, 300)))
    return {"call": "batch", "new_key": True, "faults": faults, "kill": kill, "songs": draw_songs(rng, 3)}


CONDITIONS: dict[str, Draw] = {
    "coding": draw_coding,
    "endless": draw_endless,
    "many": draw_many,
    "slow-disk": draw_slow_disk,
    "lag": draw_lag,
    "pages": draw_pages,
    "gateway": draw_gateway,
    "reservation": draw_reservation,
    "retry-after": draw_retry_after,
    "sleep": draw_sleep,
    "loops": draw_loops,
    "misfit": draw_misfit,
    "sick": draw_sick,
    "power": draw_power,
    "sync": draw_sync,
    "more": draw_more,
    "mix": draw_mix,
    "open": draw_open,
    "new-key": draw_new_key,
}
