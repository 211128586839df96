// Saving a labeler's work: shows "not saved yet" until the server has confirmed it, and tries again by itself.
// The form carries one submit_id, so sending it twice stores one answer. Without JavaScript the form is sent plainly.
"use strict";

(() => {
  const PAUSES = [1, 2, 4, 8, 15, 30];
  const PASSING = new Set([0, 502, 503, 504]);
  let tries = 0;
  let timer = 0;
  let unsaved = false;
  let signedOut = false;

  const form = (event) => event.target.closest?.("form[data-saving]");

  function say(text, tone = "") {
    for (const place of document.querySelectorAll("[data-save-state]")) {
      place.textContent = text;
      place.dataset.tone = tone;
    }
  }

  function button(of, disabled) {
    for (const item of of.querySelectorAll("button[type=submit]")) item.disabled = disabled;
  }

  function countDown(of, seconds) {
    clearTimeout(timer);
    if (!of.isConnected) return;
    if (seconds <= 0) {
      of.requestSubmit();
      return;
    }
    say(`Not saved yet. Trying again in ${seconds} s.`, "waiting");
    timer = setTimeout(countDown, 1000, of, seconds - 1);
  }

  // After signing in again the page still holds the old token against forgery. The server hands out the new one.
  async function freshToken() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const token = page.querySelector("main input[name=csrf_token]")?.value;
    if (!token) return false;
    document.body.setAttribute("hx-headers", JSON.stringify({ "X-CSRF-Token": token }));
    for (const field of document.querySelectorAll("input[name=csrf_token]")) field.value = token;
    return true;
  }

  document.body.addEventListener("htmx:confirm", (event) => {
    if (!form(event) || !signedOut) return;
    event.preventDefault();
    freshToken().then((found) => {
      signedOut = !found;
      if (found) event.detail.issueRequest(true);
      else say("Not saved yet: you are signed out. Sign in in another tab, then submit here.", "problem");
    }, () => say("Not saved yet: the server cannot be reached. Try again in a moment.", "problem"));
  });

  document.body.addEventListener("htmx:beforeRequest", (event) => {
    const sent = form(event);
    if (!sent) return;
    clearTimeout(timer);
    unsaved = true;
    say(tries ? "Not saved yet. Trying again now." : "Saving…", "waiting");
    button(sent, true);
  });

  document.body.addEventListener("htmx:afterRequest", (event) => {
    const sent = form(event);
    if (!sent) return;
    const { status } = event.detail.xhr;
    if (event.detail.successful || status === 422) {
      tries = 0;
      unsaved = false;
      return;
    }
    button(sent, false);
    if (PASSING.has(status)) {
      countDown(sent, PAUSES[Math.min(tries, PAUSES.length - 1)]);
      tries += 1;
      return;
    }
    tries = 0;
    if (status === 401 || status === 403) {
      signedOut = true;
      say("Not saved yet: you are signed out. Sign in in another tab, then submit here.", "problem");
      return;
    }
    unsaved = false;
    const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    say(`Not saved. ${answer.querySelector(".error-text p")?.textContent ?? "The server could not answer."}`, "problem");
  });

  // These failures are told beside the button; the general notice at the top of the page would say them twice.
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    document.body.addEventListener(name, (event) => {
      if (form(event)) event.stopPropagation();
    });
  }

  // The next task has come: start at its top, for eyes and for screen readers.
  document.body.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.id === "task") event.target.querySelector(".task-title").focus({ preventScroll: true });
  });

  window.addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });
})();
