// Elements and wording. Data enters the page as text only.

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function makeSVG(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function makeIcon(name) {
  const svg = makeSVG("svg", { "aria-hidden": "true" });
  svg.append(makeSVG("use", { href: `#icon-${name}` }));
  return svg;
}

// Writing the same text again would cost a repaint and make screen readers announce it again.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

const number = new Intl.NumberFormat("en");
const timeOfDay = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

function count(n, noun) {
  return `${number.format(n)} ${noun}${n === 1 ? "" : "s"}`;
}

// A position in a song: 3:05, 1:02:45.
function formatLength(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

// A duration: 0.4 s, 12 s, 3 min 5 s, 9 h 59 min.
function formatDuration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (hours) return minutes ? `${number.format(hours)} h ${minutes} min` : `${number.format(hours)} h`;
  return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
}

function formatBytes(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = bytes < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${power && value < 10 ? value.toFixed(1) : number.format(Math.round(value))} ${units[power]}`;
}

function capitalise(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}
