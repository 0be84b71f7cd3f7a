"use strict";
// Click a header: sort by that column, numbers by value, what is not known last; click again: the other way round.
(function () {
  const table = document.getElementById("layers");
  const body = table.tBodies[0];
  const headers = Array.from(table.tHead.rows[0].cells);
  const compare = function (a, b, index, numeric, sign) {
    const left = a.cells[index], right = b.cells[index];
    if (!numeric) { return sign * left.textContent.localeCompare(right.textContent, undefined, { numeric: true }); }
    const known = [left, right].map(function (cell) { return cell.dataset.value !== ""; });
    if (!known[0] || !known[1]) { return Number(known[1]) - Number(known[0]); }
    const values = [left, right].map(function (cell) {
      return cell.dataset.value === "inf" ? Infinity : Number(cell.dataset.value);
    });
    return values[0] === values[1] ? 0 : sign * Math.sign(values[0] - values[1]);
  };
  headers.forEach(function (header, index) {
    header.addEventListener("click", function () {
      const down = header.getAttribute("aria-sort") === "ascending";
      headers.forEach(function (other) { other.removeAttribute("aria-sort"); });
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = Array.from(body.rows);
      rows.sort(function (a, b) { return compare(a, b, index, header.classList.contains("n"), down ? -1 : 1); });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
})();
