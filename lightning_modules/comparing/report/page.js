
"use strict";
// A click on a head sorts upwards, the next one downwards, the third restores the order that the table came in.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
  if (original.length < 2) continue;

  const key = (row, column) => row.cells[column].dataset.value;
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // numbers before words
    return Number.isNaN(x) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  const sorted = (column, sign) => {
    const filled = original.filter((row) => key(row, column) !== undefined);
    const empty = original.filter((row) => key(row, column) === undefined);
    return [...filled.sort((a, b) => sign * compare(key(a, column), key(b, column))), ...empty];
  };

  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" }[head.getAttribute("aria-sort")] ?? "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      body.append(...(next ? sorted(column, next === "ascending" ? 1 : -1) : original));
    });
  });
}

// What leads into a folded part opens it, also in browsers that would not by themselves.
const unfold = () => {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = place?.closest("details");
  if (!folded || folded.open) return;
  folded.open = true;
  place.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();

// The rows of a table as they stand, to be pasted into a spreadsheet.
for (const table of navigator.clipboard ? document.querySelectorAll("table.sortable") : []) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "copy table";
  button.addEventListener("click", async () => {
    const inert = (text) => (/^[=@]|^[-+](?![\d.\s]|$)/.test(text) ? `'${text}` : text); // no formula there
    const cells = (row) => [...row.cells].map((cell) => inert(cell.textContent.trim()));
    await navigator.clipboard.writeText([...table.rows].map((row) => cells(row).join("\t")).join("\n"));
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy table"), 1500);
  });
  table.parentElement.after(button);
}
