// Adds a row to the editor of criteria in place. Without JavaScript the same button asks the server for more rows.
"use strict";

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-more-criteria]");
  if (!button) return;
  event.preventDefault();
  const list = button.form.querySelector("[data-criteria]");
  const rows = list.querySelectorAll("[data-criterion]");
  const number = rows.length + 1;
  const row = rows[rows.length - 1].cloneNode(true);
  for (const part of row.querySelectorAll("[id], [name], [for]")) {
    for (const attribute of ["id", "name", "for"]) {
      const value = part.getAttribute(attribute);
      if (value) part.setAttribute(attribute, value.replace(/^criterion_\d+_/, `criterion_${number}_`));
    }
    if (part.type === "checkbox") part.checked = false;
    else if (part.tagName === "INPUT") part.value = "";
    else if (part.tagName === "SELECT") part.selectedIndex = 0;
  }
  const name = row.querySelector(".criterion-label");
  name.querySelector("label").textContent = `Criterion ${number}`;
  list.append(row);
  name.querySelector("input").focus();
  button.disabled = number >= 24;
});
