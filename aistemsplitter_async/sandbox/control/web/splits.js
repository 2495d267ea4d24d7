// The table of splits, newest first. A row is made once and then updated in place, so that focus, open stems and playback
// survive every update.

const STATUSES = ["queued", "processing", "succeeded", "failed"];

// State of a webhook; `null` before the split has ended.
const DELIVERIES = { null: "Webhook to be sent at the end", pending: "Webhook not delivered yet, will be retried", delivered: "Webhook delivered", lost: "Webhook lost by a fault", given_up: "Webhook given up" };

const rows = new Map();
const filter = { status: "", text: "" };

class Row {
  constructor(split) {
    this.split = split;
    this.player = null;
    this.requested = false;
    const panel = `stems-${split.id}`;
    this.name = make("span");
    this.button = make("button", { type: "button", class: "disclosure", "aria-expanded": "false", "aria-controls": panel }, makeIcon("chevron"), this.name);
    this.status = make("span", { class: "status" });
    this.length = make("td", { class: "number length" });
    this.model = make("td", { class: "wide" });
    this.polls = make("td", { class: "number wide" });
    this.took = make("td", { class: "number medium" });
    this.created = make("time");
    this.line = make("tr", { class: "split" }, make("th", { scope: "row" }, this.button), make("td", {}, this.status), this.length, this.model, this.polls, this.took);
    this.line.append(make("td", { class: "number medium" }, this.created));
    this.line.addEventListener("click", () => this.toggle());
    this.message = make("p", { class: "message" });
    this.facts = make("dl", { class: "facts" });
    this.factViews = new Map();
    this.webhook = make("p", { class: "webhook" });
    this.attempts = make("ol", { class: "attempts", "aria-label": "Attempts to deliver the webhook, newest last" });
    this.panel = make("div", { id: panel, role: "region", "aria-label": `Stems of ${split.filename}` }, this.message, this.facts, this.webhook, this.attempts);
    this.detail = make("tr", { class: "detail", hidden: true }, make("td", {}, this.panel));
  }

  get open() {
    return !this.detail.hidden;
  }

  get kept() {
    return this.open || this.line.contains(document.activeElement);
  }

  toggle() {
    const open = !this.open;
    this.detail.hidden = !open;
    this.line.classList.toggle("open", open);
    this.button.setAttribute("aria-expanded", String(open));
    if (open) this.player?.open();
    else this.player?.close();
    this.showDetail();
  }

  update(split, now) {
    this.split = split;
    const finished = split.status === "succeeded" || split.status === "failed";
    setText(this.name, split.filename);
    setAttribute(this.button, "title", split.filename);
    setText(this.status, capitalise(split.status));
    setAttribute(this.status, "class", STATUSES.includes(split.status) ? `status ${split.status}` : "status");
    setText(this.length, formatLength(split.seconds));
    setText(this.model, `${split.stem_model} ${split.output_format}`);
    setText(this.polls, number.format(split.polls));
    const created = Date.parse(split.created_at);
    setText(this.took, formatDuration(Math.max(0, (finished ? Date.parse(split.updated_at) : now) - created) / 1000));
    setAttribute(this.created, "datetime", split.created_at);
    setText(this.created, timeOfDay.format(created));
    this.showDetail();
  }

  showDetail() {
    if (!this.open) return;
    const { split } = this;
    const waiting = { queued: "In the queue. The stems appear here when it is finished.", processing: "Being separated. The stems appear here when it is finished." };
    if (split.status === "failed") this.say(split.error ?? "The split failed.", true);
    else if (split.status in waiting) this.say(waiting[split.status]);
    else if (!this.requested) this.loadStems();
    this.showFacts({ Id: split.id, Key: split.account, Model: split.stem_model, Format: split.output_format, Credits: number.format(split.credits) + (split.status === "failed" ? ", refunded" : ""), Polls: number.format(split.polls), Created: this.created.textContent, Took: this.took.textContent });
    this.showWebhook(split);
  }

  showWebhook({ webhook }) {
    this.webhook.hidden = this.attempts.hidden = !webhook;
    if (!webhook) return;
    setText(this.webhook, `${DELIVERIES[webhook.state] ?? webhook.state}: ${webhook.url}`);
    const key = JSON.stringify(webhook.attempts);
    if (this.attempts.dataset.key === key) return;
    this.attempts.dataset.key = key;
    this.attempts.replaceChildren(...webhook.attempts.map(makeAttempt));
  }

  say(text, bad = false) {
    this.message.hidden = !text;
    this.message.classList.toggle("bad", bad);
    setText(this.message, text);
  }

  showFacts(facts) {
    for (const [name, value] of Object.entries(facts)) {
      if (!this.factViews.has(name)) {
        this.factViews.set(name, make("dd", { class: name === "Id" || name === "Key" ? "id" : null }));
        this.facts.append(make("div", {}, make("dt", {}, name), this.factViews.get(name)));
      }
      setText(this.factViews.get(name), value);
    }
  }

  async loadStems() {
    this.requested = true;
    if (!this.message.textContent) this.say("Loading the stems…");
    try {
      const response = await fetch(`/control/splits/${encodeURIComponent(this.split.id)}`, { cache: "no-store" });
      if (!response.ok) throw new Error(`the sandbox answered ${response.status}`);
      const { stems } = await response.json();
      this.player = new Player(this.split, stems);
      this.message.after(this.player.element);
      this.say("");
      if (this.open) this.player.open();
    } catch (error) {
      this.requested = false; // the next update tries again
      this.say(`The stems cannot be shown: ${error.message}.`, true);
    }
  }
}

function makeAttempt({ at, status, note }) {
  const good = status >= 200 && status < 300;
  const answer = make("span", { class: good ? "answer" : "answer bad" }, status ? `answered ${status}` : "no answer");
  return make("li", {}, make("time", { datetime: at }, timeOfDay.format(Date.parse(at))), answer, note.replaceAll("_", " "));
}

function showSplits(state) {
  const body = byId("split-table").tBodies[0];
  const now = Date.parse(state.now);
  const ended = [];
  const present = new Set();
  const fresh = document.createDocumentFragment();
  const first = body.firstChild;
  for (const split of state.splits) {
    present.add(split.id);
    const known = rows.get(split.id);
    const row = known ?? new Row(split);
    if (known && known.split.status !== split.status) ended.push(split);
    row.update(split, now);
    if (known) continue;
    rows.set(split.id, row);
    fresh.prepend(row.line, row.detail); // the state lists the oldest first
  }
  body.insertBefore(fresh, first);
  fitDetails();
  for (const [id, row] of rows) {
    if (present.has(id) || row.kept) continue;
    row.line.remove();
    row.detail.remove();
    rows.delete(id);
  }
  showCounts(state);
  applyFilter();
  announce(ended);
}

// A cell that spans hidden columns would reserve space for them.
function fitDetails() {
  const columns = [...byId("split-table").tHead.rows[0].cells].filter((cell) => getComputedStyle(cell).display !== "none");
  for (const row of rows.values()) setAttribute(row.detail.firstChild, "colspan", columns.length || 1);
}

function makeStatuses() {
  const choices = [["", "All"], ...STATUSES.map((status) => [status, capitalise(status)])];
  const labels = choices.map(([status, name]) => {
    const input = make("input", { type: "radio", name: "status", value: status, checked: status === "" });
    input.addEventListener("change", () => applyFilter({ status }));
    return make("label", {}, input, name, make("span", { id: `count-${status || "all"}` }));
  });
  byId("statuses").append(...labels);
  byId("search").addEventListener("input", (event) => applyFilter({ text: event.target.value.trim().toLowerCase() }));
  byId("clear").addEventListener("click", () => {
    byId("search").value = "";
    const all = byId("statuses").querySelector("input");
    all.checked = true;
    all.focus();
    applyFilter({ status: "", text: "" });
  });
}

function showCounts({ split_counts: counts, splits }) {
  const total = Object.values(counts).reduce((a, b) => a + b, 0);
  setText(byId("count-all"), number.format(total));
  for (const status of STATUSES) setText(byId(`count-${status}`), number.format(counts[status] ?? 0));
  const running = (counts.queued ?? 0) + (counts.processing ?? 0);
  document.title = `${running ? `${running} running · ` : ""}AIStemSplitter sandbox`;
  byId("empty").hidden = total > 0;
  byId("statuses").hidden = byId("search").hidden = byId("split-table").hidden = total === 0;
  byId("more").hidden = total <= splits.length;
  setText(byId("more"), `These are the newest ${number.format(splits.length)} of ${number.format(total)}.`);
}

// A row that is open or has the focus stays until the choice changes, even if its status does.
function applyFilter(choice = null) {
  if (choice) Object.assign(filter, choice);
  let shown = 0;
  for (const row of rows.values()) {
    const { split } = row;
    const matches = (!filter.status || split.status === filter.status) && (!filter.text || `${split.filename}\n${split.id}`.toLowerCase().includes(filter.text));
    const visible = matches || (!choice && row.kept && !row.line.hidden);
    if (!visible && row.open) row.toggle();
    row.line.hidden = !visible;
    shown += visible;
  }
  byId("none-match").hidden = shown > 0 || rows.size === 0;
  byId("split-table").tHead.hidden = shown === 0;
}

function announce(changed) {
  const ended = changed.filter(({ status }) => status === "succeeded" || status === "failed");
  if (ended.length === 1) setText(byId("news"), `${ended[0].filename} ${ended[0].status}.`);
  else if (ended.length) setText(byId("news"), `${ended.length} splits finished.`);
}
