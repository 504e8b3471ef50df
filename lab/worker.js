// Trains beside the page, so that the page never waits. A message starts anew {setting, drawn}, makes some {steps}, or
// goes on for one picture {advance}; the answer is what there is to draw. The page finds that of a start itself.
import { Training } from "./mathematics.js";

const LAST = 100_000, BUDGET = 10; // steps in all; milliseconds of training for one picture
let training;

export function answer(data) {
  if (data.setting) training = new Training(data.setting, data.drawn);
  if (data.steps) training.descend(data.steps);
  if (data.advance) { // by 2 %, so that each decade of steps takes as long as the one before
    const end = performance.now() + BUDGET, goal = Math.min(LAST, training.k + Math.max(1, Math.ceil(0.02 * training.k)));
    while (training.k < goal && performance.now() < end) training.descend(Math.min(20, goal - training.k));
  }
  const { w, teacher, start, step, k } = training;
  return { run: data.run, w, teacher, start, step, done: k >= LAST, measures: training.measures() };
}

onmessage = ({ data }) => {
  const made = answer(data);
  if (!data.setting) postMessage(made);
};
