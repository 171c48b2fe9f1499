// What is wrong with how the page lies on the screen: `return` of a list of sentences. Run in the page by matrix.py.
//
// A text's box is that of its letters, cut by whatever hides what sticks out. Two texts may touch, not cover each other.

const skipped = ".unseen, .skip, datalist, noscript, option, dialog:not([open]), .sheet";
const faults = [];
const within = (inner, outer, slack = 1.5) =>
  inner.left >= outer.left - slack && inner.right <= outer.right + slack &&
  inner.top >= outer.top - slack && inner.bottom <= outer.bottom + slack;
const cut = (box, by) => ({
  left: Math.max(box.left, by.left), right: Math.min(box.right, by.right),
  top: Math.max(box.top, by.top), bottom: Math.min(box.bottom, by.bottom),
});

function visible(box, node) {
  for (let at = node; at && at !== document.body; at = at.parentElement) {
    const style = getComputedStyle(at);
    if (!(at instanceof SVGElement) && style.overflow !== "visible") box = cut(box, at.getBoundingClientRect());
  }
  return box;
}

const boxes = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  const text = walk.currentNode.data.trim();
  if (!text || !node.checkVisibility() || node.closest(skipped)) continue;
  const range = document.createRange();
  range.selectNodeContents(walk.currentNode);
  for (const rect of range.getClientRects()) {
    const box = visible(rect, node);
    if (box.right - box.left < 1 || box.bottom - box.top < 1) continue;
    // Letters do not fill the height of their line.
    const high = box.bottom - box.top;
    boxes.push({ text, node, left: box.left + 1, right: box.right - 1, top: box.top + high * 0.2, bottom: box.bottom - high * 0.2 });
  }
}
for (const node of document.querySelectorAll("select, input:not([type=radio], [type=checkbox]), button, svg.symbol")) {
  if (!node.checkVisibility() || node.closest(skipped)) continue;
  const box = visible(node.getBoundingClientRect(), node);
  if (box.right - box.left < 1 || box.bottom - box.top < 1) continue;
  boxes.push({ text: `<${node.id || node.className.baseVal || node.tagName}>`, node, left: box.left + 1, right: box.right - 1, top: box.top + 1, bottom: box.bottom - 1 });
}

boxes.forEach((one, index) => {
  for (const other of boxes.slice(index + 1)) {
    if (one.node.contains(other.node) || other.node.contains(one.node)) continue;
    if (one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom)
      faults.push(`'${one.text}' lies on '${other.text}'`);
  }
  const home = one.node.closest(".panel, .head, .banner, .glance");
  if (home && !within(one, home.getBoundingClientRect())) faults.push(`'${one.text}' sticks out of ${home.className}`);
  if (one.right > innerWidth + 1 || one.left < -1) faults.push(`'${one.text}' is outside of the window`);
});

for (const node of document.querySelectorAll("body *")) {
  if (!node.checkVisibility() || node.closest(skipped) || node.closest("svg")) continue;
  const style = getComputedStyle(node);
  const hides = style.overflowX === "hidden" && node.scrollWidth > node.clientWidth + 1 && node.textContent.trim();
  if (hides && style.textOverflow !== "ellipsis" && !node.matches(".course"))
    faults.push(`'${node.textContent.trim().slice(0, 80)}' is cut off without a sign in .${node.className}`);
  if (node.matches(".panel") && node.getBoundingClientRect().right > innerWidth) faults.push(`.${node.className} is too wide`);
}
for (const text of document.querySelectorAll("svg.drawing text")) {
  const home = text.closest(".panel").getBoundingClientRect();
  if (!within(text.getBoundingClientRect(), home)) faults.push(`'${text.textContent}' sticks out of its panel`);
}
if (document.documentElement.scrollWidth > innerWidth) faults.push(`${document.documentElement.scrollWidth} px wide`);
return [...new Set(faults)];
