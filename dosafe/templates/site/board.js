// The table of the leaderboard: sorts, filters, searches, compares, and downloads what is shown.
// Only textContent and attributes are set: nothing of a record is ever read as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, groups, records, cells, rows } = data;
  // A row is [table, record, template, best rank, worst rank | why it has none, ...indexes of cells, -1 for none].
  const FIRST = 5;
  const PAGE = 30;
  const NONE = "(none)";
  const byId = (id) => document.getElementById(id);
  const metricOf = (row, column) => {
    const place = groups[row[0]].places.get(column);
    const index = place === undefined ? -1 : row[FIRST + place];
    return index < 0 ? null : cells[index];
  };
  for (const group of groups) group.places = new Map(group.columns.map((column, place) => [column, place]));

  // Elements
  const make = (tag, attributes = {}, ...children) => {
    const one = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) one.setAttribute(name, value);
    one.append(...children);
    return one;
  };
  const SVG = "http://www.w3.org/2000/svg";
  const draw = (tag, attributes) => {
    const one = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
    return one;
  };
  const percent = (number) => +(number * 100).toFixed(2);
  const track = draw("svg", { class: "bar", viewBox: "0 0 100 9", preserveAspectRatio: "none", "aria-hidden": "true" });
  track.append(draw("rect", { class: "track", y: 4, width: 100, height: 1 }), draw("rect", { y: 2, height: 5 }),
    draw("rect", { class: "value", width: 1.5, height: 9 }));
  const bar = (value, low, high, kind) => {
    const svg = track.cloneNode(true), [, range, mark] = svg.children;
    range.setAttribute("class", kind);
    range.setAttribute("x", percent(low));
    range.setAttribute("width", percent(Math.max(high - low, 0.005)));
    mark.setAttribute("x", percent(value * 0.985));
    return svg;
  };

  // Numbers: a cell is [value, low, high, n, unscored], a share between 0 and 1; one of other kind has a sixth part.
  // Half-way cases, such as 6.25, go to the even digit, as on the other pages; toFixed takes the larger one.
  const share = (number) => {
    const x = number * 100, half = x * 10 - Math.floor(x * 10) === 0.5 && Number.isInteger(x * 4);
    return (half ? 2 * Math.round(x * 5) / 10 : x).toFixed(1);
  };
  const isShare = (cell) => cell.length === 5;
  const told = (cell) => {
    if (cell === null) return "–";
    if (cell[0] === null) return "unscored";
    return isShare(cell) ? share(cell[0]) : String(cell[0]);
  };
  const interval = (cell) => (isShare(cell) && cell[1] !== null ? `${share(cell[1])}–${share(cell[2])}` : "");

  // What is filtered by
  const facets = [
    ["base", "Base", (row) => groups[row[0]].base, false],
    ["dataset", "Dataset", (row) => records[row[1]].dataset, true],
    ["strategy", "Strategy", (row) => records[row[1]].strategy, true],
    ["mitigation", "Mitigation", (row) => records[row[1]].mitigation, true],
    ["share", "Share", (row) => records[row[1]].share, true],
    ["judge", "Judge", (row) => groups[row[0]].judge, false],
    ["template", "Template", (row) => row[2], false],
    ["verification", "Verification", (row) => records[row[1]].state || null, true],
    ["suite", "Suite and data", (row) => `${groups[row[0]].suite}, ${groups[row[0]].data}`, false],
  ].map(([key, label, of, keepsBase]) => ({ key, label, of: (row) => of(row) ?? NONE, keepsBase, chosen: "" }));
  const hay = rows.map((row) => {
    const record = records[row[1]], group = groups[row[0]];
    return [
      record.name, row[2], record.dataset, record.strategy, record.mitigation, record.flags.join(" "),
      record.state, group.base, group.suite, group.data, group.judge, group.engine, record.page,
    ].join(" ").toLowerCase();
  });

  // State
  let sort = { key: "", down: false };
  let order = rows.map((_, index) => index);
  let found = order;
  let page = 0;
  let every = false;
  let visible = [];
  let picked = [];
  let keeping = 0;

  const sortKeys = new Map([
    ["model", (row) => records[row[1]].name],
    ["template", (row) => row[2]],
    ["rank", (row) => (typeof row[4] === "number" ? row[3] + row[4] / 1e6 : null)],
    ...columns.map((column, index) => [column.title, (row) => (metricOf(row, index) || [null])[0]]),
  ]);
  const reorder = () => {
    const of = sortKeys.get(sort.key);
    const values = of ? rows.map(of) : null;
    const sign = sort.down ? -1 : 1;
    // Never across tables: their rows do not compare.
    order = rows.map((_, index) => index).sort((a, b) => {
      if (rows[a][0] !== rows[b][0]) return rows[a][0] - rows[b][0];
      if (!values) return a - b;
      // Ranks are of one template.
      if (sort.key === "rank" && rows[a][2] !== rows[b][2]) return rows[a][2] < rows[b][2] ? -1 : 1;
      const [x, y] = [values[a], values[b]];
      if (x === y) return a - b;
      if (x === null || y === null) return x === null ? 1 : -1;
      return sign * (typeof x === "number" ? x - y : x < y ? -1 : 1) || a - b;
    });
  };
  const refind = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const set = facets.filter((facet) => facet.chosen !== "");
    found = order.filter((index) => {
      const row = rows[index];
      for (const facet of set) {
        if (facet.keepsBase && records[row[1]].base) continue;
        if (String(facet.of(row)) !== facet.chosen) return false;
      }
      const text = hay[index];
      for (const word of words) if (!text.includes(word)) return false;
      return true;
    });
  };

  // Columns that some shown row fills; a base's alone do not count where there are adapters. Few rows differ in
  // which columns they fill, so that is looked up by kind of row.
  const kinds = new Map(), kindOfRow = [];
  for (const row of rows) {
    const filled = columns.map((_, column) => column).filter((column) => metricOf(row, column) !== null);
    const key = `${records[row[1]].base} ${filled}`;
    if (!kinds.has(key)) kinds.set(key, { base: records[row[1]].base, filled });
    kindOfRow.push(kinds.get(key));
  }
  const columnsOf = () => {
    const shown = new Set(found.map((index) => kindOfRow[index]));
    const tuned = [...shown].filter((kind) => !kind.base);
    const filled = new Set((tuned.length ? tuned : [...shown]).flatMap((kind) => kind.filled));
    return [...filled].filter((column) => every || !columns[column].detail).sort((a, b) => a - b);
  };
  const heads = byId("heads");
  const kindOf = (column) => (columns[column].brief && !every ? "number brief" : "number");
  const renderHeads = () => {
    const now = columnsOf();
    const widths = now.map(kindOf).join();
    if (heads.children.length && now.join() === visible.join() && widths === heads.dataset.widths) return;
    visible = now;
    heads.dataset.widths = widths;
    const head = (key, label, name) => {
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", () => {
        sort = { key, down: sort.key === key && !sort.down };
        reorder(); refresh();
      });
      const one = make("th", { scope: "col", class: name }, button);
      one.dataset.key = key;
      return one;
    };
    heads.replaceChildren(
      make("th", { scope: "col", class: "pick" }, make("span", { class: "hidden" }, "compare")),
      head("model", "model", null), head("template", "template", null), head("rank", "rank", "rank"),
      ...visible.map((column) => {
        const { title, heading } = columns[column];
        return head(title, heading.replace(/ (?=[↓↑]$)/, "\u00a0"), kindOf(column));
      }),
    );
  };

  const badge = (text, warns) => make("span", { class: warns ? "badge warn" : "badge" }, text);
  const sizeOf = (row, column) => groups[row[0]].sizes[groups[row[0]].places.get(column)];
  const numberCell = (row, index) => {
    const column = columns[index], cell = metricOf(row, index);
    const one = make("td", { class: kindOf(index) }, told(cell));
    if (cell === null || cell[0] === null) return one;
    const bounds = (column.bounds || []).map((place) => metricOf(row, place)).filter((end) => end && end[0] !== null);
    const notes = [];
    if (bounds.length === 2 && !every) {
      one.append(bar(cell[0], bounds[0][0], bounds[1][0], "bounds"));
      notes.push(`bounds ${share(bounds[0][0])}–${share(bounds[1][0])}`);
    } else if (isShare(cell)) {
      one.append(bar(cell[0], cell[1], cell[2], "interval"));
      if (!column.brief || every) notes.push(interval(cell));
    }
    if (cell[3] !== sizeOf(row, index)) notes.push(`n ${cell[3]}`);
    if (cell[4]) notes.push(`${cell[4]} unscored`);
    one.append(make("span", { class: "small" }, notes.filter(Boolean).join(", ")));
    return one;
  };
  const rankCell = (row) => {
    if (typeof row[4] !== "number") {
      return make("td", { class: "rank" }, "–", ...(row[4] ? [make("span", { class: "small" }, row[4])] : []));
    }
    if (row[3] === row[4]) return make("td", { class: "rank" }, String(row[3]));
    return make("td", { class: "rank" }, `${row[3]}–${row[4]}`, make("span", { class: "small" }, "tie"));
  };
  const renderRow = (index) => {
    const row = rows[index], record = records[row[1]];
    const box = make("input", { type: "checkbox", "aria-label": `Compare ${record.name}, ${row[2]}` });
    box.checked = picked.includes(index);
    box.addEventListener("change", () => pick(index, box.checked));
    const name = make("th", { scope: "row" }, make("a", { href: `records/${record.page}.html` }, record.name));
    const marks = record.flags.filter((flag) => flag !== groups[row[0]].label).map((flag) => badge(flag, true));
    if (record.state) marks.push(badge(record.state, record.state === "not verified"));
    if (marks.length) name.append(make("span", { class: "small" }, ...marks));
    const one = make("tr", { class: record.base ? "base" : null }, make("td", { class: "pick" }, box), name,
      make("td", {}, row[2]), rankCell(row), ...visible.map((column) => numberCell(row, column)));
    one.dataset.row = index;
    return one;
  };
  const table = byId("board");
  const renderBody = () => {
    const bodies = [];
    let last = -1;
    for (const index of found.slice(page * PAGE, (page + 1) * PAGE)) {
      const row = rows[index];
      if (row[0] !== last) {
        last = row[0];
        const group = groups[last];
        const link = make("a", { href: `tables/${group.page}.html` }, group.title);
        const title = make("span", { class: "title" }, link, " ");
        if (group.label) title.append(badge(group.label, true));
        const sizes = visible.filter((column) => !columns[column].brief && group.places.has(column))
          .map((column) => `${columns[column].title} ${sizeOf(row, column)}`);
        title.append(make("span", { class: "small" }, `n: ${sizes.join(", ")}`));
        bodies.push(make("tbody", {}, make("tr", { class: "group" },
          make("th", { scope: "rowgroup", colspan: visible.length + 4 }, title))));
      }
      bodies[bodies.length - 1].append(renderRow(index));
    }
    for (const body of [...table.tBodies]) body.remove();
    table.append(...bodies);
  };
  const count = (number, one) => `${number.toLocaleString("en")} ${number === 1 ? one : `${one}s`}`;
  const say = (more = "") => {
    const tables = new Set(found.map((index) => rows[index][0])).size;
    const all = rows.length.toLocaleString("en");
    byId("said").textContent = `${count(found.length, "row")} of ${all}, in ${count(tables, "table")}${more}`;
  };
  const refresh = (typing = false) => {
    refind();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    renderHeads();
    for (const one of heads.children) {
      if (one.dataset.key === sort.key && sort.key) one.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      else one.removeAttribute("aria-sort");
    }
    renderBody();
    say();
    byId("pager").hidden = pages === 1;
    byId("place").textContent = `Page ${page + 1} of ${pages}`;
    byId("before").disabled = page === 0;
    byId("after").disabled = page === pages - 1;
    const set = facets.filter((facet) => facet.chosen !== "").length;
    byId("filtersaid").textContent = set ? `Filters (${set} set)` : "Filters";
    clearTimeout(keeping);
    if (typing) keeping = setTimeout(keep, 300); else keep();  // browsers refuse more than a few a second
  };

  // The state in the address, so that a view can be sent to others
  const keep = () => {
    const state = new URLSearchParams();
    if (byId("search").value) state.set("q", byId("search").value);
    for (const facet of facets) if (facet.chosen !== "") state.set(facet.key, facet.chosen);
    if (sort.key) state.set("sort", (sort.down ? "-" : "") + sort.key);
    if (every) state.set("all", "1");
    const text = state.toString();
    const now = location.hash.slice(1);
    // An anchor of the page stays until something is chosen.
    if (text !== now && (text || now.includes("="))) history.replaceState(null, "", `#${text}`);
  };
  const restore = () => {
    if (!location.hash.includes("=")) return;
    const state = new URLSearchParams(location.hash.slice(1));
    byId("search").value = state.get("q") || "";
    for (const facet of facets) {
      const wanted = state.get(facet.key);
      facet.chosen = [...facet.select.options].some((option) => option.value === wanted) ? wanted : "";
      facet.select.value = facet.chosen;
    }
    const given = state.get("sort") || "";
    const key = given.replace(/^-/, "");
    sort = sortKeys.has(key) ? { key, down: given !== key } : { key: "", down: false };
    every = state.get("all") === "1";
    byId("every").checked = every;
    byId("filterbox").open = byId("filterbox").open || facets.some((facet) => facet.chosen !== "");
  };

  // Comparing
  const pick = (index, on) => {
    picked = picked.filter((one) => one !== index);
    if (on) picked = [...picked.slice(-1), index];
    for (const one of table.querySelectorAll("tr[data-row]")) {
      one.querySelector("input").checked = picked.includes(Number(one.dataset.row));
    }
    byId("compare").disabled = picked.length !== 2;
    say(picked.length ? `; ${picked.length} of 2 chosen to compare` : "");
  };
  const compare = () => {
    const [one, two] = picked.map((index) => rows[index]);
    const [left, right] = [groups[one[0]], groups[two[0]]];
    const facts = [
      ["base", left.base, right.base], ["suite", left.suite, right.suite], ["data", left.data, right.data],
      ["engine", left.engine, right.engine], ["judge", left.judge, right.judge],
      ["questions", left.differs, right.differs],
    ];
    const apart = facts.filter(([, a, b]) => a !== b).map(([name]) => name);
    const parts = [];
    if (apart.length) {
      parts.push(make("p", {}, badge("not comparable", true), ` The rows differ in ${apart.join(", ")}.`));
    } else if (one[2] !== two[2]) {
      parts.push(make("p", {}, badge("other template", true), " The rows were asked in different templates."));
    }
    const head = make("tr", {}, make("th", { scope: "col" }, "number"));
    for (const row of [one, two]) {
      const record = records[row[1]];
      head.append(make("th", { scope: "col" }, make("a", { href: `records/${record.page}.html` }, record.name),
        make("span", { class: "small" }, row[2])));
    }
    const points = make("span", { class: "small" }, "points");
    head.append(make("th", { scope: "col", class: "number" }, "second − first", points),
      make("th", { scope: "col" }, "intervals"));
    const body = make("tbody");
    const mine = [one, two].map((row) => records[row[1]]);
    for (const key of ["dataset", "strategy", "mitigation", "share"]) facts.push([key, mine[0][key], mine[1][key]]);
    const both = facts.filter(([, a, b]) => a === b && a !== null && a !== "").map(([name, a]) => `${name} ${a}`);
    if (both.length) parts.push(make("p", { class: "dim" }, `Both: ${both.join(", ")}.`));
    for (const [name, a, b] of facts) {
      if (a !== b) {
        body.append(make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(a ?? "–")),
          make("td", {}, String(b ?? "–")), make("td"), make("td")));
      }
    }
    const side = (cell) => {
      const one = make("td", { class: "number" }, told(cell));
      if (cell !== null && cell[0] !== null && isShare(cell)) {
        const note = make("span", { class: "small" }, `${interval(cell)}, n ${cell[3]}`);
        one.append(bar(cell[0], cell[1], cell[2], "interval"), note);
      }
      return one;
    };
    columns.forEach((column, index) => {
      const [a, b] = [metricOf(one, index), metricOf(two, index)];
      if (a === null && b === null) return;
      let [difference, overlap] = ["–", ""];
      if ([a, b].every((cell) => cell !== null && cell[0] !== null && isShare(cell))) {
        const points = (b[0] - a[0]) * 100;
        difference = `${points > 0 ? "+" : points < 0 ? "−" : ""}${Math.abs(points).toFixed(1)}`;
        overlap = a[1] <= b[2] && b[1] <= a[2] ? "overlap" : "apart";
      }
      body.append(make("tr", {}, make("th", { scope: "row" }, column.heading), side(a), side(b),
        make("td", { class: "number" }, difference), make("td", {}, overlap)));
    });
    const caption = make("caption", {}, make("span", { class: "wide" },
      "Per cent, with 95 % intervals. Intervals that overlap do not show that there is no difference: "
      + "for the same prompts, pair by pair, run dosafe compare on the two records."));
    byId("compared").replaceChildren(...parts,
      make("div", { class: "scroll", role: "region", "aria-label": "Comparison", tabindex: "0" },
        make("table", {}, caption, make("thead", {}, head), body)));
    byId("dialog").showModal();
  };

  // Downloads of what is shown
  const plain = (index) => {
    const row = rows[index], record = records[row[1]], group = groups[row[0]];
    const one = {
      base: group.base, suite: group.suite, data: group.data, engine: group.engine, judge: group.judge,
      questions: group.differs, model: record.name, template: row[2], dataset: record.dataset, strategy: record.strategy,
      mitigation: record.mitigation, share: record.share, flags: record.flags.join("; "),
      verification: record.state,
      rank_best: typeof row[4] === "number" ? row[3] : null, rank_worst: typeof row[4] === "number" ? row[4] : null,
    };
    for (const column of visible) {
      const cell = metricOf(row, column), { title } = columns[column];
      const part = (place) => (cell === null ? null : cell[place]);
      one[title] = part(0);
      one[`${title} low`] = part(1);
      one[`${title} high`] = part(2);
      one[`${title} n`] = cell === null ? null : cell[3];
    }
    return one;
  };
  const harmless = (value) => {
    let text = value === null ? "" : String(value);
    if (typeof value === "string" && /^\s*[=+\-@]/.test(text)) text = `'${text}`;  // no formula in a spreadsheet
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const asCsv = () => {
    const shown = found.map(plain);
    const header = shown.length ? Object.keys(shown[0]) : [];
    const lines = [header, ...shown.map((one) => header.map((key) => one[key]))];
    return lines.map((line) => `${line.map(harmless).join(",")}\n`).join("");
  };
  const download = (name, type, text) => {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  // Set up
  for (const facet of facets) {
    const values = [...new Set(rows.map((row) => facet.of(row)))];
    values.sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : 1));
    const shown = (value) => (typeof value === "number" ? `${percent(value)} %` : value);
    facet.select = make("select", { id: `by-${facet.key}` }, make("option", { value: "" }, "all"),
      ...values.map((value) => make("option", { value }, shown(value))));
    facet.select.addEventListener("change", () => { facet.chosen = facet.select.value; page = 0; refresh(); });
    byId("filters").append(make("div", {}, make("label", { for: `by-${facet.key}` }, facet.label), facet.select));
  }
  byId("filterbox").open = matchMedia("(min-width: 45rem)").matches;
  byId("search").addEventListener("input", () => { page = 0; refresh(true); });
  byId("every").addEventListener("change", () => { every = byId("every").checked; refresh(); });
  byId("clear").addEventListener("click", () => {
    byId("search").value = "";
    for (const facet of facets) { facet.chosen = ""; facet.select.value = ""; }
    sort = { key: "", down: false };
    every = false;
    byId("every").checked = false;
    page = 0;
    picked = [];
    reorder(); refresh(); pick(-1, false);
  });
  for (const [id, step] of [["before", -1], ["after", 1]]) {
    byId(id).addEventListener("click", () => { page += step; refresh(); table.scrollIntoView(); });
  }
  byId("compare").addEventListener("click", compare);
  byId("close").addEventListener("click", () => byId("dialog").close());
  byId("csv").addEventListener("click", () => download("shown.csv", "text/csv", asCsv()));
  byId("json").addEventListener("click", () => {
    download("shown.json", "application/json", `${JSON.stringify(found.map(plain), null, 1)}\n`);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return;
    page = 0;
    restore(); reorder(); refresh();
  });
  byId("controls").hidden = byId("csv").hidden = byId("json").hidden = false;
  restore();
  reorder();
  refresh();
})();
