// What is written: counts the words of a demonstration, and opens an answer's own text to be improved.
"use strict";

(() => {
  function start(form) {
    const field = form.querySelector("textarea");
    const place = form.querySelector("[data-word-count]");
    if (!place) return;
    const count = () => {
      const words = field.value.trim().split(/\s+/).filter(Boolean).length;
      place.textContent = words === 1 ? "1 word" : `${words} words`;
    };
    field.addEventListener("input", count);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    count();
  }

  // A version that is as the answer was is no version: it is emptied again when its fold is closed.
  function startImproving(details) {
    const field = details.querySelector("[data-source]");
    const fill = (text) => {
      field.value = text;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    };
    details.addEventListener("toggle", () => {
      if (details.open && !field.value && !field.disabled) fill(field.dataset.source);
      else if (!details.open && field.value.trim() === field.dataset.source.trim()) fill("");
    });
    details.querySelector("[data-drop-edit]")?.addEventListener("click", () => {
      fill("");
      details.open = false;
      details.querySelector("summary").focus();
    });
  }

  document.body.addEventListener("htmx:load", (event) => {
    for (const form of event.target.querySelectorAll("form.writing")) start(form);
    for (const details of event.target.querySelectorAll("details.improve")) startImproving(details);
  });
})();
