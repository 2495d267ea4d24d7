// Credits, the use of each key's window, and the requests to the sandbox.

const OPERATIONS = { create: "Create a split", get: "Poll a split", reserve: "Reserve an upload", credits: "Read credits", upload: "Upload", download: "Download", webhook: "Webhook sent", unknown: "Unknown path" };
const OTHER_ORIGINS = new Set(["upload", "download", "webhook"]); // they do not count against a window
const SELDOM = new Set(["webhook", "unknown"]); // no row until there is one to count
const MAX_SLOTS = 120; // more could not be told apart
const SVG_WIDTH = 240;
const SVG_HEIGHT = 44;

const keyViews = new Map();
const operationViews = new Map();
const bars = [];

function showOverview(state) {
  showKeys(state);
  showActivity(state.activity);
  showOperations({ ...state.requests.counts, webhook: state.deliveries });
  setText(byId("storage"), `${count(state.storage.files, "file")} stored, ${formatBytes(state.storage.used_bytes)}.`);
}

function showKeys(state) {
  const box = byId("keys");
  byId("overview").classList.toggle("many", state.accounts.length > 1);
  for (const account of state.accounts) {
    if (!keyViews.has(account.account)) {
      const view = makeKey(account.account, state.accounts.length > 1);
      keyViews.set(account.account, view);
      box.append(view.element);
    }
    showKey(keyViews.get(account.account), account, state);
  }
  for (const [label, view] of keyViews) {
    if (state.accounts.some((account) => account.account === label)) continue;
    view.element.remove();
    keyViews.delete(label);
  }
}

function makeKey(label, named) {
  const view = { balance: make("strong"), unit: make("span"), fill: make("div", { class: "fill" }), used: make("b"), rest: make("span"), rule: make("span") };
  view.meter = make("div", { class: "meter", role: "meter", "aria-label": "Used slots of the rate window", "aria-valuemin": 0 }, view.fill);
  view.text = make("p", { class: "meter-text" }, make("span", {}, view.used, " ", view.rest), view.rule);
  view.element = make("div", { class: "key" }, make("p", { class: "key-name", hidden: !named }, label));
  view.element.append(make("p", { class: "figure" }, view.balance, " ", view.unit), view.meter, view.text);
  return view;
}

function showKey(view, account, { minute, window: policy, burst }) {
  setText(view.balance, number.format(account.balance));
  setText(view.unit, account.balance ? `credits, ${formatDuration(account.balance)} of audio` : "credits left");
  const limited = account.limit !== null;
  view.meter.hidden = !limited;
  if (!limited) {
    setText(view.used, "No limit");
    setText(view.rest, "on requests");
    return;
  }
  const slots = burst ?? account.limit;
  const used = Math.max(0, slots - account.remaining);
  const full = account.remaining === 0;
  setAttribute(view.meter, "aria-valuemax", slots);
  setAttribute(view.meter, "aria-valuenow", used);
  setAttribute(view.meter, "aria-valuetext", `${used} of ${slots} used`);
  view.meter.classList.toggle("slotted", slots <= MAX_SLOTS);
  view.meter.style.setProperty("--slots", slots);
  view.fill.style.width = `${(100 * used) / slots}%`;
  view.element.classList.toggle("full", full);
  setText(view.used, `${number.format(used)} of ${number.format(slots)}`);
  setText(view.rest, full ? `used, next slot in ${formatDuration(account.retry_after)}` : "requests of the window used");
  const per = minute === 60 ? "a minute" : `every ${formatDuration(minute)}`;
  setText(view.rule, `${number.format(account.limit)} ${per}, ${policy}`);
}

function showActivity({ answered, throttled }) {
  const chart = byId("activity");
  const step = SVG_WIDTH / answered.length;
  while (bars.length < answered.length) {
    const at = { x: bars.length * step + step * 0.12, width: step * 0.76 };
    const pair = [makeSVG("rect", { class: "answered", ...at }), makeSVG("rect", { class: "throttled", ...at })];
    bars.push(pair);
    chart.append(...pair);
  }
  const peak = Math.max(...answered.map((n, i) => n + throttled[i]));
  const unit = SVG_HEIGHT / Math.max(4, peak);
  bars.forEach(([lower, upper], i) => {
    const [low, high] = [answered[i] * unit, throttled[i] * unit];
    setAttribute(lower, "y", SVG_HEIGHT - low);
    setAttribute(lower, "height", low);
    setAttribute(upper, "y", SVG_HEIGHT - low - high);
    setAttribute(upper, "height", high);
  });
  const sum = (counts) => counts.reduce((a, b) => a + b, 0);
  setText(byId("activity-peak"), peak ? `up to ${number.format(peak)} a second` : "quiet");
  setAttribute(chart, "aria-label", `API requests in the last 60 seconds: ${sum(answered)} answered, ${sum(throttled)} refused with 429`);
}

function showOperations(counts) {
  let [total, throttled] = [0, 0];
  const body = byId("operations").tBodies[0];
  for (const operation of Object.keys(OPERATIONS)) {
    const answers = Object.entries(counts[operation] ?? {});
    const sum = (matches) => answers.reduce((n, [status, times]) => n + (matches(Number(status)) ? times : 0), 0);
    const figures = [sum((status) => status >= 200 && status < 400), sum((status) => status === 429)];
    const all = sum(() => true);
    figures.push(all - figures[0] - figures[1]);
    const others = answers.filter(([status]) => status < 200 || (status >= 400 && status !== "429"));
    if (!OTHER_ORIGINS.has(operation)) total += all;
    if (operation !== "webhook") throttled += figures[1];
    if (!all && SELDOM.has(operation) && !operationViews.has(operation)) continue;
    if (!operationViews.has(operation)) {
      const cells = figures.map(() => make("td"));
      const row = make("tr", {}, make("th", { scope: "row" }, OPERATIONS[operation]), ...cells);
      operationViews.set(operation, { row, cells });
      const names = Object.keys(OPERATIONS);
      const next = names.slice(names.indexOf(operation) + 1).find((name) => operationViews.has(name));
      body.insertBefore(row, next ? operationViews.get(next).row : null);
    }
    operationViews.get(operation).cells.forEach((cell, i) => {
      setText(cell, number.format(figures[i]));
      const none = operation === "webhook" ? "no answer" : "cut off";
      if (i === 2) setAttribute(cell, "title", others.map(([status, times]) => `${status === "0" ? none : status}: ${times}`).join(", "));
      cell.className = figures[i] ? (i ? "alarm" : "") : "zero";
    });
  }
  setText(byId("request-total"), number.format(total));
  setText(byId("throttled-total"), number.format(throttled));
  byId("throttled-figure").classList.toggle("alarm", throttled > 0);
}
