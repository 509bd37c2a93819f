/* The table of images, of which a page at a time is in the document, and what pytest-html lacks for keyboards. */
(() => {
  "use strict";
  document.documentElement.lang = "en";
  if (!document.querySelector("meta[name=viewport]")) {
    const viewport = document.createElement("meta");
    viewport.name = "viewport";
    viewport.content = "width=device-width, initial-scale=1";
    document.head.append(viewport);
  }

  const PAGE = 25;
  const data = document.getElementById("image-data");
  if (data) imageTable(JSON.parse(data.textContent));
  document.addEventListener("DOMContentLoaded", pytestHtml);

  function imageTable({ columns, rows, filters }) {
    const form = document.getElementById("image-filters");
    const body = document.querySelector("#image-table tbody");
    const buttons = [...document.querySelectorAll("#image-table th button")];
    let shown = rows, page = 0, sorted = null, descending = false;

    const compare = (a, b) => {
      const [x, y] = [a[sorted], b[sorted]];
      if (x === null || y === null) return (x === null) - (y === null); // what was not measured goes last
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return descending ? -order : order;
    };

    function select() {
      const wanted = Object.fromEntries(new FormData(form));
      const number = wanted.image.trim();
      shown = rows.filter((row) =>
        Object.entries(filters).every(([name, column]) =>
          name === "image" ? number === "" || row[column] === Number(number)
                           : wanted[name] === "" || row[column] === wanted[name]));
      if (sorted !== null) shown = [...shown].sort(compare);
      page = 0;
      draw();
    }

    function draw() {
      const part = shown.slice(page * PAGE, (page + 1) * PAGE);
      body.replaceChildren(...part.map((row) => {
        const line = document.createElement("tr");
        line.className = "image-" + row[filters.checks].replace(" ", "-");
        row.forEach((value, column) => {
          const cell = document.createElement("td");
          cell.textContent = value === null ? "" : typeof value === "number" ? text(value, column) : value;
          if (typeof value === "number") cell.className = "number";
          cell.dataset.label = cell.title = columns[column];
          line.append(cell);
        });
        return line;
      }));
      const pages = Math.max(1, Math.ceil(shown.length / PAGE));
      document.getElementById("image-count").textContent =
        `${shown.length} of ${rows.length} rows` + (shown.length ? "" : ": no image is like that");
      document.getElementById("image-page").textContent = `page ${page + 1} of ${pages}`;
      document.getElementById("image-previous").disabled = page === 0;
      document.getElementById("image-next").disabled = page + 1 >= pages;
      buttons.forEach((button, column) => button.parentElement.setAttribute(
        "aria-sort", column !== sorted ? "none" : descending ? "descending" : "ascending"));
    }

    const text = (value, column) => column === filters.image ? String(value).padStart(5, "0")
      : Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));

    function remember() {
      const wanted = new URLSearchParams();
      for (const [name, value] of new FormData(form)) if (value) wanted.set(name, value);
      if (sorted !== null) wanted.set("sort", (descending ? "-" : "") + columns[sorted]);
      const query = wanted.toString();
      history.replaceState(null, "", "#images" + (query ? "?" + query : ""));
    }

    function recall() {
      const [part, query] = location.hash.split("?");
      if (part !== "#images" || query === undefined) return;
      const wanted = new URLSearchParams(query);
      for (const name of Object.keys(filters)) {
        const field = form.elements[name];
        field.value = wanted.get(name) || "";
        if (field.selectedIndex === -1) field.value = ""; // no row has it
      }
      const sort = wanted.get("sort");
      const place = sort === null ? -1 : columns.indexOf(sort.replace(/^-/, ""));
      sorted = place < 0 ? null : place;
      descending = sort !== null && sort.startsWith("-");
      select();
      document.getElementById("images").scrollIntoView();
    }

    buttons.forEach((button, column) => button.parentElement.addEventListener("click", () => {
      descending = sorted === column && !descending;
      sorted = column;
      select();
      remember();
    }));
    form.addEventListener("input", () => { select(); remember(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { sorted = null; descending = false; select(); remember(); }));
    document.getElementById("image-previous").addEventListener("click", () => { page -= 1; draw(); });
    document.getElementById("image-next").addEventListener("click", () => { page += 1; draw(); });
    window.addEventListener("hashchange", recall);
    select();
    recall();
  }

  function pytestHtml() {
    for (const box of document.querySelectorAll("input[name=filter_checkbox]"))
      box.setAttribute("aria-label", `show ${box.dataset.testResult} tests`);
    const table = document.getElementById("results-table");
    if (!table) return;
    const reachable = () => {
      for (const cell of table.querySelectorAll("th.sortable, .collapsible .col-result")) cell.tabIndex = 0;
    };
    reachable();
    new MutationObserver(reachable).observe(table, { childList: true });
    table.addEventListener("keydown", (event) => {
      if ((event.key === "Enter" || event.key === " ") && event.target.matches("th, td")) {
        event.preventDefault();
        event.target.click();
      }
    });
    // Its rows are drawn after the page was opened at one of them.
    if (location.hash.startsWith("#test-")) document.querySelector(location.hash)?.scrollIntoView();
  }
})();
