// Asks for the state once a second while the page is visible and not paused.

const EVERY = 1000; // milliseconds
const PATIENCE = 10_000;
const NEWEST = 500; // rows; a hundred thousand would be too many for a table

let wanted = true;
let failures = 0;
let timer = 0;
let asking = false;

async function update() {
  clearTimeout(timer);
  if (asking || !wanted || document.hidden) return;
  asking = true;
  try {
    const response = await fetch(`/control/state?newest=${NEWEST}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    const body = await response.json();
    if (!response.ok) throw new RefusedError(body.error?.message ?? `It answered ${response.status}.`);
    show(body);
    failures = 0;
    showConnection("");
  } catch (error) {
    failures += 1;
    const reason = error instanceof RefusedError ? error.message : "It does not answer; it may have been stopped.";
    showConnection(`The sandbox cannot be read. ${reason} Trying again…`);
  } finally {
    asking = false;
    timer = setTimeout(update, Math.min(EVERY * 2 ** failures, PATIENCE));
  }
}

class RefusedError extends Error {}

function show(state) {
  for (const place of ["base-url", "address"]) setText(byId(place), state.base_url);
  showOverview(state);
  showSplits(state);
  byId("board").hidden = false;
}

function showConnection(trouble) {
  document.body.classList.toggle("stale", Boolean(trouble));
  byId("live").classList.toggle("lost", Boolean(trouble));
  byId("notice").hidden = !trouble;
  setText(byId("notice"), trouble);
  showLive(trouble ? "Not connected" : "Live");
}

function showLive(text) {
  setText(byId("live-text"), wanted ? text : "Paused");
  byId("live").classList.toggle("paused", !wanted);
  setAttribute(byId("live"), "title", wanted ? "This page updates by itself. Press to pause." : "Press to resume.");
}

function begin() {
  if (document.documentElement.dataset.control === "off") {
    byId("notice").hidden = false;
    setText(byId("notice"), "The sandbox is running, but this page has nothing to show: the control endpoint it reads is switched off (control=False).");
    return;
  }
  makeStatuses();
  byId("live").hidden = false;
  byId("live").addEventListener("click", () => {
    wanted = !wanted;
    showLive("Live");
    update();
  });
  document.addEventListener("visibilitychange", update);
  window.addEventListener("resize", fitDetails);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const row of rows.values()) row.player?.draw();
  });
  update();
}

begin();
