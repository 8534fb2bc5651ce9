// Sorts and filters the tables of a report, and folds its sections. Everything can be read without
// this script: it adds controls, and moves or hides rows.
"use strict";

(() => {
  /** Return the first number in a text, or NaN. */
  function firstNumber(text) {
    const match = text.replaceAll(",", "").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return match ? Number(match[0]) : NaN;
  }

  /** Return the value that a row is sorted by; undefined, which sorts last, for an empty cell. */
  function sortKey(row, column, numeric) {
    const text = row.cells[column].textContent.trim();
    const value = numeric ? firstNumber(text) : text;
    return value === "" || Number.isNaN(value) ? undefined : value;
  }

  function compare(a, b) {
    if (typeof a === "number") return a - b;
    return a.localeCompare(b, undefined, { numeric: true });
  }

  /** Put the rows of a table in order of a column, or, if `order` is null, in their own order. */
  function sortTable(table, rows, column, numeric, order) {
    const sign = order === "descending" ? -1 : 1;
    const keyed = rows.map((row) => ({ row, key: sortKey(row, column, numeric) }));
    if (order !== null) {
      keyed.sort((a, b) => {
        if (a.key === undefined || b.key === undefined) {
          return (a.key === undefined) - (b.key === undefined);
        }
        return sign * compare(a.key, b.key);
      });
    }
    table.tBodies[0].append(...keyed.map((one) => one.row));
  }

  /** Make the headings of a table buttons: ascending, descending, and the order of the page. */
  function makeSortable(table) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 2) return;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null };
        const now = head.getAttribute("aria-sort");
        const order = now in next ? next[now] : "ascending";
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        if (order !== null) head.setAttribute("aria-sort", order);
        sortTable(table, rows, column, head.classList.contains("n"), order);
      });
    });
  }

  /** Return the rows and blocks that are about one language, by language. */
  function findLanguages() {
    const found = new Map();
    const add = (language, element) => {
      if (!found.has(language)) found.set(language, []);
      found.get(language).push(element);
    };
    for (const head of document.querySelectorAll("thead th")) {
      if (head.textContent.trim() !== "language") continue;
      for (const row of head.closest("table").tBodies[0].rows) {
        add(row.cells[head.cellIndex].textContent.trim(), row);
      }
    }
    for (const block of document.querySelectorAll("[data-language]")) {
      add(block.dataset.language, block);
    }
    return found;
  }

  function makeButton(text, action) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", action);
    return button;
  }

  /** Return a menu that hides what is about other languages. */
  function makeFilter(languages) {
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.append(new Option("all", ""));
    for (const name of [...languages.keys()].sort()) select.append(new Option(name, name));
    select.addEventListener("change", () => {
      for (const [name, elements] of languages) {
        for (const one of elements) one.hidden = select.value !== "" && select.value !== name;
      }
    });
    label.append("Language ", select);
    return label;
  }

  function setAllFolds(open) {
    for (const fold of document.querySelectorAll("details")) fold.open = open;
  }

  const tools = document.querySelector(".tools");
  const languages = findLanguages();
  if (languages.size > 1) tools.append(makeFilter(languages));
  tools.append(makeButton("Open all", () => setAllFolds(true)));
  tools.append(makeButton("Close all", () => setAllFolds(false)));
  tools.hidden = false;
  document.querySelectorAll("table").forEach(makeSortable);
})();
