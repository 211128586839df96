// The board: ranks, strengths and the line set by dragging, on top of the fields, which stay the truth and are sent.
// `keys.js` drives the same functions from the keyboard, through `plackett.board`.
"use strict";

globalThis.plackett ??= {};

(() => {
  const DRAG_STARTS_AT = 5; // pixels; less is a click

  const current = () => document.querySelector("form[data-ranking]");
  const cards = (form) => [...form.querySelectorAll(".answer")];
  const isPair = (form) => cards(form).length === 2;
  const radios = (form, letter) => [...form.querySelectorAll(`input[name="rank_${letter}"]`)];
  const rankOf = (form, letter) => Number(radios(form, letter).find((radio) => radio.checked)?.value ?? 0);
  const line = (form) => form.querySelector("select[name=line]");
  const isPartial = (form) => Boolean(form.querySelector(".rank-none"));
  const used = (form) => [...new Set(cards(form).map((card) => rankOf(form, card.dataset.letter)))].filter(Boolean).sort((a, b) => a - b);

  function listed(letters) {
    return letters.length < 2 ? letters.join("") : `${letters.slice(0, -1).join(", ")} and ${letters.at(-1)}`;
  }

  function describe(form, letter) {
    const rank = rankOf(form, letter);
    if (!rank) return "";
    const others = cards(form).map((card) => card.dataset.letter);
    const tied = others.filter((other) => other !== letter && rankOf(form, other) === rank);
    const below = isBelow(form, rank) ? ", unacceptable" : "";
    return (tied.length ? `Rank ${rank}, tied with ${listed(tied)}` : `Rank ${rank}`) + below;
  }

  const isBelow = (form, rank) => Boolean(line(form)?.value) && rank > Number(line(form).value);

  // What is still asked for, as [what a person reads, where it is]; the button waits until there is nothing.
  function missing(form) {
    const found = [];
    const unranked = isPair(form) ? [] : cards(form).filter((card) => !rankOf(form, card.dataset.letter));
    if (isPartial(form)) {
      if (!used(form).length) found.push(["Rank at least the best.", unranked[0]]);
    } else if (unranked.length) {
      found.push([`To rank: ${listed(unranked.map((card) => card.dataset.letter))}.`, unranked[0]]);
    }
    const open = new Set();
    let first = null;
    for (const field of form.querySelectorAll(":invalid")) {
      if (!field.name || /^rank_/.test(field.name)) continue;
      open.add(field.name);
      first ??= field;
    }
    if (open.has("choice")) found.push(["Choose which is better.", first]);
    else if (open.size) found.push([`${open.size} required ${open.size === 1 ? "question" : "questions"} open.`, first]);
    return found;
  }

  const isComplete = (form) => missing(form).length === 0;

  // Bring board, texts and button in line with the fields.
  function refresh(form) {
    if (!isPair(form)) refreshBoard(form);
    for (const card of cards(form)) {
      const names = new Set([...card.querySelectorAll(".criterion [name]")].map((field) => field.name));
      const answered = [...names].filter((name) => new FormData(form).get(name)).length;
      const place = card.querySelector("[data-answered]");
      if (place) place.textContent = `${answered} of ${names.size}`;
      const edit = card.querySelector("[data-source]");
      edit?.closest(".improve").classList.toggle("is-improved", Boolean(edit.value.trim()) && edit.value.trim() !== edit.dataset.source.trim());
    }
    const left = missing(form);
    form.querySelector("[data-missing]").textContent = left.map(([words]) => words).join(" ");
    form.querySelector(".submit").disabled = left.length > 0;
  }

  function refreshBoard(form) {
    const ranks = used(form);
    for (const card of cards(form)) {
      const { letter } = card.dataset;
      const rank = rankOf(form, letter);
      card.querySelector("[data-rank-text]").textContent = describe(form, letter);
      card.classList.toggle("is-below", rank > 0 && isBelow(form, rank));
      const chips = form.querySelector(`[data-zone="${rank}"] .zone-chips`);
      const chip = form.querySelector(`.chip[data-drag="${letter}"]`);
      if (chip.parentElement === chips) continue;
      const after = [...chips.children].find((other) => other.dataset.drag > letter);
      chips.insertBefore(chip, after ?? null);
    }
    for (const zone of form.querySelectorAll(".zone:not([data-zone='0'])")) {
      zone.classList.toggle("is-below", isBelow(form, Number(zone.dataset.zone)));
    }
    for (const label of form.querySelectorAll(".gap-strength")) {
      const rank = Number(label.closest(".gap").dataset.gap);
      const at = ranks.indexOf(rank);
      const asked = at >= 0 && at < ranks.length - 1;
      const select = label.querySelector("select");
      label.classList.toggle("is-asked", asked);
      if (asked) label.querySelector(".gap-long").textContent = `Rank ${rank} is better than rank ${ranks[at + 1]}:`;
      else select.value = "";
      select.required = asked && select.options[0].text === "choose";
    }
    const mark = form.querySelector("[data-drag-line]");
    if (!mark) return;
    const { value } = line(form);
    const home = value ? form.querySelector(`[data-gap="${value}"]`) : form.querySelector(".line-field");
    if (mark.parentElement !== home) home.prepend(mark);
  }

  function say(form, text) {
    form.querySelector("[data-announce]").textContent = text;
  }

  function announce(form, letter) {
    const left = missing(form);
    const rest = left.length ? left.map(([words]) => words).join(" ") : "All is answered; you can submit.";
    say(form, `Answer ${letter}: ${describe(form, letter) || "no rank"}. ${rest}`);
  }

  function changed(form) {
    refresh(form);
    form.dispatchEvent(new Event("plackett:filled", { bubbles: true }));
  }

  function setRank(form, letter, rank) {
    for (const radio of radios(form, letter)) radio.checked = Number(radio.value) === rank && (rank > 0 || radio.value === "");
    changed(form);
    announce(form, letter);
  }

  function drawLine(form, value) {
    const select = line(form);
    if (!select) return;
    select.value = value;
    changed(form);
    say(form, `Unacceptable: ${select.selectedOptions[0].text}.`);
  }

  function cycleStrength(form, rank) {
    const select = form.querySelector(`.is-asked select[name="strength_${rank}"]`);
    if (!select) return;
    select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
    changed(form);
    say(form, `Rank ${rank} is better than the next: ${select.selectedOptions[0].text}.`);
  }

  function goTo(card) {
    if (!card) return;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // ── drag and drop, for mouse, pen and touch alike ──────────────────────────

  function nearestGap(form, x, y) {
    const board = form.querySelector("[data-board]").getBoundingClientRect();
    const far = x < board.left - 40 || x > board.right + 40 || y < board.top - 40 || y > board.bottom + 40;
    if (far || document.elementFromPoint(x, y)?.closest(".line-cell")) return null;
    const distance = (gap) => {
      const box = gap.getBoundingClientRect();
      return Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom));
    };
    return [...form.querySelectorAll(".gap")].reduce((best, gap) => (distance(gap) < distance(best) ? gap : best));
  }

  function drag(form, down) {
    const handle = down.target.closest("[data-drag], [data-drag-line]");
    if (!handle || down.button !== 0 || isPair(form)) return;
    const letter = handle.dataset.drag;
    let ghost = null;
    let over = null;
    handle.setPointerCapture(down.pointerId);

    function enter(place) {
      over?.classList.remove("is-over");
      over = place;
      over?.classList.add("is-over");
    }

    function move(event) {
      if (!ghost) {
        if (Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < DRAG_STARTS_AT) return;
        ghost = document.createElement("span");
        ghost.className = letter ? "chip chip-ghost" : "line-ghost";
        ghost.textContent = letter ?? "";
        document.body.append(ghost);
        form.classList.add("is-dragging");
      }
      ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`;
      const { clientX: x, clientY: y } = event;
      enter(letter ? document.elementFromPoint(x, y)?.closest("[data-zone]") ?? null : nearestGap(form, x, y));
    }

    function end(event) {
      for (const [name, handler] of handlers) document.removeEventListener(name, handler, true);
      ghost?.remove();
      form.classList.remove("is-dragging");
      const target = over;
      enter(null);
      if (event.type !== "pointerup") return;
      if (!ghost) {
        if (letter) goTo(form.querySelector(`#answer-${letter}`));
      } else if (!letter) drawLine(form, target?.dataset.gap ?? "");
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

  // ── start ──────────────────────────────────────────────────────────────────

  function start(form) {
    form.classList.add("has-script");
    form.addEventListener("pointerdown", (event) => drag(form, event));
    // A second press on what is chosen already takes it away, where an answer is not required.
    let wasChecked = null;
    form.addEventListener("pointerdown", (event) => {
      const radio = event.target.closest(".point")?.querySelector("input");
      wasChecked = radio?.checked && !radio.required ? radio : null;
    });
    form.addEventListener("click", (event) => {
      if (event.target !== wasChecked) return;
      wasChecked.checked = false;
      wasChecked = null;
      changed(form);
    });
    form.addEventListener("input", () => refresh(form));
    form.addEventListener("change", (event) => {
      refresh(form);
      const letter = /^rank_/.test(event.target.name) && event.target.closest(".answer")?.dataset.letter;
      if (letter) announce(form, letter);
    });
    refresh(form);
  }

  plackett.board = { announce, cards, changed, current, cycleStrength, drawLine, goTo, isComplete, isPair, line, missing, rankOf, say, setRank };

  document.body.addEventListener("htmx:load", (event) => {
    for (const form of event.target.querySelectorAll("form[data-ranking]")) start(form);
  });
})();
