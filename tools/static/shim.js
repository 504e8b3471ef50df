// Two clashes of the slider's code with the book's, mended before the sliders are drawn (on "load").
window.addEventListener("load", () => {
  // It asks the queue of MathJax 2 to typeset; the book serves MathJax 3.
  if (window.MathJax?.typesetPromise) {
    window.MathJax.Hub = { Queue: ([, , element]) => window.MathJax.typesetPromise([element].flat()) };
  }
  // The theme's icons would replace those of the sliders by pictures that their code does not know.
  window.FontAwesome?.noAuto?.();
});
