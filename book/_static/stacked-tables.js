/* On a phone the rows of some tables are stacked (custom.css): each cell then needs its column's head. */
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.stacked-on-a-phone")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, column) => {
        if (column > 0 && heads[column] && cell.textContent.trim()) cell.dataset.head = heads[column];
      });
    }
  }
});
