// Ranking by drag and by keyboard, on top of the radio buttons, which stay the truth and are what is sent.
"use strict";

(() => {
  const KEYS_OFF = "plackett.keys-off";
  const DRAG_STARTS_AT = 5; // pixels; less is a click

  const current = () => document.querySelector("form[data-ranking]");
  const cards = (form) => [...form.querySelectorAll(".answer")];
  const radios = (form, letter) => [...form.querySelectorAll(`input[name="rank_${letter}"]`)];
  const rankOf = (form, letter) => Number(radios(form, letter).find((radio) => radio.checked)?.value ?? 0);
  const isComplete = (form) => cards(form).every((card) => rankOf(form, card.dataset.letter));

  function listed(letters) {
    return letters.length < 2 ? letters.join("") : `${letters.slice(0, -1).join(", ")} and ${letters.at(-1)}`;
  }

  function describe(form, letter) {
    const rank = rankOf(form, letter);
    if (!rank) return "";
    const others = cards(form).map((card) => card.dataset.letter);
    const tied = others.filter((other) => other !== letter && rankOf(form, other) === rank);
    return tied.length ? `Rank ${rank}, tied with ${listed(tied)}` : `Rank ${rank}`;
  }

  // Bring board, texts and button in line with the radio buttons.
  function refresh(form) {
    for (const card of cards(form)) {
      const { letter } = card.dataset;
      const rank = rankOf(form, letter);
      card.querySelector("[data-rank-text]").textContent = describe(form, letter);
      card.classList.toggle("is-ranked", rank > 0);
      const chips = form.querySelector(`[data-zone="${rank}"] .zone-chips`);
      const chip = form.querySelector(`.chip[data-drag="${letter}"]`);
      if (chip.parentElement === chips) continue;
      const after = [...chips.children].find((other) => other.dataset.drag > letter);
      chips.insertBefore(chip, after ?? null);
    }
    form.querySelector(".submit").disabled = !isComplete(form);
  }

  function announce(form, letter) {
    const left = cards(form).filter((card) => !rankOf(form, card.dataset.letter)).length;
    const rest = left ? `${left} left to rank.` : "All are ranked; you can submit.";
    form.querySelector("[data-announce]").textContent = `Answer ${letter}: ${describe(form, letter) || "no rank"}. ${rest}`;
  }

  function setRank(form, letter, rank) {
    for (const radio of radios(form, letter)) radio.checked = Number(radio.value) === rank;
    refresh(form);
    announce(form, letter);
  }

  function goTo(card) {
    if (!card) return;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // ── drag and drop, for mouse, pen and touch alike ──────────────────────────

  function drag(form, down) {
    const handle = down.target.closest("[data-drag]");
    if (!handle || down.button !== 0) return;
    const letter = handle.dataset.drag;
    let ghost = null;
    let over = null;
    handle.setPointerCapture(down.pointerId);

    function enter(zone) {
      over?.classList.remove("is-over");
      over = zone;
      over?.classList.add("is-over");
    }

    function move(event) {
      if (!ghost) {
        if (Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < DRAG_STARTS_AT) return;
        ghost = document.createElement("span");
        ghost.className = "chip chip-ghost";
        ghost.textContent = letter;
        document.body.append(ghost);
        form.classList.add("is-dragging");
      }
      ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`;
      enter(document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-zone]") ?? null);
    }

    function end(event) {
      for (const [name, handler] of handlers) document.removeEventListener(name, handler, true);
      ghost?.remove();
      form.classList.remove("is-dragging");
      const target = over;
      enter(null);
      if (event.type !== "pointerup") return;
      if (!ghost) goTo(form.querySelector(`#answer-${letter}`));
      else if (target && form.contains(target)) setRank(form, letter, Number(target.dataset.zone));
    }

    function escape(event) {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      end(event);
    }

    const handlers = [["pointermove", move], ["pointerup", end], ["pointercancel", end], ["keydown", escape]];
    for (const [name, handler] of handlers) document.addEventListener(name, handler, true);
  }

  // ── keyboard ───────────────────────────────────────────────────────────────

  function keysAreOff() {
    try {
      return localStorage.getItem(KEYS_OFF) === "yes";
    } catch {
      return false; // The browser keeps nothing for us; the keys then work on every page.
    }
  }

  function keepKeysOff(off) {
    try {
      if (off) localStorage.setItem(KEYS_OFF, "yes");
      else localStorage.removeItem(KEYS_OFF);
    } catch {
      // As above: the choice holds for this page only.
    }
  }

  function toggleHelp(form) {
    const help = form.querySelector("[data-help]");
    if (help.open) help.close();
    else help.showModal();
  }

  function chosen(form) {
    const card = document.activeElement.closest?.(".answer");
    if (card && form.contains(card)) return card;
    return cards(form).find((each) => !rankOf(form, each.dataset.letter)) ?? cards(form)[0];
  }

  function submitIfComplete(form) {
    if (isComplete(form) && !form.querySelector(".submit").disabled) form.requestSubmit();
  }

  function onKey(event) {
    const form = current();
    if (!form || event.defaultPrevented || event.altKey || event.isComposing) return;
    const { target, key } = event;
    if (key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submitIfComplete(form);
      return;
    }
    if (event.ctrlKey || event.metaKey || form.dataset.keys === "off") return;
    if (key === "?") {
      toggleHelp(form);
      return;
    }
    // Elsewhere a key has its usual meaning: in menus, in the help, in fields that are not the ranks themselves.
    const inRanks = target.closest?.(".answer");
    if (form.querySelector("[data-help]").open || (!inRanks && target !== document.body && !target.matches(".task-title, main"))) return;
    const all = cards(form);
    const onRadio = target.matches("input[type=radio]");
    if (/^[0-9]$/.test(key) && Number(key) <= all.length) {
      const card = chosen(form);
      setRank(form, card.dataset.letter, Number(key));
      if (Number(key)) goTo(all.find((each) => !rankOf(form, each.dataset.letter)) ?? card);
      else goTo(card);
    } else if (/^[a-z]$/i.test(key) && all.some((card) => card.dataset.letter === key.toUpperCase())) {
      goTo(form.querySelector(`#answer-${key.toUpperCase()}`));
    } else if ((key === "ArrowLeft" || key === "ArrowRight") && !onRadio) {
      const at = all.indexOf(document.activeElement.closest?.(".answer"));
      const to = at < 0 ? 0 : at + (key === "ArrowRight" ? 1 : -1);
      goTo(all[Math.min(Math.max(to, 0), all.length - 1)]);
    } else if (key === "Enter" && !target.closest("a, button, summary")) {
      submitIfComplete(form);
    } else {
      return;
    }
    event.preventDefault();
  }

  // ── start ──────────────────────────────────────────────────────────────────

  function start(form) {
    const open = form.querySelector('[data-zone="0"] .zone-chips');
    for (const card of cards(form)) {
      const chip = document.createElement("span");
      chip.className = "chip";
      chip.dataset.drag = card.dataset.letter;
      chip.textContent = card.dataset.letter;
      open.append(chip);
    }
    for (const part of form.querySelectorAll(".needs-script")) part.hidden = false;
    form.classList.add("has-script");
    form.dataset.keys = keysAreOff() ? "off" : "on";

    const help = form.querySelector("[data-help]");
    const keys = form.querySelector("[data-keys-switch]");
    keys.checked = form.dataset.keys === "on";
    keys.addEventListener("change", () => {
      form.dataset.keys = keys.checked ? "on" : "off";
      keepKeysOff(!keys.checked);
    });
    form.querySelector("[data-open-help]").addEventListener("click", () => toggleHelp(form));
    form.querySelector("[data-close-help]").addEventListener("click", () => help.close());

    form.addEventListener("pointerdown", (event) => drag(form, event));
    form.addEventListener("change", (event) => {
      const letter = event.target.closest(".answer")?.dataset.letter;
      if (!letter) return;
      refresh(form);
      announce(form, letter);
    });
    refresh(form);
  }

  document.addEventListener("keydown", onKey);
  document.body.addEventListener("htmx:load", (event) => {
    for (const form of event.target.querySelectorAll("form[data-ranking]")) start(form);
  });
})();
