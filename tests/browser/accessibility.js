// What axe-core cannot see or leaves undecided; returns one line for each defect. References are to WCAG 2.2, level AA.
// Run in the page by `accessibility.py`.
() => {
  const defects = [];
  const shown = (element) => element.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true });
  const name = (element) => {
    const text = (element.textContent || element.value || element.name || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${element.localName}${element.className ? `.${String(element.className).replace(/\s+/g, ".")}` : ""}> ${text}`;
  };

  // 1.4.10: no scrolling in two directions.
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) {
    const widest = [...document.querySelectorAll("body *")].filter((element) => shown(element) && element.getBoundingClientRect().right > clientWidth + 1);
    defects.push(`the page is ${scrollWidth - clientWidth} px wider than the window, by ${name(widest.at(-1) ?? document.body)}`);
  }

  if (document.querySelectorAll("h1").length !== 1) defects.push(`${document.querySelectorAll("h1").length} first headings`);

  // 1.4.3, also where axe-core gives up, over a gradient or what is positioned: text stands out against what is behind it,
  // 4.5 to 1, large text 3 to 1. Disabled controls are exempt.
  const channels = (color) => {
    const [red, green, blue, alpha = 1] = color.match(/[\d.]+/g).map(Number);
    return color.startsWith("color(srgb") ? [red * 255, green * 255, blue * 255, alpha] : [red, green, blue, alpha];
  };
  const over = (front, back) => front.slice(0, 3).map((value, place) => value * front[3] + back[place] * (1 - front[3]));
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const layer = channels(getComputedStyle(at).backgroundColor);
      layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reduceRight((back, layer) => over(layer, back), [255, 255, 255]);
  };
  const luminance = (color) => {
    const linear = color.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const opacity = (element) => (element ? Number(getComputedStyle(element).opacity) * opacity(element.parentElement) : 1);
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (seen.has(element) || !walker.currentNode.data.trim() || !shown(element)) continue;
    seen.add(element);
    const box = element.getBoundingClientRect();
    if (box.width <= 1 || element.closest(":disabled, script, style, noscript, option, .visually-hidden")) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const back = behind(element);
    const front = channels(style.color);
    front[3] *= opacity(element);
    const found = contrast(over(front, back), back);
    const wanted = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    if (found < wanted) defects.push(`contrast of ${found.toFixed(2)}: ${name(element)}`);
  }

  // 2.4.7, 1.4.11: what has the focus shows it, 3 to 1. The test has pressed Tab, so focus is shown from now on.
  const before = document.activeElement;
  for (const control of document.querySelectorAll("a[href], button, summary, input:not([type=hidden]), select, textarea")) {
    if (control.disabled || !shown(control) || control.closest(".skip")) continue;
    control.focus();
    if (document.activeElement !== control) continue;
    const marked = Number(getComputedStyle(control).opacity) === 0 ? control.nextElementSibling : control;
    const style = getComputedStyle(marked);
    const visible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    if (!visible) defects.push(`the focus does not show: ${name(control)}`);
    else if (contrast(channels(style.outlineColor), behind(marked.parentElement)) < 3) defects.push(`the focus is faint: ${name(control)}`);
  }
  before?.focus?.();
  return [...new Set(defects)];
}
