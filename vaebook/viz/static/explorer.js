// The page's half of the latent explorer: native inputs, one canvas, no dependencies.
// `nbs/core/explorer.ipynb` tells it piece by piece; `tests/js/` tests it with node's own runner.

// An element whose key presses JupyterLab leaves alone: the mark has to be on the very element that has the focus.
export function element(tag, name = "", text = "") {
  const made = Object.assign(document.createElement(tag), {className: name, textContent: text});
  made.dataset.lmSuppressShortcuts = "true";
  return made;
}

// What a control shows beside its slider.
export function spoken(spec, value) {
  if (spec.values) return spec.values[value];
  if (spec.kind === "index") return "";
  if (spec.kind === "time") return `${value}`;
  return (value < 0 ? "" : "+") + Number(value).toFixed(2);
}

// A labelled input for a latent: a slider for a number or a time, a number box for an index.
export function control(spec, moved) {
  const row = element("label", "vb-row" + (spec.causal ? " vb-causal" : ""));
  const input = element("input");
  const shown = element("span");
  const type = spec.kind === "index" && !spec.values ? "number" : "range";
  Object.assign(input, {type, min: spec.min, max: spec.max, step: spec.step, placeholder: "as it is"});
  input.setAttribute("aria-label", spec.name + (spec.causal ? " (causal)" : ""));

  const show = (value, untouched) => {
    if (String(value ?? "") !== input.value) input.value = value ?? "";
    shown.textContent = untouched ? "as it is" : spoken(spec, value);
    input.setAttribute("aria-valuetext", shown.textContent || `${value ?? "as it is"}`);
  };
  input.addEventListener("input", () => {
    if (input.value !== "" && !input.checkValidity()) {
      shown.textContent = `${spec.min} to ${spec.max}`;
      return;
    }
    const value = input.value === "" ? null : Number(input.value);
    show(value);
    moved(value);
  });
  row.append(element("span", "vb-name", spec.name), input, shown);
  return {row, input, show};
}

// Class probabilities as meters, each with its name and the colour of its tiles: [[name, probability, colour]].
export function showAnswers(box, answers) {
  const names = answers.map(answer => answer[0]).join("\n");
  if (box.dataset.names !== names) box.replaceChildren(...answers.map(meterRow));
  box.dataset.names = names;
  answers.forEach(([name, probability], i) => {
    const [, meter, shown] = box.children[i].children;
    meter.value = probability;
    shown.textContent = probability.toFixed(2);
    meter.setAttribute("aria-label", `probability of ${name}`);
  });
}

function meterRow([name, , colour]) {
  const row = element("label", "vb-row");
  row.style.borderLeft = `0.5em solid ${colour}`;
  row.append(element("span", "vb-name", name), element("meter"), element("span"));
  return row;
}

// Draws one frame of a sheet of frames; a frame that arrives after a newer one was drawn is dropped.
export function painter(canvas, width) {
  let asked = 0, drawn = 0, sheet = null, source = null;
  return async (bytes, grid, frame, alt) => {
    const now = ++asked;
    if (bytes !== source) {
      const bitmap = await createImageBitmap(new Blob([bytes]));
      if (now < drawn) return bitmap.close();
      sheet?.close();
      sheet = bitmap;
      source = bytes;
    }
    if (now < drawn) return;
    drawn = now;
    const w = sheet.width / grid[1], h = sheet.height / grid[0];
    if (canvas.width !== w || canvas.height !== h) {
      Object.assign(canvas, {width: w, height: h});
      canvas.style.width = `${Math.min(width, w * 12)}px`;
    }
    const left = frame % grid[1] * w, top = Math.floor(frame / grid[1]) * h;
    canvas.getContext("2d").drawImage(sheet, left, top, w, h, 0, 0, w, h);
    canvas.setAttribute("aria-label", alt);
  };
}

// A sound that is played over and over. A new one goes on where the old one was; of several players one plays.
export function player(name, words) {
  const row = element("div", "vb-sound");
  const audio = element("audio");
  let heard = null, url = null;
  Object.assign(audio, {controls: true, loop: true});
  audio.setAttribute("aria-label", words);
  audio.onplay = () => document.querySelectorAll(".vaebook audio").forEach(other => {
    if (other !== audio) other.pause();
  });
  row.append(element("span", "", name), audio);

  const stop = () => {
    if (url) URL.revokeObjectURL(url);
  };
  const put = bytes => {
    row.hidden = audio.hidden = !bytes?.byteLength;
    if (row.hidden) audio.pause();
    if (row.hidden || bytes === heard) return;
    const at = audio.currentTime, playing = !audio.paused;
    stop();
    heard = bytes;
    url = URL.createObjectURL(new Blob([bytes], {type: "audio/wav"}));
    audio.src = url;
    audio.currentTime = at;
    if (playing) audio.play();
  };
  return {row, put, stop};
}

// Which frame of the sheet the sliders ask for. `each`: a row for each latent (and time), a column for each value;
// to move one slider puts the others back to rest. `plane`: a column for the first latent, a row for the second.
export function frameIndex(mode, grid, times, values, rest, moved) {
  if (mode === "plane") return values[1] * grid[1] + values[0];
  if (mode !== "each") return 0;
  const latents = times > 1 ? values.length - 1 : values.length;
  const time = times > 1 ? values[latents] : 0;
  for (let i = 0; i < latents; i++) if (i !== moved) values[i] = rest[i];
  return (moved * times + time) * grid[1] + values[moved];
}

// Start, buttons and upload, as far as this widget has them.
function toolbar(view) {
  const bar = element("div", "vb-bar");
  const button = (name, act) => {
    const made = element("button", "", name);
    made.onclick = act;
    bar.append(made);
  };
  if (view.live) {
    bar.append(startChoice(view));
    button("Randomise", () => view.model.send({what: "randomise"}));
  }
  if (view.get("mode") !== "still") button("Reset", view.reset);
  button("Save picture", view.save);
  if (view.live && view.get("accepts")) bar.append(upload(view));
  return bar;
}

function startChoice(view) {
  const label = element("label", "", "start ");
  const pick = element("select");
  const list = () => {
    pick.replaceChildren(...view.get("starts").map(start => new Option(start, start)));
    pick.value = view.get("start");
  };
  pick.onchange = () => view.put("start", pick.value);
  view.on("starts", list);
  view.on("start", list);
  list();
  label.append(pick);
  return label;
}

function upload(view) {
  const label = element("label", "", "own input ");
  const file = Object.assign(element("input"), {type: "file", accept: view.get("accepts")});
  file.onchange = async () => {
    const given = file.files[0];
    if (given?.size > 8e6) view.tell(`own input ${given.name}: expected a file below 8 MB`);
    else if (given) view.model.send({what: "upload", name: given.name}, undefined, [await given.arrayBuffer()]);
    file.value = "";
  };
  label.append(file);
  return label;
}

// Offer the picture of a canvas as a file that is called as the picture is described.
function savePicture(canvas) {
  canvas.toBlob(blob => {
    const name = canvas.getAttribute("aria-label").split(";")[0].replace(/[^\w.+-]+/g, "_").slice(0, 80);
    const link = Object.assign(element("a"), {href: URL.createObjectURL(blob), download: `${name}.png`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

// The whole: picture and answers on one side, controls and buttons on the other.
export function render({model, el}) {
  const get = key => model.get(key);
  const mode = get("mode"), handlers = [];
  const on = (key, act) => {
    model.on("change:" + key, act);
    handlers.push([key, act]);
  };
  const put = (key, value) => {
    model.set(key, value);
    model.save_changes();
  };

  const canvas = element("canvas", "vb-picture");
  const answers = element("div", "vb-answers");
  const error = element("p", "vb-error");
  const note = element("p", "vb-note", get("note"));
  canvas.setAttribute("role", "img");
  error.setAttribute("role", "status");
  const sound = player("decoded", "the sound of these latents");
  const original = player("original", "the original sound");
  const paint = painter(canvas, get("width"));
  const tell = text => { error.textContent = text; };

  let values = [...get("values")], last = 0;
  const show = () => rows.forEach((row, i) => {
    row.show(values[i], mode === "each" && i !== last && get("controls")[i].free);
  });
  const draw = async () => {
    const frame = frameIndex(mode, get("grid"), get("times"), values, get("rest"), last);
    showAnswers(answers, get("answers")[frame] ?? []);
    show();
    sound.put(get("sounds")[frame]);
    original.put(get("original"));
    await paint(get("picture"), get("grid"), frame, get("alts")[frame]);
  };
  const changed = () => {
    show();
    if (mode === "live") put("values", [...values]);
    else draw();
  };
  const move = (i, value) => {
    values[i] = value;
    if (get("times") < 2 || i < values.length - 1) last = i;
    changed();
  };
  const reset = () => {
    values = [...get("rest")];
    changed();
  };

  const rows = get("controls").map((spec, i) => control(spec, value => move(i, value)));
  rows.forEach(row => { row.input.disabled = mode === "still"; });
  const list = element("div", "vb-controls");
  const left = element("div", "vb-left");
  const right = element("div", "vb-right");
  const save = () => savePicture(canvas);
  list.append(...rows.map(row => row.row));
  left.append(canvas, original.row, sound.row, answers);
  right.append(list, toolbar({model, get, put, on, reset, save, tell, live: mode === "live"}), note, error);
  el.classList.add("vaebook");
  el.setAttribute("role", "group");
  el.setAttribute("aria-label", "latent explorer");
  el.append(left, right);

  on("values", () => {
    values = [...get("values")];
    show();
  });
  on("note", () => { note.textContent = get("note"); });
  on("turn", draw);
  on("error", () => tell(get("error")));
  tell(get("error"));
  draw();
  return () => {
    handlers.forEach(([key, act]) => model.off("change:" + key, act));
    sound.stop();
    original.stop();
  };
}

export default {render};
