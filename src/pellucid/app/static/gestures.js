// Pointer gestures on a pane: a click, a drag with the chosen tool, a pinch, a wheel with Ctrl.

const SLIP = 4; // screen pixels that still count as a click

/**
 * on: {click(at), drag({from, to, by, done}), pinch(factor, at)}; places are {x, y} in CSS pixels of the element.
 */
export function gestures(element, on) {
  const down = new Map();
  let from = null;
  let last = null;
  let dragged = false;

  const place = (event) => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const span = () => {
    const [a, b] = [...down.values()];
    return { apart: Math.hypot(a.x - b.x, a.y - b.y), at: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
  };

  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    down.set(event.pointerId, place(event));
    if (down.size === 1) {
      from = last = place(event);
      dragged = false;
    }
  });
  element.addEventListener("pointermove", (event) => {
    if (!down.has(event.pointerId)) return;
    const before = down.size === 2 ? span() : null;
    const to = place(event);
    down.set(event.pointerId, to);
    if (before) {
      dragged = true;
      on.pinch(span().apart / Math.max(before.apart, 1), span().at);
      return;
    }
    dragged ||= Math.hypot(to.x - from.x, to.y - from.y) > SLIP;
    if (dragged) on.drag({ from, to, by: { x: to.x - last.x, y: to.y - last.y }, done: false });
    last = to;
  });
  element.addEventListener("pointerup", (event) => {
    if (!down.delete(event.pointerId) || down.size) return;
    const to = place(event);
    if (!dragged) on.click(to);
    else on.drag({ from, to, by: { x: 0, y: 0 }, done: true });
  });
  element.addEventListener("pointercancel", (event) => down.delete(event.pointerId));
  element.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      on.pinch(2 ** (-event.deltaY / 200), place(event));
    },
    { passive: false },
  );
}
