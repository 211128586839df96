// Counts the words of a demonstration while it is written; Ctrl+Enter submits it.
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

  document.body.addEventListener("htmx:load", (event) => {
    for (const form of event.target.querySelectorAll("form.writing")) start(form);
  });
})();
