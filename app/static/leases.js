// What keeps a task in hand while somebody works on it: drafts on the server, a beat that keeps the lease, the next
// task fetched ahead, and the offer to take the last answer back.
"use strict";

(() => {
  const DRAFT_AFTER_MS = 800;
  const BEAT_MS = 60_000;
  const ACTIVE_MS = 5 * 60_000;
  const AHEAD_AFTER_MS = 3_000;

  const task = () => document.getElementById("task");
  const address = () => task()?.dataset.task;
  const form = () => task()?.querySelector("form.ranking, form.writing");
  const token = () => JSON.parse(document.body.getAttribute("hx-headers") ?? "{}")["X-CSRF-Token"] ?? "";

  function send(path, body = new URLSearchParams(), options = {}) {
    return fetch(path, { method: "POST", body, headers: { "X-CSRF-Token": token() }, redirect: "error", ...options });
  }

  // A page that is being left can still say one thing; the token then travels as a field.
  function sendLast(path, body = new URLSearchParams()) {
    body.set("csrf_token", token());
    navigator.sendBeacon(path, body);
  }

  // ── drafts ─────────────────────────────────────────────────────────────────

  let draftTimer = 0;
  const keepsDrafts = () => address() && form() && task().dataset.state !== "done" && form().querySelector(".submit");

  function sayDraft(text) {
    for (const place of document.querySelectorAll("[data-draft-state]")) place.textContent = text;
  }

  function filled() {
    return new URLSearchParams([...new FormData(form())].filter(([, value]) => typeof value === "string" && value !== ""));
  }

  async function saveDraft() {
    draftTimer = 0;
    const of = address();
    try {
      const answer = await send(`${of}/draft`, filled());
      if (address() === of) sayDraft(answer.ok ? "Draft saved" : "");
    } catch {
      if (address() === of) sayDraft("Draft not saved yet");
    }
  }

  function noteChange(event) {
    if (!keepsDrafts() || !form().contains(event.target) || event.target.closest("[data-focus-tools], dialog")) return;
    sayDraft("");
    clearTimeout(draftTimer);
    draftTimer = setTimeout(saveDraft, DRAFT_AFTER_MS);
  }

  function dropDraft() {
    clearTimeout(draftTimer);
    draftTimer = 0;
  }

  for (const name of ["input", "change", "plackett:filled"]) document.addEventListener(name, noteChange);

  // ── the lease ──────────────────────────────────────────────────────────────

  let activeAt = Date.now();

  async function beat() {
    if (task()?.dataset.state !== "leased" || document.hidden || Date.now() - activeAt > ACTIVE_MS) return;
    const of = address();
    try {
      const { until } = await (await send(`${of}/keep`)).json();
      if (!until && address() === of) endLease();
    } catch {
      // No network or no session: the next beat tries again, and sending the answer tells what is wrong.
    }
  }

  function endLease() {
    task().dataset.state = "expired";
    const box = document.createElement("div");
    box.className = "notice notice-warning";
    box.setAttribute("role", "status");
    const line = document.createElement("p");
    line.textContent = "Your time for this task is over. You can still send it: it counts if nobody else has taken your place.";
    box.append(line);
    document.getElementById("alerts").replaceChildren(box);
  }

  for (const name of ["pointerdown", "keydown", "scroll", "pointermove"]) {
    document.addEventListener(name, () => { activeAt = Date.now(); }, { passive: true, capture: true });
  }
  setInterval(beat, BEAT_MS);
  document.addEventListener("visibilitychange", beat);

  // ── the next task, ahead ───────────────────────────────────────────────────

  let ahead = null; // { id, html }: text only, until the server says that it is to be shown
  let aheadTimer = 0;

  async function fetchAhead() {
    const of = address();
    if (ahead || document.hidden || task()?.dataset.state !== "leased") return;
    try {
      const answer = await send(`${of}/ahead`);
      const id = answer.headers.get("Plackett-Ahead");
      if (answer.ok && id) ahead = { id, html: await answer.text() };
    } catch {
      // Without it the next task comes with the answer to this one.
    }
  }

  function planAhead() {
    clearTimeout(aheadTimer);
    aheadTimer = setTimeout(fetchAhead, AHEAD_AFTER_MS);
  }

  document.body.addEventListener("htmx:configRequest", (event) => {
    if (ahead) event.detail.headers["Plackett-Ahead"] = ahead.id;
    if (event.target.matches?.("form[data-saving]")) dropDraft();
    else if (draftTimer && event.target.closest?.("form[data-undo]")) {
      dropDraft();
      saveDraft();
    }
  });

  // The server names the task it shows. If that is the one at hand, its text takes the place of the short answer.
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target?.id !== "task" || !event.detail.shouldSwap || event.detail.xhr.status !== 200) return;
    const shown = event.detail.xhr.getResponseHeader("Plackett-Shown");
    if (ahead && shown === ahead.id) {
      const page = new DOMParser().parseFromString(ahead.html, "text/html");
      const aside = new DOMParser().parseFromString(event.detail.serverResponse, "text/html").querySelector(".task-aside");
      page.querySelector(".task-aside").replaceWith(aside);
      event.detail.serverResponse = page.getElementById("task").outerHTML;
    } else {
      giveBack();
    }
    ahead = null;
  });

  function giveBack() {
    if (ahead) sendLast(`/work/assignments/${ahead.id}/give-back`);
    ahead = null;
  }

  window.addEventListener("pagehide", () => {
    clearTimeout(aheadTimer);
    if (draftTimer && keepsDrafts()) sendLast(`${address()}/draft`, filled());
    dropDraft();
    giveBack();
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) planAhead();
  });

  // ── undo ───────────────────────────────────────────────────────────────────

  function countUndo(undo) {
    const until = Date.now() + Number(undo.dataset.undo) * 1000;
    const place = undo.querySelector("[data-undo-left]");
    function tick() {
      const left = Math.ceil((until - Date.now()) / 1000);
      if (!undo.isConnected) return;
      if (left > 0) {
        place.textContent = `${left} s`;
        setTimeout(tick, 1000);
      } else if (undo.contains(document.activeElement)) {
        setTimeout(tick, 1000); // Somebody is about to press it; the server takes it a little longer.
      } else {
        undo.remove();
      }
    }
    tick();
  }

  // A report that is sent or a menu that is left closes.
  document.addEventListener("keydown", (event) => {
    const menu = event.target.closest?.(".task-menu[open]");
    if (event.key !== "Escape" || !menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll(".task-menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });

  document.body.addEventListener("htmx:load", (event) => {
    if (!event.target.querySelector("#task") && event.target.id !== "task") return;
    for (const undo of event.target.querySelectorAll("form[data-undo]")) countUndo(undo);
    dropDraft();
    planAhead();
  });
})();
