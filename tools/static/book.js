// Sliders over pictures: the pictures are loaded when a slider is first touched, see tools/frames.py.
const bookFrames = (name, pictures) => {
  const box = document.querySelector(`.frames[data-name="${name}"]`);
  box.pictures = pictures;
  showFrame(box);
};

const showFrame = (box) => {
  const inputs = [...box.querySelectorAll("input")];
  for (const input of inputs) {
    const label = JSON.parse(input.dataset.labels)[input.value];
    input.ariaValueText = label;
    input.nextElementSibling.value = label;
  }
  if (box.pictures) box.querySelector(".frame").innerHTML = inputs.reduce((part, { value }) => part[value], box.pictures);
};

document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".frames")) {
    const load = () => {
      const script = document.createElement("script");
      script.src = box.dataset.frames;
      document.head.append(script);
    };
    for (const touch of ["pointerenter", "focusin"]) {
      box.addEventListener(touch, () => { if (!box.asked) { box.asked = true; load(); } });
    }
    box.addEventListener("input", () => showFrame(box));
  }
});

// On a phone a picture of several panels keeps a readable size, in a box that scrolls.
const widen = () => {
  for (const picture of document.querySelectorAll("figure img")) {
    const box = picture.closest("figure"), wide = innerWidth < 640 && picture.naturalWidth > 640;
    box.classList.toggle("wide", wide);
    if (wide) box.tabIndex = 0; // for the keys
  }
};
for (const moment of ["load", "resize"]) addEventListener(moment, widen, true); // of the window, and of each picture

// A question is answered where it stands: what was chosen, and the reason.
document.addEventListener("change", ({ target }) => {
  const box = target.closest?.(".ask");
  if (!box) return;
  const right = target.dataset.right === "1";
  box.querySelector("output").value = right ? "Right." : "Not this one.";
  box.querySelector("details").open = right;
});
