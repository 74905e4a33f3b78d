#!/usr/bin/env python3
"""Whether the status page is there for everybody: what its parts and dialogs are to a screen reader, to the keyboard
and to weak eyes. The rules are those of WCAG 2.2 that a machine can decide; `check.py --access` runs them.

A rule is asked of the browser's own accessibility tree or of computed styles. It is known to be able to fail:
`each_rule_finds_what_it_is_for` plants for each one a fault.
"""

import json

# Roles that somebody does something with. (Chromium has names of its own for some.)
CONTROLS = {"button", "checkbox", "combobox", "ComboBoxGrouping", "ComboBoxMenuButton", "ComboBoxSelect", "DisclosureTriangle", "link", "listbox",
            "menuitem", "option", "PopUpButton", "radio", "searchbox", "slider", "spinbutton", "switch", "tab", "textbox"}
PICTURES = {"canvas", "Canvas", "figure", "graphics-document", "image", "img", "SvgRoot"}
TABLES = {"table", "grid", "treegrid"}
HEADS = {"columnheader", "rowheader"}


def value(node, field):
    return str(node.get(field, {}).get("value", "")).strip()


def properties(node):
    return {one["name"]: one["value"].get("value") for one in node.get("properties", [])}


def tree(tab):
    """The nodes of the accessibility tree that are told to somebody, in the order of reading, each with those below it."""
    nodes = {node["nodeId"]: node for node in tab.do("Accessibility.getFullAXTree")["nodes"]}
    below = {child for node in nodes.values() for child in node.get("childIds", [])}
    found = []

    def walk(number):
        node, at = nodes[number], len(found)
        if not node.get("ignored"):
            found.append(node)
        for child in node.get("childIds", []):
            if child in nodes:
                walk(child)
        node["below"] = found[at:]
    for root in [number for number in nodes if number not in below]:
        walk(root)
    return found


def said_of_the_tree(tab, is_dialog):
    """What is wrong with the tree: pairs of a rule and what breaks it."""
    nodes, wrong = tree(tab), []
    level = 1 if is_dialog else 0  # behind a dialog stands the rest, which is not told
    for node in nodes:
        role, name, has = value(node, "role"), value(node, "name"), properties(node)
        if role in CONTROLS or has.get("focusable") and role not in ("RootWebArea", "main", "dialog"):
            if not name:
                wrong.append(("control-name", f"a {role} has no name"))
        elif role in PICTURES and not name:
            wrong.append(("picture-name", f"a {role} has no name"))
        if role == "dialog" and not name:
            wrong.append(("dialog-name", "a dialog has no name"))
        if role in TABLES and not any(value(one, "role") in HEADS for one in node["below"]):
            wrong.append(("table-heads", f"a table has none: {name}"))
        if role in HEADS and not name:
            wrong.append(("table-heads", "one is empty"))
        if role == "heading":
            if not name:
                wrong.append(("headings", "one is empty"))
            if not 1 <= has.get("level", 0) <= level + 1:
                wrong.append(("headings", f"{name!r} is of level {has.get('level')} behind one of {level}"))
            level = has.get("level", 0)
    if not is_dialog:
        for role, level, many in (("main", None, "main landmarks"), ("heading", 1, "headings of the first level")):
            count = sum(value(node, "role") == role and level in (None, properties(node).get("level")) for node in nodes)
            if count != 1:
                wrong.append(("landmarks", f"{count} {many}"))
    if len(nodes) < (10 if is_dialog else 50):
        wrong.append(("landmarks", f"only {len(nodes)} nodes: this looks at something else"))
    return wrong


# What is wrong with the document and its styles: the same pairs.
SCRIPT = r"""(() => {
  const wrong = [];
  const say = (rule, element, more = '') => wrong.push([rule, `<${element.tagName.toLowerCase()}${element.id ? `#${element.id}` : ''}${
    element.className && element.className.baseVal === undefined ? `.${element.className.replace(/\s+/g, '.')}` : ''}> ${
    element.textContent.trim().slice(0, 40)} ${more}`]);
  const top = document.querySelector('dialog[open]') || document.body;
  // What is not drawn because it is not in sight has no styles yet.
  for (const one of document.querySelectorAll('.apps .app')) one.style.contentVisibility = 'visible';
  const shown = (element) => element.checkVisibility({ visibilityProperty: true });

  const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) say('ids', document.getElementById(id));
  for (const element of document.querySelectorAll('[tabindex]')) if (element.tabIndex > 0) say('tab-order', element);
  for (const element of document.querySelectorAll('[aria-labelledby], [aria-describedby]'))
    for (const id of `${element.getAttribute('aria-labelledby') || ''} ${element.getAttribute('aria-describedby') || ''}`.split(' '))
      if (id && !document.getElementById(id)) say('ids', element, `refers to ${id}`);
  if (!document.documentElement.lang || !document.title) say('document', document.documentElement);
  for (const element of [document.scrollingElement, ...document.querySelectorAll('dialog[open]')])
    if (element.scrollWidth > element.clientWidth) say('sideways', element, `${element.scrollWidth - element.clientWidth} pixels`);
  // A drawing is named itself, or belongs to something that is; a small one may stand beside words.
  for (const drawing of top.querySelectorAll('svg, canvas')) {
    if (!shown(drawing)) continue;
    const { width, height } = drawing.getBoundingClientRect();
    const named = drawing.closest('[role][aria-label], [role][aria-labelledby]');
    // (The tree of the browser leaves out what a value is called.)
    if (named && named.role === 'slider' && ['', 'nothing yet'].includes(named.ariaValueText || '')) say('chart-text', named);
    if (!named && (width * height > 4000 || !drawing.closest('[aria-hidden="true"]'))) say('picture-name', drawing);
  }

  // Colours as they come out, red, green, blue of 255 and how opaque.
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const read = new Map();
  const colour = (text) => {
    if (!read.has(text)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = text;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      read.set(text, [r, g, b, a / 255]);
    }
    return read.get(text);
  };
  const over = ([r, g, b, a], ground) => [r, g, b].map((c, i) => c * a + ground[i] * (1 - a));
  const grounds = new Map();
  // What is behind what stands in an element, and how opaque all in it is.
  const behind = (element) => {
    if (!element) return { ground: colour('Canvas'), opaque: 1 };
    if (!grounds.has(element)) {
      const style = getComputedStyle(element);
      const below = behind(element === top && top.tagName === 'DIALOG' ? null : element.parentElement);
      const opaque = below.opaque * Number(style.opacity);
      if (style.backgroundImage !== 'none') say('contrast', element, 'has a picture behind it');
      const [r, g, b, a] = colour(style.backgroundColor);
      grounds.set(element, { ground: over([r, g, b, a * opaque], below.ground), opaque });
    }
    return grounds.get(element);
  };
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (one, two) => {
    const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  let texts = 0;
  const legible = (element, style, what) => {
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const { ground, opaque } = behind(element);
    const [r, g, b, a] = colour(style.color);
    const found = ratio(over([r, g, b, a * opaque], ground), ground);
    texts += 1;
    if (found < least) say('contrast', element, `${what}${found.toFixed(2)} of ${least}, ${style.color} at ${size} px`);
  };
  const seen = (element) => shown(element) && !element.closest('.sr, option, :disabled, [aria-disabled="true"]');
  const walker = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
  const looked = new Set();
  while (walker.nextNode()) {
    const { parentElement: element } = walker.currentNode;
    if (looked.has(element) || !walker.currentNode.data.trim()) continue;
    looked.add(element);
    if (seen(element)) legible(element, getComputedStyle(element), '');
  }
  for (const element of top.querySelectorAll('*')) {
    if (!seen(element)) continue;
    for (const part of ['::before', '::after']) {
      const style = getComputedStyle(element, part);
      if (!['none', 'normal', '""', '" "'].includes(style.content)) legible(element, style, `${part} `);
    }
    if (element.matches('input:not([type=checkbox], [type=radio]), select, textarea')) {
      const isHint = element.placeholder && !element.value;
      legible(element, getComputedStyle(element, isHint ? '::placeholder' : undefined), isHint ? 'placeholder ' : '');
    }
  }
  if (texts < 3) say('contrast', top, `only ${texts} texts: this looks at something else`);

  // The last input was a key, so that what is focused from here looks as if Tab had led there.
  const before = document.activeElement;
  let controls = 0;
  for (const element of top.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')) {
    if (element.tabIndex < 0 || element.disabled || !shown(element)) continue;
    element.focus({ preventScroll: true });
    if (document.activeElement !== element) { say('focus', element, 'takes no focus'); continue; }
    controls += 1;
    // One that is not seen itself shows it on what stands for it.
    const marked = Number(getComputedStyle(element).opacity) === 0 ? element.nextElementSibling || element : element;
    const style = getComputedStyle(marked);
    const { ground } = behind(marked.parentElement);
    if (style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2) say('focus', element, 'is not seen');
    else if (ratio(colour(style.outlineColor), ground) < 3) say('focus', element, `is hardly seen: ${style.outlineColor}`);
  }
  if (before && before !== document.body) before.focus({ preventScroll: true });
  else document.activeElement.blur();
  return { wrong, texts, controls };
})()"""


def look(tab, is_dialog=False):
    """What breaks a rule in what is shown: how often, by rule and the first that does. And how much was looked at."""
    for kind in ("keyDown", "keyUp"):  # a key that does nothing
        tab.do("Input.dispatchKeyEvent", type=kind, key="Shift", windowsVirtualKeyCode=16)
    seen = tab.run(SCRIPT)
    wrong = {}
    for rule, what in [*said_of_the_tree(tab, is_dialog), *map(tuple, seen["wrong"])]:
        wrong.setdefault(rule, []).append(what.strip())
    return wrong, seen["texts"], seen["controls"]


def tab_key(tab):
    for kind in ("rawKeyDown", "keyUp"):
        tab.do("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)


# For each rule a fault that it is to find.
FAULTS = {
    "control-name": "document.querySelector('#theme').previousSibling.remove()",
    "picture-name": "document.querySelector('main h2').append(document.createElementNS('http://www.w3.org/2000/svg', 'svg'))",
    "chart-text": "document.querySelector('#pulse .plot').setAttribute('aria-valuetext', '')",
    "headings": "document.querySelector('#pulse h3').outerHTML = '<h5>Deep</h5>'",
    "landmarks": "document.querySelector('footer').setAttribute('role', 'main')",
    "ids": "document.querySelector('footer p').id = 'main'",
    "tab-order": "document.querySelector('#sign').tabIndex = 1",
    "table-heads": "document.querySelector('main').insertAdjacentHTML('beforeend', '<table role=table><tr><td>1<td>2<tr><td>3<td>4</table>')",
    "contrast": "document.querySelector('#health-title').style.color = 'color-mix(in srgb, currentcolor 40%, transparent)'",
    "focus": "document.querySelector('#sign').style.outline = 'none'",
    "sideways": "document.querySelector('footer').style.width = '3000px'",
    "dialog-name": "document.querySelector('#ask').removeAttribute('aria-labelledby'); document.querySelector('#sign').click()",
    "document": "document.documentElement.lang = ''",
}


def planted(script):
    return f"(() => {{ {script} }})()"


def told(wrong):
    return json.dumps({rule: f"{len(all_)} times: {all_[0]}" for rule, all_ in wrong.items()}, ensure_ascii=False)
