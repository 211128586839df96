// The board by keyboard: every key that the help lists. Single keys can be switched off, for people whose voice or
// other tools type for them; what a key does is the same function that dragging and clicking call.
"use strict";

(() => {
  const { board } = plackett;

  function toggleHelp(form) {
    const help = form.querySelector("[data-help]");
    if (help.open) help.close();
    else help.showModal();
  }

  const visible = (form) => board.cards(form).filter((card) => card.checkVisibility());

  // The answer that a key is about: the one with the focus, else the first without a rank, else the first.
  function chosen(form) {
    const card = document.activeElement.closest?.(".answer");
    if (card && form.contains(card)) return card;
    const shown = visible(form);
    return shown.find((each) => !board.rankOf(form, each.dataset.letter)) ?? shown[0];
  }

  function submit(form) {
    const [first] = board.missing(form);
    if (!first) {
      if (!form.querySelector(".submit").disabled) form.requestSubmit();
      return;
    }
    const [words, place] = first;
    if (place.matches(".answer")) board.goTo(place);
    else place.focus();
    board.say(form, words);
  }

  function step(form, by) {
    const all = visible(form);
    const at = all.indexOf(document.activeElement.closest?.(".answer"));
    const to = at < 0 ? 0 : at + by;
    board.goTo(all[Math.min(Math.max(to, 0), all.length - 1)]);
  }

  function rank(form, number) {
    if (board.isPair(form)) {
      const choices = [...form.querySelectorAll("input[name=choice]")];
      // 8 and 9 stand for both good and both bad, however long the row before them is.
      const row = choices.filter((each) => !each.value.startsWith("both"));
      const pick = number > 7 ? choices.find((each) => each.value === ["both_good", "both_bad"][number - 8]) : row[number - 1];
      if (!pick) return;
      pick.checked = true;
      board.changed(form);
      board.say(form, `${pick.nextElementSibling.firstChild.data.trim()} ${pick.nextElementSibling.querySelector("small")?.textContent ?? ""}. You can submit.`);
      return;
    }
    const all = board.cards(form);
    if (number > all.length) return;
    const card = chosen(form);
    board.setRank(form, card.dataset.letter, number);
    const next = visible(form).find((each) => !board.rankOf(form, each.dataset.letter));
    board.goTo(number ? next ?? card : card);
  }

  function moveLine(form) {
    const select = board.line(form);
    if (select) board.drawLine(form, select.options[(select.selectedIndex + 1) % select.options.length].value);
  }

  function lineBelow(form) {
    const of = board.rankOf(form, chosen(form).dataset.letter);
    if (board.line(form) && of) board.drawLine(form, board.line(form).value === String(of) ? "" : String(of));
  }

  function askAbout(form) {
    const card = chosen(form);
    const fold = card.querySelector(".criteria-fold");
    if (fold) fold.open = true;
    card.querySelector(".criterion [name]:checked, .criterion [name]")?.focus();
  }

  function improve(form) {
    const details = chosen(form).querySelector(".improve");
    if (!details) return;
    details.open = true;
    // The text is filled in when the fold reports that it is open.
    setTimeout(() => details.querySelector("textarea").focus(), 0);
  }

  // In a question about an answer a key answers it and goes on to the next one; after the last, back to the answer.
  function answer(form, field, key) {
    const all = [...field.closest(".criterion").querySelectorAll("input")];
    const pick = all.find((each) => each.value === key || (each.value === "yes" && key === "y") || (each.value === "no" && key === "n"));
    if (!pick) return false;
    pick.checked = true;
    board.changed(form);
    const card = field.closest(".answer");
    const questions = [...card.querySelectorAll(".criterion")];
    const next = questions[questions.indexOf(field.closest(".criterion")) + 1];
    if (next) next.querySelector("[name]:checked, [name]").focus();
    else board.goTo(card);
    return true;
  }

  function openMenu(name) {
    const menu = document.querySelector(`[data-menu="${name}"]`);
    if (!menu) return;
    menu.open = true;
    menu.querySelector("input[type=radio]")?.focus();
  }

  const press = (selector) => document.querySelector(selector)?.click();

  const KEYS = {
    "-": lineBelow,
    l: moveLine,
    s: (form) => board.cycleStrength(form, board.rankOf(form, chosen(form).dataset.letter)),
    q: askAbout,
    w: improve,
    r: (form) => form.querySelector("[name=reason]")?.focus(),
    v: () => press("[data-focus]"),
    n: () => press("[data-step='1']"),
    p: () => press("[data-step='-1']"),
    m: (form) => plackett.compare.toggle(form, "differences"),
    y: (form) => plackett.compare.toggle(form, "together"),
    u: () => press("form[data-undo] button:not([hidden])"),
    z: () => openMenu("skip"),
    x: () => openMenu("flag"),
  };

  function isText(target) {
    return target.matches("textarea, select, input:not([type=radio], [type=checkbox])");
  }

  function onKey(event) {
    const form = board.current();
    if (!form || event.defaultPrevented || event.altKey || event.isComposing) return;
    const { target } = event;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit(form);
      return;
    }
    if (event.ctrlKey || event.metaKey) return;
    if (key === "Escape" && form.contains(target) && isText(target) && !form.querySelector("[data-help]").open) {
      board.goTo(target.closest(".answer") ?? visible(form)[0]);
      return;
    }
    if (form.dataset.keys === "off") return;
    if (key === "?" && !isText(target)) {
      event.preventDefault();
      toggleHelp(form);
      return;
    }
    // In texts, menus and the help a key has its usual meaning.
    if (form.querySelector("[data-help]").open || isText(target) || target.closest?.(".task-menu, .menu, dialog")) return;
    if (target.matches(".criterion input[type=radio]") && answer(form, target, key)) {
      event.preventDefault();
      return;
    }
    const letter = key.toUpperCase();
    const onControl = target.matches("input[type=radio], input[type=checkbox]");
    if (/^[0-9]$/.test(key)) rank(form, Number(key));
    else if (/^[a-i]$/.test(key) && board.cards(form).some((card) => card.dataset.letter === letter)) {
      plackett.compare.reveal(form, letter);
      board.goTo(form.querySelector(`#answer-${letter}`));
    } else if (key === "ArrowLeft" && !onControl) step(form, -1);
    else if (key === "ArrowRight" && !onControl) step(form, 1);
    else if (key === "Enter" && !target.closest("a, button, summary")) submit(form);
    else if (KEYS[key]) KEYS[key](form);
    else return;
    event.preventDefault();
  }

  function start(form) {
    form.dataset.keys = plackett.keys.areOff() ? "off" : "on";
    const help = form.querySelector("[data-help]");
    const keys = form.querySelector("[data-keys-switch]");
    keys.checked = form.dataset.keys === "on";
    keys.addEventListener("change", () => {
      form.dataset.keys = keys.checked ? "on" : "off";
      plackett.keys.keepOff(!keys.checked);
    });
    form.querySelector("[data-open-help]").addEventListener("click", () => toggleHelp(form));
    form.querySelector("[data-close-help]").addEventListener("click", () => help.close());
  }

  document.addEventListener("keydown", onKey);
  document.body.addEventListener("htmx:load", (event) => {
    for (const form of event.target.querySelectorAll("form[data-ranking]")) start(form);
  });
})();
