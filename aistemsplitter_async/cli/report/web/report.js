// The table of tracks. Each row carries its stems as JSON; what they need is built when the row is opened. Whatever
// comes from outside goes into the page as text or as an address, never as markup.

const table = byId("tracks");
const details = new Map(); // row -> its detail, once it was opened
const filter = { state: "", text: "" };
let texts = null; // row -> the text a search compares, once there has been one

// A byte is the square root of a level, so that quiet parts keep their shape.
function decodePeaks(text) {
  return Float32Array.from(atob(text), (byte) => (byte.charCodeAt(0) / 255) ** 2);
}

class Detail {
  constructor(row) {
    const { seconds, facts, stems, hint } = JSON.parse(row.querySelector("script").textContent);
    const name = row.querySelector(".disclosure").textContent;
    this.player = stems.length ? this.makePlayer(seconds, stems) : null;
    this.message = make("p", { class: "message", role: "status" }, hint);
    this.message.hidden = !hint;
    const files = stems.map(({ file, href, size }) => make("li", {}, make("a", { href }, file), " ", make("span", {}, formatBytes(size))));
    const panel = make("div", { role: "region", "aria-label": `Stems of ${name}` }, this.message);
    if (this.player) panel.append(this.player.element, make("ul", { class: "files", "aria-label": "Files" }, ...files));
    panel.append(make("dl", { class: "facts" }, ...facts.map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, text)))));
    panel.id = `detail-${details.size + 1}`;
    row.querySelector(".disclosure").setAttribute("aria-controls", panel.id);
    this.line = make("tr", { class: "detail", role: "row", hidden: true }, make("td", { role: "cell" }, panel));
    row.after(this.line);
  }

  makePlayer(seconds, stems) {
    const parts = stems.map(({ name, file, href, size, peaks }) => ({ name, filename: file, address: href, size_bytes: size, peaks: decodePeaks(peaks ?? "") }));
    const player = new Player({ seconds, output_format: stems[0].file.split(".").pop() }, parts);
    for (const { audio, name } of player.stems) {
      audio.addEventListener("error", () => {
        this.message.hidden = false;
        setText(this.message, `${capitalise(name)} cannot be played: the file is not where this page expects it, or this browser does not know its format.`);
      });
    }
    return player;
  }

  get open() {
    return !this.line.hidden;
  }

  set open(open) {
    this.line.hidden = !open;
    if (open) this.player?.open();
    else this.player?.close();
  }
}

function toggle(row) {
  if (!details.has(row)) details.set(row, new Detail(row));
  const detail = details.get(row);
  detail.open = !detail.open;
  row.classList.toggle("open", detail.open);
  row.querySelector(".disclosure").setAttribute("aria-expanded", String(detail.open));
}

function applyFilter(choice) {
  Object.assign(filter, choice);
  if (filter.text) texts ??= new Map(Array.from(table.querySelectorAll(".split"), (row) => [row, row.cells[0].textContent.toLowerCase()]));
  const matches = (row) => (!filter.state || row.dataset.state === filter.state) && (!filter.text || texts.get(row).includes(filter.text));
  let shown = 0;
  for (const group of table.tBodies) {
    let here = 0;
    for (const row of group.querySelectorAll(".split")) {
      const hidden = !matches(row);
      if (hidden && details.get(row)?.open) toggle(row);
      if (row.hidden !== hidden) row.hidden = hidden;
      here += !hidden;
    }
    group.hidden = here === 0;
    group.style.setProperty("--rows", here); // how tall it is before it is laid out
    shown += here;
  }
  byId("none-match").hidden = shown > 0;
  table.tHead.hidden = shown === 0;
  setText(byId("news"), `${count(shown, "track")} shown`);
}

byId("states").hidden = byId("search").hidden = false;
table.addEventListener("click", (event) => {
  const row = event.target.closest(".split");
  if (event.target.closest("a[href^='#']")) return byId("clear").click(); // where it leads may be filtered away
  if (row && (event.target.closest("button") || getSelection().isCollapsed)) toggle(row);
});
byId("states").addEventListener("change", (event) => applyFilter({ state: event.target.value }));
byId("search").addEventListener("input", (event) => applyFilter({ text: event.target.value.trim().toLowerCase() }));
byId("clear").addEventListener("click", () => {
  byId("search").value = "";
  const all = byId("states").querySelector("input");
  all.checked = true;
  all.focus();
  applyFilter({ state: "", text: "" });
});
const first = table.querySelectorAll(".split");
if (first.length === 1) toggle(first[0]);
