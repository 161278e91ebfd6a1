"use strict";
(() => {
  // Running jobs: fetched again every three seconds while the page is visible.
  for (const part of document.querySelectorAll("[data-refresh]")) {
    setInterval(async () => {
      if (document.hidden) return;
      try {
        const answer = await fetch(part.dataset.refresh, { headers: { accept: "text/html" } });
        if (answer.ok) part.innerHTML = await answer.text();
      } catch { /* the server is away: try again later */ }
    }, 3000);
  }
  // A select in a form applies at once.
  for (const choice of document.querySelectorAll("main form[method=get] select")) {
    choice.addEventListener("change", () => choice.form.submit());
  }
  // Tables sort by a click on a heading.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => row.cells[column].textContent.trim().replaceAll(",", "");
        const compare = (a, b) => {
          const [x, y] = [a, b].map((row) => parseFloat(value(row).replace("−", "-")));
          return Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (up ? compare(a, b) : compare(b, a))));
      });
    });
  }
})();
