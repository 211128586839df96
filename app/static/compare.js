// Two answers beside each other in full width: which two, scrolling together, and marks on what differs.
// The marks are the browser's own highlights over the text, so the answers' elements stay as they are.
"use strict";

(() => {
  const NARROW = matchMedia("(max-width: 700px)");
  const LONGEST_MS = 1500;
  const SHORTEST_SAME = 3; // words; a shorter stretch between two differences is chance
  const words = new Intl.Segmenter(undefined, { granularity: "word" });
  let library = null;

  const letters = (form) => [...form.querySelectorAll(".answer")].map((card) => card.dataset.letter);
  const card = (form, letter) => form.querySelector(`#answer-${letter}`);
  const picked = (form) => [...form.querySelectorAll("[data-pick]")].map((select) => select.value);
  const toggle = (form, name) => form.querySelector(`[data-switch="${name}"]`);
  const isFocused = (form) => form.classList.contains("is-focused");

  // On a narrow screen one answer is seen at a time, and each is compared with the one after it.
  function pairs(form) {
    const all = letters(form);
    if (NARROW.matches) return all.map((letter, at) => [letter, all[(at + 1) % all.length]]);
    return all.flatMap((first, at) => all.slice(at + 1).map((second) => [first, second]));
  }

  function show(form, [first, second]) {
    const [left, right] = form.querySelectorAll("[data-pick]");
    left.value = first;
    right.value = second;
    for (const each of form.querySelectorAll(".answer")) {
      const { letter } = each.dataset;
      const beside = letter === first || letter === second;
      each.classList.toggle("is-beside", beside);
      each.classList.toggle("is-second", letter === second);
      const text = each.querySelector(".answer-text");
      // What scrolls has to be reached and named.
      if (beside && isFocused(form)) {
        text.tabIndex = 0;
        text.setAttribute("role", "region");
        text.setAttribute("aria-label", `Text of answer ${letter}`);
        text.scrollTop = 0;
      } else {
        for (const name of ["tabindex", "role", "aria-label"]) text.removeAttribute(name);
      }
    }
    markDifferences(form);
  }

  function setFocused(form, focused) {
    const tools = form.querySelector("[data-focus-tools]");
    const button = form.querySelector("[data-focus]");
    const active = document.activeElement.closest?.(".answer")?.dataset.letter;
    form.classList.toggle("is-focused", focused);
    tools.hidden = !focused;
    button.setAttribute("aria-pressed", String(focused));
    const [first, second] = letters(form);
    show(form, focused && active && active !== first ? [first, active] : [first, second]);
    if (focused) form.scrollIntoView({ block: "start" });
  }

  function step(form, by) {
    const all = pairs(form);
    const now = picked(form).join("");
    const at = all.findIndex((pair) => pair.join("") === now || pair.toReversed().join("") === now);
    show(form, all[(Math.max(at, 0) + by + all.length) % all.length]);
  }

  // A key that names an answer brings it into sight, in place of the left one.
  function reveal(form, letter) {
    if (!isFocused(form) || (picked(form).includes(letter) && !NARROW.matches)) return;
    const second = picked(form)[1];
    show(form, [letter, second === letter ? picked(form)[0] : second]);
  }

  // ── scrolling together ─────────────────────────────────────────────────────

  function follow(form, event) {
    const from = event.target;
    if (!isFocused(form) || !toggle(form, "together").checked || !from.matches?.(".answer.is-beside .answer-text")) return;
    if (from.dataset.led) {
      delete from.dataset.led;
      return;
    }
    const other = [...form.querySelectorAll(".answer.is-beside .answer-text")].find((each) => each !== from);
    const way = from.scrollHeight - from.clientHeight;
    if (!other || way <= 0) return;
    const to = Math.round((from.scrollTop / way) * (other.scrollHeight - other.clientHeight));
    if (Math.abs(other.scrollTop - to) < 1) return;
    other.dataset.led = "yes";
    other.scrollTop = to;
  }

  // ── what differs ───────────────────────────────────────────────────────────

  function load(address) {
    library ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = address;
      script.addEventListener("load", () => resolve(globalThis.Diff));
      script.addEventListener("error", () => {
        library = null;
        reject(new Error("The comparison could not be loaded."));
      });
      document.head.append(script);
    });
    return library;
  }

  // The words of an element, each with the text node and the place it stands at.
  function tokens(element) {
    const found = [];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      for (const { segment, index } of words.segment(node.data)) {
        if (segment.trim()) found.push({ text: segment, node, start: index, end: index + segment.length });
      }
    }
    return found;
  }

  // Short stretches that are equal by chance, such as a lone "the", count as different: the marks stay readable.
  function smooth(parts) {
    return parts.map((part, at) => {
      const inside = at > 0 && at < parts.length - 1;
      return { ...part, differs: part.added || part.removed || (inside && part.count < SHORTEST_SAME) };
    });
  }

  // The ranges of what differs in one of the two; words that follow each other in one text node make one range.
  function ranges(parts, all, isMine) {
    const found = [];
    let at = 0;
    let before = null;
    for (const part of parts) {
      if (!isMine(part)) continue;
      for (const token of part.differs ? all.slice(at, at + part.count) : []) {
        if (before?.node !== token.node || before !== all[all.indexOf(token, at) - 1]) {
          found.push(new Range());
          found.at(-1).setStart(token.node, token.start);
        }
        found.at(-1).setEnd(token.node, token.end);
        before = token;
      }
      at += part.count;
    }
    return found;
  }

  async function markDifferences(form) {
    const note = form.querySelector("[data-differences-note]");
    globalThis.CSS?.highlights?.delete("differs");
    note.textContent = "";
    if (!isFocused(form) || !toggle(form, "differences").checked) return;
    if (!globalThis.CSS?.highlights) {
      note.textContent = "This browser cannot mark differences.";
      return;
    }
    const pair = picked(form);
    let diff;
    try {
      diff = await load(form.querySelector("[data-diff-library]").dataset.diffLibrary);
    } catch (error) {
      note.textContent = error.message;
      return;
    }
    if (pair.join() !== picked(form).join() || !toggle(form, "differences").checked) return;
    const [left, right] = pair.map((letter) => tokens(card(form, letter).querySelector(".answer-text")));
    const plain = (all) => all.map((token) => token.text);
    const parts = diff.diffArrays(plain(left), plain(right), { timeout: LONGEST_MS });
    const smoothed = parts && smooth(parts);
    const same = smoothed ? smoothed.reduce((sum, part) => sum + (part.differs ? 0 : part.count), 0) : 0;
    if (left.length && right.length && same < 0.1 * Math.min(left.length, right.length)) {
      note.textContent = "Hardly a phrase in common: nothing is marked.";
      return;
    }
    const marked = [...ranges(smoothed, left, (part) => !part.added), ...ranges(smoothed, right, (part) => !part.removed)];
    CSS.highlights.set("differs", new Highlight(...marked));
    note.textContent = marked.length ? `Marked: what ${pair[0]} and ${pair[1]} do not share.` : `${pair[0]} and ${pair[1]} say the same, word for word.`;
  }

  // ── start ──────────────────────────────────────────────────────────────────

  function start(form) {
    form.querySelector("[data-focus]").addEventListener("click", () => setFocused(form, !isFocused(form)));
    for (const button of form.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => step(form, Number(button.dataset.step)));
    }
    for (const select of form.querySelectorAll("[data-pick]")) {
      select.addEventListener("change", () => {
        const [first, second] = picked(form);
        if (first !== second) show(form, [first, second]);
        else show(form, select.dataset.pick === "0" ? [first, letters(form).find((each) => each !== first)] : [letters(form).find((each) => each !== second), second]);
      });
    }
    toggle(form, "differences").addEventListener("change", () => markDifferences(form));
    form.addEventListener("scroll", (event) => follow(form, event), { capture: true, passive: true });
    globalThis.CSS?.highlights?.delete("differs");
  }

  globalThis.plackett.compare = {
    reveal,
    toggle(form, name) {
      if (!isFocused(form)) setFocused(form, true);
      toggle(form, name).click();
    },
  };

  document.body.addEventListener("htmx:load", (event) => {
    for (const form of event.target.querySelectorAll("form.ranking:has([data-focus])")) start(form);
  });
})();
