// The controls and pictures of the lab; what is drawn comes from the worker, the start of a run from its `answer` here.

const DEFAULTS = { start: "circle", tau: 0.1, alpha: 1, m: 16, factor: "1", rule: "fixed", share: 0.5, seed: 6, angles: null };
const LOGARITHMIC = ["tau", "alpha"], NUMBERS = ["tau", "alpha", "m", "share", "seed"], EVERY = 2500; // ms between texts
const text = (value) => (value === 0 ? "0" : Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3
  ? value.toExponential(1).replace("-", "−") : String(Number(value.toPrecision(3))));

// What the address says, where it is sensible; the rest is the default.
export function readAddress(hash, form) {
  const setting = { ...DEFAULTS, ...form.dataset.tau && { tau: Number(form.dataset.tau) } };
  for (const [name, given] of new URLSearchParams(hash.slice(1))) {
    const options = form.elements[name]?.options && [...form.elements[name].options].map((option) => option.value);
    if (name === "angles") {
      const angles = given.split(",").map(Number);
      if (angles.length === 3 && angles.every(Number.isFinite)) setting.angles = angles;
    } else if (name in DEFAULTS && (options ? options.includes(given) : Number.isFinite(Number(given)))) {
      const { min, max } = form.elements[name], exponent = LOGARITHMIC.includes(name);
      const limit = (value) => (exponent ? 10 ** Number(value) : Number(value));
      const inside = options ? given : Math.min(Math.max(Number(given), limit(min)), limit(max));
      setting[name] = NUMBERS.includes(name) ? Number(inside) : inside;
    }
  }
  return setting;
}

export function writeAddress(setting) {
  const changed = Object.entries(setting).filter(([name, value]) => value !== null && value !== DEFAULTS[name]);
  return `#${new URLSearchParams(changed.map(([name, value]) => [name, Array.isArray(value) ? value.join() : value]))}`;
}

export function lab(form, drawn, work, answer) {
  const plane = form.querySelector(".lab-plane"), losses = form.querySelector(".lab-losses");
  const field = (name) => form.querySelector(`[name="${name}"]`), status = form.querySelector(".lab-state");
  const whole = !form.classList.contains("small");
  const quiet = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const worker = new Worker(work);
  let setting, seen, curves, paths, playing = !quiet, waiting = false, run = 0, spoken = -EVERY, dragged = null;
  Object.keys(drawn).forEach((seed) => field("seed").add(new Option(seed, seed)));

  // --- the run ---

  function restart() {
    [seen, curves, paths, waiting] = [null, [], [], false];
    const teacher = setting.angles?.map((degrees) => degrees * Math.PI / 180);
    const message = { run: ++run, setting: { ...setting, teacher }, drawn: drawn[setting.seed] };
    worker.postMessage(message);
    take(answer(message)); // at once: the worker may still be about to start
    show();
  }

  function send(message) {
    waiting = true;
    worker.postMessage({ run, ...message });
  }

  worker.onmessage = ({ data }) => {
    if (data.run !== run) return; // of a run that is over
    waiting = false;
    take(data);
  };

  function take(data) {
    seen = data;
    curves.push(data.measures);
    paths.push(data.w);
    if (data.done || !Number.isFinite(data.measures.train)) play(false);
    requestAnimationFrame(draw);
  }

  function play(on) {
    playing = on && !(seen?.done);
    field("play").textContent = playing ? "Pause" : "Play";
    if (!playing) speak(true);
  }

  // --- controls ---

  function show() {
    for (const name of ["start", "m", "factor", "rule", "seed"]) field(name).value = setting[name];
    for (const name of ["tau", "alpha", "share"]) {
      field(name).value = LOGARITHMIC.includes(name) ? Math.log10(setting[name]) : setting[name];
      field(`${name}-value`).value = text(setting[name]);
    }
    field("share").disabled = setting.rule !== "share";
    const angles = setting.angles ?? drawn[setting.seed].angles.map((angle) => Math.round(angle * 180 / Math.PI));
    angles.forEach((degrees, k) => { field(`angle${k}`).value = degrees; });
  }

  function change(changes) {
    setting = { ...setting, ...changes };
    if (whole) history.replaceState(null, "", writeAddress(setting));
    restart();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target: { name, value } }) => {
    if (name.startsWith("angle")) change({ angles: [0, 1, 2].map((k) => Number(field(`angle${k}`).value)) });
    else if (LOGARITHMIC.includes(name)) change({ [name]: Number((10 ** value).toPrecision(3)) });
    else if (name === "seed") change({ seed: Number(value), angles: null });
    else change({ [name]: NUMBERS.includes(name) ? Number(value) : value });
  });
  field("play").addEventListener("click", () => {
    if (seen?.done) restart();
    play(!playing);
    if (playing && !waiting) send({ advance: true });
  });
  field("one").addEventListener("click", () => { play(false); if (!waiting) send({ steps: 1 }); });
  field("reset").addEventListener("click", () => { play(false); restart(); });
  if (whole) addEventListener("hashchange", () => { setting = readAddress(location.hash, form); restart(); play(!quiet); });

  // --- pictures ---

  function canvas(element) {
    const ratio = devicePixelRatio, size = element.clientWidth, pen = element.getContext("2d");
    if (element.width !== Math.round(size * ratio)) element.width = element.height = Math.round(size * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, size, size);
    pen.font = "12px system-ui, sans-serif";
    return [pen, size, getComputedStyle(form)];
  }

  function draw() {
    if (!seen) return;
    drawPlane();
    drawLosses();
    write();
    if (playing && !waiting) send({ advance: true });
  }

  // A neuron stands at |a_j| b_j, its direction and what it weighs; dashed: the teacher's directions.
  const place = (w, j, m) => [0, 1].map((k) => Math.abs(w[j]) * w[m + 2 * j + k]);
  const radius = () => Math.max(...paths.map((w) => Math.max(...Array.from({ length: w.length / 3 },
    (_, j) => Math.hypot(...place(w, j, w.length / 3))))), 1e-9);

  function drawPlane() {
    const [pen, size, style] = canvas(plane), m = seen.w.length / 3, reach = radius() * 1.25;
    const at = ([x, y]) => [size / 2 * (1 + x / reach), size / 2 * (1 - y / reach)];
    const ink = style.color, color = (sign) => style.getPropertyValue(sign > 0 ? "--plus" : "--minus");
    for (let i = 0; i < 3; i++) {
      const end = [0, 1].map((k) => seen.teacher[3 + 2 * i + k] * reach * 0.9), [x, y] = at(end);
      pen.strokeStyle = pen.fillStyle = color(seen.teacher[i]);
      pen.setLineDash([5, 4]);
      pen.beginPath(); pen.moveTo(size / 2, size / 2); pen.lineTo(x, y); pen.stroke();
      pen.setLineDash([]);
      pen.beginPath(); pen.arc(x, y, 7, 0, 7); pen.stroke();
      pen.fillText(seen.teacher[i] > 0 ? "+" : "−", x - 3.5, y + 4);
    }
    const thin = Math.ceil(paths.length / 150); // enough points for a smooth path
    pen.strokeStyle = style.getPropertyValue("--paths");
    for (let j = 0; j < m; j++) {
      pen.beginPath();
      paths.forEach((w, k) => { if (k % thin === 0 || k === paths.length - 1) pen.lineTo(...at(place(w, j, m))); });
      pen.stroke();
    }
    for (let j = 0; j < m; j++) {
      pen.fillStyle = color(seen.w[j]);
      pen.beginPath(); pen.arc(...at(place(seen.w, j, m)), 4, 0, 7); pen.fill();
    }
    pen.fillStyle = ink;
    pen.fillText(`neurons |a| b, to ±${text(reach)}`, 6, size - 6);
  }

  const LINES = [
    ["train", "--train", []], ["test", "--test", []], ["tangentTrain", "--train", [2, 3]], ["tangentTest", "--test", [2, 3]]];

  function drawLosses() {
    const [pen, size, style] = canvas(losses), left = 42, bottom = size - 34, ink = style.color;
    const across = (k) => left + (size - left - 6) * Math.log10(k + 1) / 5;
    const low = -6, high = Math.min(4, Math.max(1, ...curves.map((c) => Math.ceil(Math.log10(Math.max(c.train, c.test) || 1)))));
    const up = (loss) => bottom - (bottom - 8) * (Math.min(Math.max(Math.log10(loss), low), high) - low) / (high - low);
    pen.strokeStyle = style.getPropertyValue("--paths");
    pen.fillStyle = ink;
    pen.textAlign = "right";
    for (let power = low; power <= high; power += 2) {
      pen.beginPath(); pen.moveTo(left, up(10 ** power)); pen.lineTo(size - 6, up(10 ** power)); pen.stroke();
      pen.fillText(power ? `1e${power}`.replace("-", "−") : "1", left - 4, up(10 ** power) + 4);
    }
    pen.textAlign = "center";
    for (const k of [1, 10, 100, 1000, 1e4, 1e5]) pen.fillText(k < 1e4 ? k : `1e${Math.log10(k)}`, Math.min(across(k - 1), size - 14), bottom + 14);
    pen.fillText("steps", (left + size) / 2, size - 4);
    for (const [name, color, dash] of LINES) {
      pen.strokeStyle = style.getPropertyValue(color);
      pen.lineWidth = 2;
      pen.setLineDash(dash);
      pen.beginPath();
      for (const c of curves) if (Number.isFinite(c[name])) pen.lineTo(across(c.k), up(c[name]));
      pen.stroke();
    }
    pen.setLineDash([]);
    pen.lineWidth = 1;
    pen.textAlign = "left";
    [["training loss", "--train"], ["test loss", "--test"]].forEach(([word, color], line) => {
      pen.fillStyle = style.getPropertyValue(color);
      pen.fillText(word, left + 6, bottom - 34 + 13 * line);
    });
    pen.fillStyle = ink;
    pen.fillText("dotted: tangent model; unit: null risk", left + 6, bottom - 6);
  }

  // --- words ---

  function write() {
    const { start: { kappa, c }, measures: now } = seen, ratio = kappa / (2 * c);
    field("predicted").textContent = `${text(ratio)}: ${ratio < 0.1 ? "lazy" : ratio < 1 ? "in between" : "not lazy"}`;
    field("kernel").textContent = `${text(100 * now.kernelChange)} %`;
    field("moved").textContent = `${text(100 * now.moved)} %`;
    field("alignment").textContent = `${text(curves[0].alignment)} → ${text(now.alignment)}`;
    speak(!playing);
  }

  // The state in words, for those who do not see the pictures; not more often than it can be read.
  function speak(must) {
    if (!seen || (!must && performance.now() - spoken < EVERY)) return;
    spoken = performance.now();
    const { measures: now } = seen;
    status.textContent = Number.isFinite(now.train)
      ? `After ${now.k} steps of ${text(seen.step)}: training loss ${text(now.train)}, test loss ${text(now.test)}; `
        + `tangent model ${text(now.tangentTrain)} and ${text(now.tangentTest)}, in units of the null risk.`
      : `The run has diverged: the step ${text(seen.step)} is too long.`;
    plane.ariaLabel = `${seen.w.length / 3} neurons in the plane; alignment with the teacher's directions ${text(now.alignment)}.`;
    losses.ariaLabel = status.textContent;
  }

  // --- dragging the teacher's neurons ---

  const pointed = (event) => {
    const box = plane.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, box.top + box.height / 2 - event.clientY];
  };
  const near = (event) => {
    const [x, y] = pointed(event), r = plane.clientWidth / 2 * 0.9;
    return [0, 1, 2].find((i) => Math.hypot(x - seen.teacher[3 + 2 * i] * r, y - seen.teacher[4 + 2 * i] * r) < 22);
  };
  plane.addEventListener("pointerdown", (event) => {
    dragged = near(event) ?? null;
    if (dragged !== null) plane.setPointerCapture(event.pointerId);
  });
  plane.addEventListener("pointermove", (event) => {
    if (seen) plane.classList.toggle("over", dragged !== null || near(event) !== undefined);
    if (dragged === null || waiting) return;
    const [x, y] = pointed(event), angles = [0, 1, 2].map((k) => Number(field(`angle${k}`).value));
    angles[dragged] = Math.round(Math.atan2(y, x) * 180 / Math.PI);
    change({ angles });
  });
  for (const end of ["pointerup", "pointercancel"]) plane.addEventListener(end, () => { dragged = null; });

  setting = readAddress(whole ? location.hash : "", form);
  play(playing);
  restart();
}
