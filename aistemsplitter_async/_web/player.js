// The stems of one split: each an audio element beside its waveform, kept in time with each other. All of them always
// play, and those not wanted are muted, so that switching between stems loses no beat.

const MAX_DRIFT = 0.02; // seconds; less is not audible
const JUMP = 0.5; // seconds behind or ahead from which catching up would take too long
const MAX_HASTE = 0.08; // of the speed, for catching up: the pitch stays, and a tenth of a second takes one or two seconds
const DRIFT_CHECK = 250; // milliseconds
const SKIPS = { ArrowLeft: -5, ArrowDown: -5, ArrowRight: 5, ArrowUp: 5, PageDown: -15, PageUp: 15 }; // seconds
const HUES = new Set(["vocals", "drums", "bass", "other", "guitar", "piano"]);

let sounding = null; // one split at a time

class Player {
  constructor(split, stems) {
    this.alone = null; // the stem that plays alone
    this.playing = false;
    this.checked = 0;
    this.stated = split.seconds;
    this.closing = new AbortController();
    this.stems = stems.map((stem) => this.makeStem(split, stem));
    this.toggle = make("button", { type: "button", class: "round", onclick: () => this.press(null) });
    this.seek = make("input", { type: "range", class: "seek", min: 0, max: 1, step: 0.01, value: 0, "aria-label": "Position" });
    this.seek.addEventListener("input", () => this.moveTo(Number(this.seek.value)));
    this.seek.addEventListener("keydown", (event) => this.skip(event));
    this.clock = make("span", { class: "clock" });
    const label = make("span", { class: "transport-label" }, "All stems");
    const transport = make("div", { class: "transport" }, this.toggle, label, this.seek, this.clock);
    this.element = make("div", { class: "stems" }, transport, ...this.stems.map((stem) => stem.element));
    this.resizing = new ResizeObserver(() => this.draw());
    this.resizing.observe(this.element);
    this.show();
  }

  // With known peaks the file is not loaded for its waveform.
  makeStem(split, { name, filename, size_bytes: sizeBytes, address = stemAddress(split, filename), peaks = null }) {
    const stem = { name, address, sizeBytes, muted: false, broken: false, peaks };
    stem.audio = make("audio", { src: address, preload: "none" });
    stem.audio.addEventListener("loadedmetadata", () => this.show());
    stem.audio.addEventListener("ended", () => this.finish());
    stem.audio.addEventListener("error", () => this.drop(stem, "This stem cannot be played."));
    stem.canvas = make("canvas", { role: "img", "aria-label": `Waveform of ${name}` });
    stem.note = make("p", { hidden: peaks !== null }, "Drawing…");
    stem.wave = make("div", { class: "wave", onclick: (event) => this.point(event) }, stem.canvas, stem.note);
    stem.toggle = make("button", { type: "button", class: "round", onclick: () => this.press(stem) });
    stem.mute = make("button", { type: "button", class: "mute", "aria-label": `Mute ${name}`, onclick: () => this.mute(stem) }, "Mute");
    stem.save = make("a", { class: "round save", href: address, download: `${name}.${split.output_format}`, "aria-label": `Save ${name}, ${formatBytes(sizeBytes)}`, title: `Save, ${formatBytes(sizeBytes)}` }, makeIcon("save"));
    const label = make("span", { class: "stem-name" }, capitalise(name));
    stem.element = make("div", { class: "stem", role: "group", "aria-label": name }, stem.toggle, label, stem.wave, stem.mute, stem.save, stem.audio);
    stem.element.style.setProperty("--hue", HUES.has(name) ? `var(--${name})` : "var(--accent)");
    stem.canvas.style.color = "var(--hue)";
    return stem;
  }

  async loadWaveforms() {
    for (const stem of this.stems) {
      if (stem.peaks || this.closing.signal.aborted) continue;
      try {
        stem.peaks = await loadPeaks(stem.address, stem.sizeBytes, this.closing.signal);
        stem.note.hidden = true;
      } catch (error) {
        if (this.closing.signal.aborted) return;
        setText(stem.note, error instanceof UndrawableError ? error.message : "No waveform: the file could not be read.");
      }
      // Not earlier: six files loading at once would use all connections that a browser allows to one origin.
      stem.audio.preload = "metadata";
      this.draw();
    }
  }

  open() {
    if (this.closing.signal.aborted) this.closing = new AbortController();
    this.loadWaveforms();
  }

  close() {
    this.closing.abort();
    this.pause();
  }

  get sound() {
    return this.stems.filter((stem) => !stem.broken);
  }

  get position() {
    return Math.max(0, ...this.sound.map((stem) => stem.audio.currentTime));
  }

  get length() {
    return Math.max(0, ...this.sound.map((stem) => stem.audio.duration || 0)) || this.stated;
  }

  press(stem) {
    if (this.playing && this.alone === stem) return this.pause();
    this.alone = stem;
    return this.play();
  }

  async play() {
    if (sounding !== this) sounding?.pause();
    sounding = this;
    this.applyMutes();
    if (!this.playing) {
      this.playing = true;
      const start = this.position >= this.length ? 0 : this.position;
      for (const { audio } of this.sound) audio.currentTime = start;
      await Promise.allSettled(this.sound.map(({ audio }) => audio.play()));
      requestAnimationFrame((at) => this.follow(at));
    }
    this.show();
  }

  pause() {
    this.playing = false;
    for (const { audio } of this.stems) audio.pause();
    this.show();
  }

  finish() {
    if (!this.sound.every(({ audio }) => audio.ended)) return;
    this.pause();
    this.moveTo(0);
  }

  drop(stem, reason) {
    Object.assign(stem, { broken: true });
    stem.toggle.disabled = stem.mute.disabled = true;
    if (!stem.peaks) setText(stem.note, reason);
  }

  mute(stem) {
    stem.muted = !stem.muted;
    this.applyMutes();
    this.show();
  }

  applyMutes() {
    for (const stem of this.stems) stem.audio.muted = this.alone ? stem !== this.alone : stem.muted;
  }

  moveTo(seconds) {
    for (const { audio } of this.sound) audio.currentTime = seconds;
    this.show();
  }

  point(event) {
    const box = event.currentTarget.getBoundingClientRect();
    this.moveTo(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * this.length);
  }

  // By default a key moves the slider by its smallest step, a hundredth of a second.
  skip(event) {
    const seconds = SKIPS[event.key];
    if (!seconds) return;
    event.preventDefault();
    this.moveTo(Math.min(this.length, Math.max(0, this.position + seconds)));
  }

  follow(at) {
    if (!this.playing) return;
    if (at - this.checked > DRIFT_CHECK) {
      this.checked = at;
      this.align();
    }
    this.showPosition();
    requestAnimationFrame((next) => this.follow(next));
  }

  // The stem that plays alone sets the time. The others play slightly faster or slower: a jump would be slower and audible.
  align() {
    const leader = this.alone?.broken === false ? this.alone : this.sound[0];
    for (const { audio } of this.sound) {
      const behind = leader.audio.currentTime - audio.currentTime;
      if (audio.ended || audio.seeking) continue;
      if (Math.abs(behind) > JUMP) audio.currentTime = leader.audio.currentTime;
      const haste = Math.abs(behind) > MAX_DRIFT ? Math.max(-MAX_HASTE, Math.min(MAX_HASTE, behind)) : 0;
      if (audio.playbackRate !== 1 + haste) audio.playbackRate = 1 + haste;
    }
  }

  show() {
    if (!this.element) return; // called from an audio element before the constructor has finished
    setPlaying(this.toggle, this.playing && !this.alone, "all stems");
    for (const stem of this.stems) {
      setPlaying(stem.toggle, this.playing && this.alone === stem, `${stem.name} alone`);
      setAttribute(stem.mute, "aria-pressed", stem.muted);
      stem.element.classList.toggle("silent", stem.broken || (this.alone && this.playing ? stem !== this.alone : stem.muted));
    }
    this.showPosition();
  }

  showPosition() {
    const [position, length] = [this.position, this.length];
    setAttribute(this.seek, "max", length || 1);
    this.seek.value = position;
    setAttribute(this.seek, "aria-valuetext", `${formatLength(position)} of ${formatLength(length)}`);
    setText(this.clock, `${formatLength(position)} / ${formatLength(length)}`);
    this.draw();
  }

  draw() {
    const scale = Math.max(...this.stems.map((stem) => stem.peaks?.reduce((a, b) => Math.max(a, b), 0) ?? 0));
    const played = this.length ? this.position / this.length : 0;
    for (const stem of this.stems) if (stem.peaks) drawWaveform(stem.canvas, stem.peaks, scale, played);
  }
}

function stemAddress(split, filename) {
  return `/control/splits/${encodeURIComponent(split.id)}/stems/${encodeURIComponent(filename)}`;
}

function setPlaying(button, playing, what) {
  const icon = playing ? "pause" : "play";
  if (button.dataset.icon === icon) return;
  button.dataset.icon = icon;
  button.replaceChildren(makeIcon(icon));
  button.setAttribute("aria-label", `${capitalise(icon)} ${what}`);
}
