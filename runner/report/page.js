"use strict";
(() => {
  const number = (text) => parseFloat(text.replaceAll(",", ""));
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  const reorder = (body, key, falling) => {
    const keyed = all("tr", body).map((row, at) => [key(row), at, row]);
    const direction = falling ? -1 : 1;
    keyed.sort(([a, i], [b, j]) => {
      const isNumber = typeof a === "number" && typeof b === "number";
      const order = isNumber ? (Number.isNaN(a) - Number.isNaN(b)) || (a - b) * direction : `${a}`.localeCompare(`${b}`, undefined, {numeric: true}) * direction;
      return order || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
  };

  const unmark = (table) => all("thead th", table).forEach((head) => head.removeAttribute("aria-sort"));

  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((head, place) => {
      const sort = () => {
        const was = head.getAttribute("aria-sort");
        const isNumber = head.classList.contains("number");
        const falling = was ? was === "ascending" : isNumber;
        unmark(table);
        if (table.id === "rows") document.getElementById("sort").value = "";
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const text = (row) => row.cells[place].textContent;
        reorder(table.tBodies[0], isNumber ? (row) => number(text(row)) : text, falling);
      };
      head.tabIndex = 0;
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
    });
  }

  const table = document.getElementById("rows");
  if (!table) return;
  const [search, found, which, sort] = ["search", "found", "which", "sort"].map((id) => document.getElementById(id));
  const rows = all("tbody tr", table).map((row) => [row, row.textContent.toLowerCase(), row.dataset.why.split(" ")]);
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0, most = 0;
    for (const [row, text, why] of rows) {
      const belongs = !which.value || why.includes(which.value);
      row.hidden = !belongs || !words.every((word) => text.includes(word));
      most += belongs ? 1 : 0;
      count += row.hidden ? 0 : 1;
    }
    found.textContent = words.length ? `${count} of ${most}` : "";
  };
  const keys = {
    row: (row) => number(row.cells[0].textContent),
    wrong: (row) => (row.classList.contains("failed") ? 0 : row.classList.contains("wrong") ? 1 : 2),
    doubt: (row) => -parseFloat(row.dataset.doubt),
  };
  const again = () => {
    if (!sort.value) return; // by a column, whose heading says so
    unmark(table);
    reorder(table.tBodies[0], keys[sort.value], false);
  };
  search.addEventListener("input", show);
  which.addEventListener("change", () => {
    if (which.value === "unsure") sort.value = "doubt";
    again();
    show();
  });
  sort.addEventListener("change", again);
  for (const box of all(".choose input")) {
    box.addEventListener("change", () => {
      all("[data-name]", table).filter((cell) => cell.dataset.name === box.value).forEach((cell) => cell.classList.toggle("more", !box.checked));
    });
  }
  show();
})();
