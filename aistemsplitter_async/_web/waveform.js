// The shape of a stem: its file is fetched and decoded once, and only the peaks are kept.

const PEAKS = 1200; // about as many as a wide screen has bars
const DECODE_RATE = 22050; // half of a CD's: the same outline with half the memory
const MAX_DRAWN_BYTES = 250e6; // decoding needs a few times that for a moment
const SILENCE = 1 / 4096;

class UndrawableError extends Error {}

// One file at a time: decoded audio is large.
let decoding = Promise.resolve();

function loadPeaks(address, sizeBytes, signal) {
  const turn = decoding.then(() => readPeaks(address, sizeBytes, signal));
  decoding = turn.catch(() => undefined);
  return turn;
}

async function readPeaks(address, sizeBytes, signal) {
  signal.throwIfAborted();
  if (sizeBytes > MAX_DRAWN_BYTES) throw new UndrawableError("Too long to be drawn here.");
  const response = await fetch(address, { signal });
  if (!response.ok) throw new UndrawableError(`No waveform: the sandbox answered ${response.status}.`);
  const bytes = await response.arrayBuffer();
  try {
    return findPeaks(await new OfflineAudioContext(1, 1, DECODE_RATE).decodeAudioData(bytes));
  } catch {
    throw new UndrawableError("No waveform: this browser cannot decode the file.");
  }
}

function findPeaks(audio) {
  const peaks = new Float32Array(Math.min(PEAKS, Math.max(1, audio.length)));
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    const samples = audio.getChannelData(channel);
    for (let i = 0; i < peaks.length; i++) {
      const stop = Math.floor(((i + 1) * samples.length) / peaks.length);
      let peak = peaks[i];
      for (let at = Math.floor((i * samples.length) / peaks.length); at < stop; at++) {
        const level = Math.abs(samples[at]);
        if (level > peak) peak = level;
      }
      peaks[i] = peak;
    }
  }
  return peaks;
}

// Bars of two pixels with one between; the played part is in full colour. `scale` is shared by the stems of a split,
// so that a quiet stem looks quiet.
function drawWaveform(canvas, peaks, scale, played) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (!width || !height) return;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  context.fillStyle = getComputedStyle(canvas).color;
  const [bar, step] = [Math.max(1, Math.round(2 * ratio)), Math.max(2, Math.round(3 * ratio))];
  for (let x = 0; x + bar <= width; x += step) {
    const from = Math.floor((x / width) * peaks.length);
    const stop = Math.max(from + 1, Math.floor(((x + step) / width) * peaks.length));
    let peak = 0;
    for (let i = from; i < stop && i < peaks.length; i++) peak = Math.max(peak, peaks[i]);
    const tall = Math.max(ratio, (scale > SILENCE ? peak / scale : 0) * (height - 4 * ratio));
    context.globalAlpha = x / width < played ? 1 : 0.42;
    context.fillRect(x, (height - tall) / 2, bar, tall);
  }
}
