"use strict";
(() => {
  const PAGE = 60;
  const data = JSON.parse(document.getElementById("data").textContent);
  const { concepts, groups, titles, galleries, matches, pictures } = data;
  const at = (id) => document.getElementById(id);
  const ask = at("ask"), cards = at("cards"), status = at("status"), more = at("more");
  const backbone = at("backbone"), search = at("search"), sort = at("sort"), compared = at("compare");
  let shown = PAGE;

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text !== null) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }
  const whole = (name) => (name.length > 100 ? { title: name } : {});  // the page shows its first three lines
  const option = (value, text) => element("option", text, { value });
  const decimals = (value, n = 2) => {
    if (value === null) return "–";
    const text = value.toFixed(n);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
  };
  const folded = (text) => text.normalize("NFKC").toLowerCase();
  const words = concepts.map(([name, group]) => folded(group === null ? name : `${name} ${groups[group]}`));
  // a cluster: [number, size, n_test, cross-entropy, top-1, MI, [[concept, weight, lift, n]…],
  //   lower and upper end of the cross-entropy's interval, cross-entropy of the validation images, title, [picture…]]
  // best and worst are chosen by validation; clusters with few test images come last, those without any at the end
  const FEWEST = 5;
  const chosen = (c) => (c[9] === null ? c[3] : c[9]);
  const late = (c) => (chosen(c) === null ? 2 : c[2] < FEWEST ? 1 : 0);
  const by = (sign) => (a, b) => late(a) - late(b) || sign * ((chosen(a) ?? 0) - (chosen(b) ?? 0)) || a[0] - b[0];
  const ORDERS = {
    best: by(1),
    worst: by(-1),
    share: (a, b) => b[5] - a[5],
    large: (a, b) => b[1] - a[1],
    number: (a, b) => a[0] - b[0],
  };

  function card(cluster, hits, owner) {
    const [number, size, nTest, crossEntropy, top1, mi, defining, lo, hi, , title, seen] = cluster;
    const made = element("article", null, { class: "card" });
    const name = title === null ? "no concept" : titles[title];
    made.append(element("h3", `${owner ? `${owner} · ` : ""}Cluster ${number}: ${name}`, whole(name)));
    const interval = lo === null ? "" : ` [${decimals(lo)}, ${decimals(hi)}]`;
    const left = crossEntropy === null ? "no test image" : `${decimals(crossEntropy)} nats left${interval}, top-1 ${Math.round(100 * top1)} %`;
    made.append(element("p", `${size.toLocaleString("en")} images · ${left} · ${decimals(mi, 4)} nats of the MI`));
    if (seen.length) {
      const row = element("div", null, { class: "pictures" });
      for (const index of seen) {
        const [key, uri] = pictures[index];
        row.append(element("img", null, { src: uri, alt: key, title: key, width: 96, height: 96 }));
      }
      made.append(row);
    }
    const list = element("ul", null, { "aria-label": "Concepts with weight, lift and images" });
    for (const [concept, weight, lift, n] of defining) {
      const item = element("li", null), text = element("span", null, whole(concepts[concept][0]));
      text.append(element(hits && hits.has(concept) ? "mark" : "bdi", concepts[concept][0]));
      if (concepts[concept][1] !== null) text.append(" ", element("small", groups[concepts[concept][1]]));
      item.append(text, element("span", `w ${decimals(weight)} · lift ${decimals(lift, 1)} · ${n} img`, { class: "number" }));
      list.append(item);
    }
    made.append(list);
    return made;
  }

  function matched(gallery) {
    const pair = matches.find((m) => m[0] === gallery && m[1] === Number(compared.value));
    return compared.value === "" ? null : pair || null;
  }

  function selected(gallery) {
    const query = folded(search.value.trim());
    const order = ORDERS[sort.value];
    if (!query) return [[...gallery.clusters].sort(order), null];
    const hits = new Set(words.flatMap((word, index) => (word.includes(query) ? [index] : [])));
    const drive = (cluster) => Math.max(...cluster[6].filter((c) => hits.has(c[0])).map((c) => c[1]));
    const some = gallery.clusters.filter((cluster) => cluster[6].some((c) => hits.has(c[0])));
    return [some.sort((a, b) => drive(b) - drive(a)), hits];
  }

  function show() {
    const index = Number(backbone.value), gallery = galleries[index];
    const [list, hits] = selected(gallery);
    const pair = matched(index);
    const other = pair && galleries[pair[1]];
    const byNumber = other && new Map(other.clusters.map((c) => [c[0], c]));
    const made = list.slice(0, shown).map((cluster) => {
      if (!pair) return card(cluster, hits, "");
      const both = element("div", null, { class: "pair" });
      const [number, overlap] = pair[2][cluster[0]];
      const overlapText = number < 0 ? "no common image" : `${Math.round(100 * overlap)} % overlap: images in both / images in either`;
      both.append(element("p", overlapText), card(cluster, hits, gallery.backbone));
      if (number >= 0) both.append(card(byNumber.get(number), hits, other.backbone));
      return both;
    });
    cards.className = pair ? "pairs" : "";
    cards.replaceChildren(...made);
    more.hidden = list.length <= shown;
    sort.disabled = hits !== null;
    const quoted = `“${search.value.trim()}”`, count = `${list.length} of ${gallery.clusters.length} clusters`;
    const which = hits ? ` with ${quoted} among their concepts, largest weight first` : "";
    status.textContent = hits && !list.length
      ? `${count}: none has ${quoted} among its strongest concepts.`
      : `${count}${which}; ${Math.min(shown, list.length)} shown.`;
  }

  function again() { shown = PAGE; show(); }
  function partners() {
    const index = Number(backbone.value);
    const others = matches.filter((m) => m[0] === index).map((m) => m[1]);
    compared.replaceChildren(option("", "nothing"), ...others.map((o) => option(o, galleries[o].backbone)));
    at("compare-label").hidden = others.length === 0;
  }

  galleries.forEach((g, i) => backbone.append(option(i, `${g.backbone} (NMI ${g.nmi.toFixed(3)}, seed ${g.seed})`)));
  at("concepts").append(...concepts.slice(0, 2000).map(([name]) => option(name, null)));
  backbone.addEventListener("change", () => { partners(); again(); });
  for (const control of [sort, compared]) control.addEventListener("change", again);
  search.addEventListener("input", again);
  ask.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const first = shown;
    shown += PAGE;
    show();
    const next = cards.children[first]?.querySelector("h3");  // the button may be hidden now: move the focus to the first new card
    if (next) { next.tabIndex = -1; next.focus(); }
  });
  const closed = () => [...document.querySelectorAll("details:not([open], .numbers)")];
  let opened = [];
  addEventListener("beforeprint", () => { opened = closed(); for (const each of opened) each.open = true; });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
  ask.hidden = false;
  partners();
  show();

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = element("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => row.cells[column].textContent.trim();
        const compare = (a, b) => {
          const [x, y] = [a, b].map((row) => parseFloat(value(row).replace("−", "-")));
          return Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
        };
        const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? compare(a, b) : compare(b, a)));
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
