// The page's half of the explorer in node: `node --test tests/js/*.mjs`. A few lines stand in for the page.
import assert from "node:assert/strict";
import {beforeEach, test} from "node:test";
import {control, frameIndex, painter, player, render, showAnswers, spoken} from "../../vaebook/viz/static/explorer.js";

class Element {
  constructor(tag) {
    Object.assign(this, {tag, children: [], dataset: {}, style: {}, attributes: {}, heard: {}, value: "", paused: true, currentTime: 0});
    this.classList = {add: name => { this.className = name; }};
  }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  setAttribute(name, value) { this.attributes[name] = value; }
  getAttribute(name) { return this.attributes[name]; }
  addEventListener(name, act) { this.heard[name] = act; }
  checkValidity() { return Number(this.value) >= this.min && Number(this.value) <= this.max; }
  getContext() { return {drawImage: (...where) => this.drawn = where.slice(1, 5)}; }
  play() { this.paused = false; }
  pause() { this.paused = true; }
  enter(value) { this.value = value; this.heard.input(); }
  all(tag) { return [...(this.tag === tag ? [this] : []), ...this.children.flatMap(child => child.all?.(tag) ?? [])]; }
}

const flush = () => new Promise(done => setTimeout(done, 0));
let arriving;

beforeEach(() => {
  arriving = [];
  globalThis.document = {createElement: tag => new Element(tag), querySelectorAll: () => []};
  globalThis.Option = class extends Element { constructor(text) { super("option"); this.text = text; } };
  globalThis.createImageBitmap = blob => new Promise(done => arriving.push(() => done({width: 30, height: 20, close() {}, blob})));
});

test("a value is spoken as its kind is", () => {
  assert.equal(spoken({kind: "continuous"}, -0.5), "-0.50");
  assert.equal(spoken({kind: "continuous"}, 2), "+2.00");
  assert.equal(spoken({kind: "time"}, 3), "3");
  assert.equal(spoken({kind: "index"}, 3), "");
  assert.equal(spoken({kind: "index", values: ["a", "b"]}, 1), "b");
});

test("a plane has a column for its first latent and a row for its second", () => {
  assert.equal(frameIndex("plane", [7, 7], 1, [3, 2], [0, 0], 0), 2 * 7 + 3);
});

test("to move one latent of a film puts the others back to rest", () => {
  const values = [5, 1, 2];
  assert.equal(frameIndex("each", [3, 7], 1, values, [3, 3, 3], 1), 1 * 7 + 1);
  assert.deepEqual(values, [3, 1, 3]);
});

test("a film of clips has a row for each time, whose slider is the last and stays", () => {
  const values = [2, 0, 4];
  assert.equal(frameIndex("each", [18, 3], 9, values, [1, 1, 0], 0), (0 * 9 + 4) * 3 + 2);
  assert.deepEqual(values, [2, 1, 4]);
});

test("a live explorer and one that stands still have one frame", () => {
  assert.equal(frameIndex("live", [1, 1], 1, [0.5], [0], 0), 0);
  assert.equal(frameIndex("still", [1, 1], 1, [0.5], [0], 0), 0);
});

test("a control gives numbers, and null where an index is emptied", () => {
  const moves = [], {input, row} = control({name: "sprite", kind: "index", min: 0, max: 3, step: 1}, v => moves.push(v));
  assert.equal(input.type, "number");
  input.enter("2");
  input.enter("");
  assert.deepEqual(moves, [2, null]);
  assert.equal(row.children[0].textContent, "sprite");
});

test("a value out of range moves nothing and says what is expected", () => {
  const moves = [], {input, row} = control({name: "sprite", kind: "index", min: 0, max: 3, step: 1}, v => moves.push(v));
  input.enter("9");
  assert.deepEqual(moves, []);
  assert.equal(row.children[2].textContent, "0 to 3");
});

test("a causal latent is marked for eyes and for screen readers", () => {
  const {input, row} = control({name: "alpha_0", kind: "continuous", causal: true, min: -3, max: 3, step: 0.1}, () => {});
  assert.equal(input.getAttribute("aria-label"), "alpha_0 (causal)");
  assert.match(row.className, /vb-causal/);
  assert.equal(input.dataset.lmSuppressShortcuts, "true");
});

test("meters are made once for the same classes", () => {
  const box = new Element("div");
  showAnswers(box, [["cat", 0.25, "#fff"], ["dog", 0.75, "#000"]]);
  const [first] = box.children;
  showAnswers(box, [["cat", 0.5, "#fff"], ["dog", 0.5, "#000"]]);
  assert.equal(box.children[0], first);
  assert.equal(first.children[1].value, 0.5);
  showAnswers(box, [["bird", 1, "#fff"]]);
  assert.equal(box.children.length, 1);
});

test("a picture that arrives after a newer one is dropped", async () => {
  const canvas = new Element("canvas"), paint = painter(canvas, 448);
  const old = paint("old", [2, 3], 0, "old"), recent = paint("new", [2, 3], 4, "new");
  arriving[1]();
  await recent;
  arriving[0]();
  await old;
  assert.equal(canvas.getAttribute("aria-label"), "new");
  assert.deepEqual(canvas.drawn, [10, 10, 10, 10]);
});

test("another frame of the same sheet is not decoded anew", async () => {
  const canvas = new Element("canvas"), paint = painter(canvas, 448);
  const first = paint("sheet", [2, 3], 0, "0");
  arriving[0]();
  await first;
  await paint("sheet", [2, 3], 5, "5");
  assert.equal(arriving.length, 1);
  assert.deepEqual(canvas.drawn, [20, 10, 10, 10]);
});

test("a new sound goes on where the old one was", () => {
  const {row, put} = player("decoded", "the sound"), audio = row.children[1];
  put(new Uint8Array([1]));
  audio.play();
  audio.currentTime = 1.5;
  put(new Uint8Array([2]));
  assert.equal(audio.currentTime, 1.5);
  assert.equal(audio.paused, false);
  put(new Uint8Array());
  assert.equal(row.hidden && audio.paused, true);
});

test("a film moves in the page; a live explorer asks the kernel", async () => {
  const state = {mode: "each", controls: [{name: "a", kind: "continuous", min: 0, max: 2, step: 1, values: ["-1", "+0", "+1"]}], values: [1], rest: [1], times: 1,
                 grid: [1, 3], alts: ["a -1", "a +0", "a +1"], answers: [[], [], []], sounds: [], original: null, picture: "sheet", width: 448, note: "", error: "",
                 starts: ["prior mean"], start: "prior mean", accepts: ""};
  const asked = [], listening = new Set();
  const model = {get: key => state[key], set: (key, value) => asked.push([key, value]), save_changes() {},
                 on: (key, act) => listening.add(act), off: (key, act) => listening.delete(act)};
  const film = new Element("div"), stop = render({model, el: film});
  arriving[0]();
  await flush();
  film.all("input")[0].enter("2");
  await flush();
  assert.equal(film.all("canvas")[0].getAttribute("aria-label"), "a +1");
  assert.deepEqual(asked, []);
  stop();
  assert.equal(listening.size, 0);

  state.mode = "live";
  const live = new Element("div");
  render({model, el: live});
  live.all("input")[0].enter("0");
  assert.deepEqual(asked, [["values", [0]]]);
  assert.equal(live.all("button").map(button => button.textContent).join(), "Randomise,Reset,Save picture");
});
