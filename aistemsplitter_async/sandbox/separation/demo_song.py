"""A short synthetic song in four known parts, for trying the sandbox and for measuring it.

Eight bars of a four-chord pop song, rendered the same on every run. Because the parts are known, the quality of a
separation can be measured (`measure.py`). The parts overlap in frequency as those of a band do: the lead sings inside
the chords, the bass has harmonics far above its fundamental, the drums reach from the kick to the hats.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLE_RATE = 44_100
BEAT = 0.5  # seconds: 120 beats a minute
BAR = 4 * BEAT
BARS = 8
SEED = 20_240_229  # of the noise in drums and breath; arbitrary, but fixed
PEAK = 0.85  # of full scale: room for a lossy codec to overshoot

# One chord a bar as MIDI notes, lowest first: A minor, F, C, G, twice.
CHORDS = ((57, 60, 64), (57, 60, 65), (55, 60, 64), (55, 59, 62)) * 2
BASS_ROOTS = (33, 29, 36, 31) * 2
BASS_STEPS = (0, 0, 0, 12, 0, 0, 7, 12)  # semitones above the root, an eighth each
KICK_BEATS = ((0.0, 2.0, 2.5), (0.0, 1.5, 2.0))  # of one bar, then of the next
SNARE_BEATS = ((1.0, 3.0), (1.0, 3.0), (1.0, 3.0), (1.0, 3.0, 3.5, 3.75))

# The lead: (start in beats, length in beats, MIDI note, vowel).
MELODY = (
    (0.5, 1.0, 69, "a"), (1.5, 0.5, 71, "e"), (2.0, 1.5, 72, "o"),
    (4.0, 1.0, 72, "a"), (5.0, 0.5, 69, "e"), (5.5, 2.0, 67, "o"),
    (8.0, 0.5, 67, "e"), (8.5, 0.5, 69, "a"), (9.0, 1.5, 72, "a"), (10.5, 1.0, 76, "e"),
    (12.0, 2.5, 74, "a"), (14.5, 1.0, 71, "o"),
    (16.5, 1.0, 69, "a"), (17.5, 0.5, 71, "e"), (18.0, 1.0, 72, "o"), (19.0, 0.75, 76, "a"),
    (20.0, 1.5, 77, "a"), (21.5, 0.5, 76, "e"), (22.0, 1.5, 72, "o"),
    (24.0, 0.5, 72, "e"), (24.5, 0.5, 74, "a"), (25.0, 2.0, 76, "a"),
    (28.0, 1.0, 74, "o"), (29.0, 0.5, 72, "e"), (29.5, 2.0, 69, "a"),
)  # fmt: skip

# Centre frequencies in Hz of the first three vocal-tract resonances, and how loud each is.
FORMANTS = {
    "a": ((800.0, 1.0), (1200.0, 0.6), (2700.0, 0.25)),
    "e": ((450.0, 1.0), (2000.0, 0.5), (2700.0, 0.3)),
    "o": ((450.0, 1.0), (850.0, 0.6), (2600.0, 0.15)),
}


@attrs.frozen(eq=False)
class DemoSong:
    """`mix` is exactly the sum of `parts`, each `(frames, 2)`; the names are those of a `4s` split."""

    parts: dict[str, Samples]
    mix: Samples
    sample_rate: int = SAMPLE_RATE


def render() -> DemoSong:
    """Return the song: 16 seconds of stereo and half a second to ring out. Takes well under a second."""
    rng = np.random.default_rng(SEED)
    frames = round((BARS * BAR + 0.5) * SAMPLE_RATE)
    parts = {
        "vocals": _vocals(frames, rng),
        "drums": _drums(frames, rng),
        "bass": _bass(frames),
        "other": _chords(frames),
    }
    gain = np.float32(PEAK / np.abs(sum(parts.values())).max())
    parts = {name: part * gain for name, part in parts.items()}
    mix: Samples = parts["vocals"] + parts["drums"] + parts["bass"] + parts["other"]
    return DemoSong(parts=parts, mix=mix)


def _hertz(note: float) -> float:
    return float(440.0 * 2.0 ** ((note - 69) / 12))


def _times(seconds: float) -> Samples:
    return np.arange(round(seconds * SAMPLE_RATE), dtype=np.float32) / np.float32(SAMPLE_RATE)


def _fade(time: Samples, attack: float, release: float) -> Samples:
    """Return a gain that rises over `attack` and falls to zero over the last `release` seconds."""
    rising: Samples = time / np.float32(attack)
    falling: Samples = time[::-1] / np.float32(release)
    return np.minimum(np.minimum(rising, falling), np.float32(1))


def _add(part: Samples, start: float, sound: Samples, pan: float = 0.0) -> None:
    """Add mono `sound` at `start` seconds; `pan` goes from -1, left, to 1, right, at constant power."""
    begin = round(start * SAMPLE_RATE)
    sound = sound[: len(part) - begin]
    angle = (pan + 1) * np.pi / 4
    part[begin : begin + len(sound), 0] += sound * np.float32(np.cos(angle) * np.sqrt(2))
    part[begin : begin + len(sound), 1] += sound * np.float32(np.sin(angle) * np.sqrt(2))


def _harmonics(phase: Samples, amplitudes: Sequence[float], damping: Samples | float = 0.0) -> Samples:
    """Return the sum over k = 1, 2, .. of `amplitudes[k - 1] * sin(k * phase) * exp(-k * damping)`.

    Each term is the one before times a complex number.
    """
    step = np.exp((1j * phase - damping).astype(np.complex64))
    turn = step.copy()
    total = np.zeros(len(phase), dtype=np.float32)
    for amplitude in amplitudes:
        total += np.float32(amplitude) * turn.imag
        turn *= step
    return total


def _vocals(frames: int, rng: np.random.Generator) -> Samples:
    """A sung line in the centre: glides into each note, delayed vibrato, formants, a little breath."""
    part = np.zeros((frames, 2), dtype=np.float32)
    previous = MELODY[0][2] - 2.0
    for start, length, note, vowel in MELODY:
        time = _times(length * BEAT)
        glide = (previous - note) * np.exp(-time / 0.03)
        vibrato = 0.35 * np.sin(2 * np.pi * 5.4 * time) * np.clip((time - 0.15) / 0.2, 0, 1)
        pitch = (_hertz(note) * 2 ** ((glide + vibrato) / 12)).astype(np.float32)
        phase = (np.cumsum(pitch, dtype=np.float64) * (2 * np.pi / SAMPLE_RATE) % (2 * np.pi)).astype(np.float32)
        weights = [_vowel_gain(vowel, k * _hertz(note)) / k**0.5 for k in range(1, 19)]
        voice = _harmonics(phase, weights)
        breath = rng.standard_normal(len(time), dtype=np.float32) * np.float32(0.01)
        _add(part, start * BEAT, (voice + breath) * _fade(time, 0.04, 0.08) * np.float32(0.42))
        previous = note
    return part


def _vowel_gain(vowel: str, frequency: float) -> float:
    peaks = sum(gain / (1 + ((frequency - centre) / 130.0) ** 2) for centre, gain in FORMANTS[vowel])
    return peaks + 0.05


def _drums(frames: int, rng: np.random.Generator) -> Samples:
    """Kick on one and three and a push, snare on two and four, hats in eighths a little to the right."""
    part = np.zeros((frames, 2), dtype=np.float32)
    kick, snare = _kick(), _snare(rng)
    for bar in range(BARS):
        for beat in KICK_BEATS[bar % len(KICK_BEATS)]:
            _add(part, (4 * bar + beat) * BEAT, kick)
        for beat in SNARE_BEATS[bar % len(SNARE_BEATS)]:
            _add(part, (4 * bar + beat) * BEAT, snare, pan=-0.05)
        for eighth in range(8):
            loud = 0.16 if eighth % 2 else 0.10
            _add(part, (4 * bar + eighth / 2) * BEAT, _hat(rng, 0.05) * np.float32(loud), pan=0.3)
    return part


def _kick() -> Samples:
    time = _times(0.28)
    phase = 2 * np.pi * (48 * time + 110 * 0.035 * (1 - np.exp(-time / 0.035)))
    thump = np.sin(phase) * np.exp(-time / 0.09) + 0.25 * np.sin(40 * phase) * np.exp(-time / 0.003)
    sound: Samples = _fade(time, 0.001, 0.05) * (0.85 * thump).astype(np.float32)
    return sound


def _snare(rng: np.random.Generator) -> Samples:
    time = _times(0.22)
    rattle = _brighter(rng.standard_normal(len(time), dtype=np.float32)) * np.exp(-time / 0.055)
    shell = np.sin(2 * np.pi * (185 * time + 2 * np.exp(-time / 0.02))) * np.exp(-time / 0.05)
    sound: Samples = _fade(time, 0.001, 0.03) * (0.22 * rattle + 0.45 * shell).astype(np.float32)
    return sound


def _hat(rng: np.random.Generator, decay: float) -> Samples:
    time = _times(0.16)
    hiss = _brighter(_brighter(rng.standard_normal(len(time), dtype=np.float32)))
    sound: Samples = _fade(time, 0.001, 0.03) * (hiss * np.exp(-time / decay)).astype(np.float32)
    return sound


def _brighter(noise: Samples) -> Samples:
    """Return the noise without its low end: the difference of neighbouring samples."""
    return np.diff(noise, prepend=np.float32(0))


def _bass(frames: int) -> Samples:
    """A plucked bass in eighths on the chord's root: a bright attack, a dark decay."""
    part = np.zeros((frames, 2), dtype=np.float32)
    for bar, root in enumerate(BASS_ROOTS):
        for eighth, step in enumerate(BASS_STEPS):
            time = _times(BEAT / 2)
            phase = np.float32(2 * np.pi * _hertz(root + step)) * time
            tone = _harmonics(phase, [k**-1.1 for k in range(1, 15)], 1.2 * time) * _fade(time, 0.006, 0.03)
            _add(part, (4 * bar + eighth / 2) * BEAT, tone * np.float32(0.34))
    return part


def _chords(frames: int) -> Samples:
    """A pad with its notes spread in the stereo image, and above it an arpeggio that moves from side to side."""
    part = np.zeros((frames, 2), dtype=np.float32)
    for bar, chord in enumerate(CHORDS):
        time = _times(BAR)
        for place, note in zip((-0.7, 0.75, -0.45), chord, strict=True):
            phase = np.float32(2 * np.pi * _hertz(note) * (1 + 0.001 * place)) * time
            tone = _harmonics(phase, [1 / k**1.3 for k in range(1, 11)])
            _add(part, bar * BAR, tone * _fade(time, 0.12, 0.15) * np.float32(0.10), pan=place)
        for sixteenth in range(16):
            note = chord[(0, 1, 2, 1)[sixteenth % 4]] + 12
            time = _times(0.4)
            phase = np.float32(2 * np.pi * _hertz(note)) * time
            tone = _harmonics(phase, [1 / k for k in range(1, 8)], 3 * time) * _fade(time, 0.003, 0.05)
            pan = 0.8 * np.sin(2 * np.pi * (sixteenth + 0.5) / 8)
            _add(part, bar * BAR + sixteenth * BEAT / 4, tone * np.float32(0.13), pan=float(pan))
    return part
