"use strict";
(() => {
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  if (!search) return;
  const rows = [...document.querySelectorAll("#sample tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [row, text] of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    found.textContent = words.length ? `${count} of ${rows.length}` : "";
  });
})();
