// Live chat on top of plain forms: streams both answers into the page, and adds the keyboard to the row of choices.
"use strict";

(() => {
  const PAUSES = [500, 1000, 2000, 4000];
  const TIES = new Set(["tie", "both_good", "both_bad"]);

  const chat = () => document.getElementById("chat");
  const choice = () => document.querySelector("form[data-choice]");
  const options = (form) => [...form.querySelectorAll("input[name=choice]")];
  const chosen = (form) => options(form).find((option) => option.checked);

  function announce(text) {
    const place = document.querySelector("[data-announce]");
    if (place) place.textContent = text;
  }

  // ── the stream ─────────────────────────────────────────────────────────────

  function show(sides, line) {
    const card = sides.querySelector(`[data-side="${line.side}"]`);
    const place = card?.querySelector("[data-coming]");
    if (!place) return;
    const follows = innerHeight + scrollY >= document.documentElement.scrollHeight - 24;
    if (line.text !== undefined) place.textContent = line.anew ? line.text : place.textContent + line.text;
    if (line.over) {
      card.dataset.state = "over";
      card.querySelector(".writing-dots")?.remove();
    }
    if (follows) scrollTo(0, document.documentElement.scrollHeight);
  }

  async function read(sides, body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) show(sides, JSON.parse(line));
    }
  }

  function refresh() {
    return htmx.ajax("GET", location.pathname, { target: "#chat", swap: "outerHTML" });
  }

  // The server goes on with the answers whether or not this page hears them; so a broken connection is simply made anew.
  async function stream(form, tries = 0) {
    const sides = document.querySelector("[data-answers]");
    const token = form.querySelector("input[name=csrf_token]").value;
    form.hidden = true;
    let sentence = "The server cannot be reached. What was said is kept; try again in a moment.";
    try {
      const answer = await fetch(sides.dataset.answers, {
        method: "POST",
        headers: { Accept: "application/x-ndjson", "X-CSRF-Token": token },
      });
      if (answer.ok) {
        await read(sides, answer.body);
        if (sides.isConnected) await refresh();
        return;
      }
      if (answer.status === 401 || answer.status === 403) tries = PAUSES.length;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      sentence = answer.status === 401 || answer.status === 403
        ? "You are signed out. Sign in in another tab, then reload this page: the chat is kept."
        : page.querySelector(".error-text p")?.textContent ?? sentence;
    } catch {
      // The connection was lost, or never came about.
    }
    if (!sides.isConnected) return;
    if (tries < PAUSES.length) {
      setTimeout(() => sides.isConnected && stream(form, tries + 1), PAUSES[tries]);
      return;
    }
    form.hidden = false;
    form.querySelector("[data-stream-state]").textContent = sentence;
    announce(sentence);
  }

  // ── the row of choices ─────────────────────────────────────────────────────

  function pick(form, option) {
    if (!option) return;
    option.checked = true;
    option.dispatchEvent(new Event("change", { bubbles: true }));
    announce(option.closest("label").textContent.trim());
  }

  function step(form, by) {
    const row = options(form);
    const at = row.indexOf(chosen(form));
    pick(form, row[at < 0 ? row.findIndex((option) => option.value === "tie") + by : Math.min(Math.max(at + by, 0), row.length - 1)]);
  }

  function send(form) {
    if (chosen(form) && !form.querySelector(".submit").disabled) form.requestSubmit();
  }

  function toggleHelp(form) {
    const help = form.querySelector("[data-help]");
    if (help.open) help.close();
    else help.showModal();
  }

  function onSide(form, side) {
    if (TIES.has(chosen(form)?.value)) {
      const option = form.querySelector(`input[name=go_on][value="${side}"]`);
      option.checked = true;
      announce(`Go on from ${option.closest("label").textContent.trim()}`);
      return;
    }
    const card = document.getElementById(`answer-${side.toUpperCase()}`);
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  function onKey(event) {
    if (event.defaultPrevented || event.altKey || event.isComposing) return;
    const { target, key } = event;
    const writes = target.matches?.("textarea, input:not([type=radio], [type=checkbox])");
    if (key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const form = target.closest?.("form[data-say]") ?? choice();
      if (!form) return;
      event.preventDefault();
      if (form.matches("[data-say]")) form.requestSubmit();
      else send(form);
      return;
    }
    const form = choice();
    if (!form || event.ctrlKey || event.metaKey || writes || form.dataset.keys === "off") return;
    if (key === "?") {
      toggleHelp(form);
      return;
    }
    if (form.querySelector("[data-help]").open || target.matches?.("a, button, summary")) return;
    if (/^[1-9]$/.test(key)) pick(form, options(form)[Number(key) - 1]);
    else if (/^[ab]$/i.test(key)) onSide(form, key.toLowerCase());
    else if ((key === "ArrowLeft" || key === "ArrowRight") && !target.matches?.("input[type=radio]")) step(form, key === "ArrowRight" ? 1 : -1);
    else if (key === "Enter") send(form);
    else return;
    event.preventDefault();
  }

  // ── start, on the page and on whatever htmx puts in its place ──────────────

  function startChoice(form) {
    const keys = form.querySelector("[data-keys-switch]");
    form.dataset.keys = plackett.keys.areOff() ? "off" : "on";
    keys.checked = form.dataset.keys === "on";
    keys.addEventListener("change", () => {
      form.dataset.keys = keys.checked ? "on" : "off";
      plackett.keys.keepOff(!keys.checked);
    });
    form.querySelector("[data-open-help]").addEventListener("click", () => toggleHelp(form));
    form.querySelector("[data-close-help]").addEventListener("click", () => toggleHelp(form));
  }

  function start(page, isNew) {
    for (const part of page.querySelectorAll(".needs-script")) part.hidden = false;
    const coming = page.querySelector("form[data-get-answers]");
    if (coming) {
      coming.addEventListener("submit", (event) => {
        event.preventDefault();
        stream(coming);
      });
      stream(coming);
    }
    const row = page.querySelector("form[data-choice]");
    if (row) {
      startChoice(row);
      if (isNew) announce("Both answers are there.");
    }
    if (!isNew) return;
    const message = page.querySelector("form[data-say] textarea");
    if (message) {
      message.focus();
      message.scrollIntoView({ block: "nearest" });
    } else {
      page.querySelector(".task-title").focus({ preventScroll: true });
      (page.querySelector(".sides") ?? page).scrollIntoView({ block: "nearest" });
    }
  }

  let started = null;
  document.addEventListener("keydown", onKey);
  document.body.addEventListener("htmx:load", () => {
    const page = chat();
    if (!page || page === started) return;
    const isNew = started !== null;
    started = page;
    start(page, isNew);
  });
})();
