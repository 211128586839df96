// What every page does beyond plain HTML. Without JavaScript all forms still work.
"use strict";

globalThis.plackett ??= {};

// Whether single keys are switched off, for people whose voice or other tools type for them: kept by the browser, one
// choice for every page that has keys. A browser that keeps nothing for us has them on, and a choice holds for its page.
plackett.keys = {
  areOff() {
    try {
      return localStorage.getItem("plackett.keys-off") === "yes";
    } catch {
      return false;
    }
  },
  keepOff(off) {
    try {
      if (off) localStorage.setItem("plackett.keys-off", "yes");
      else localStorage.removeItem("plackett.keys-off");
    } catch {
      // As above: the choice holds for this page only.
    }
  },
};

// Ask before a form that says it should be asked about: <form data-confirm="…">.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) {
    event.preventDefault();
    event.stopImmediatePropagation();
  }
}, true);

// Copy the text of an element: <button data-copy="id">.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.value ?? source.textContent);
    button.textContent = "Copied";
  } catch {
    // No permission, or no HTTPS: mark the text, so that the keyboard can copy it.
    source.focus();
    if (source.select) source.select();
  }
});

// A request of htmx that failed says so at the top of the page; what was typed stays where it is.
function showProblem(text) {
  const place = document.getElementById("alerts");
  const box = document.createElement("div");
  box.className = "notice notice-danger";
  const line = document.createElement("p");
  line.textContent = text;
  box.append(line);
  place.replaceChildren(box);
}

document.addEventListener("htmx:responseError", (event) => {
  const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
  const sentence = answer.querySelector(".error-text p");
  showProblem(sentence ? sentence.textContent : "The server could not answer. Nothing was lost; try again in a moment.");
});

for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, () => {
    showProblem("The server cannot be reached. Nothing was lost; your text is still on this page.");
  });
}

document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) document.getElementById("alerts")?.replaceChildren();
});

// On a narrow screen the tabs scroll; the current one is in sight.
for (const tab of document.querySelectorAll(":is(.tabs, .subtabs) [aria-current]")) {
  tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.offsetLeft - 32;
}

// The account menu closes on Escape and on a click elsewhere.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
