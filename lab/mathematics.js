// The experiment of chapter 2 in the plane: a two-layer net, its gradient descent and its tangent model, in float64.
//
//   h(w, x) = s Σ_j a_j relu(b_j·x),   w = [a (m), b (m × 2)],   s = 1, 1/√m or 1/m
//   F(w) = 1/(2n) Σ_i (h(w, x_i) − y_i/α)²      the objective R(αh)/α² of the output scale α
//   h̄(w̄) = h(w0) + Dh(w0)(w̄ − w0)               the tangent model, trained from w0 by the same steps
//
// Points x are [x_11, x_12, x_21, x_22, …]; kernels are flat, row by row.

const dot = (u, v) => u.reduce((sum, value, k) => sum + value * v[k], 0);
const norm = (u) => Math.sqrt(dot(u, u));

export function outputs(w, x, s) {
  const m = w.length / 3, n = x.length / 2, h = new Float64Array(n);
  for (let j = 0; j < m; j++) {
    const a = s * w[j], b1 = w[m + 2 * j], b2 = w[m + 2 * j + 1];
    for (let i = 0; i < n; i++) {
      const z = b1 * x[2 * i] + b2 * x[2 * i + 1];
      if (!(z <= 0)) h[i] += a * z; // NaN counts as on, so that a run that diverged shows it
    }
  }
  return h;
}

// Dh(w)ᵀ r / n: for r = h − y/α the gradient of F.
export function gradient(w, x, s, r) {
  const m = w.length / 3, n = x.length / 2, g = new Float64Array(w.length);
  for (let j = 0; j < m; j++) {
    const a = w[j], b1 = w[m + 2 * j], b2 = w[m + 2 * j + 1];
    let ga = 0, g1 = 0, g2 = 0;
    for (let i = 0; i < n; i++) {
      const z = b1 * x[2 * i] + b2 * x[2 * i + 1];
      if (z > 0) {
        ga += r[i] * z;
        g1 += r[i] * x[2 * i];
        g2 += r[i] * x[2 * i + 1];
      }
    }
    g[j] = (s / n) * ga;
    g[m + 2 * j] = (s / n) * a * g1;
    g[m + 2 * j + 1] = (s / n) * a * g2;
  }
  return g;
}

// The tangent kernel Dh(w, x) Dh(w, x2)ᵀ, (n × n2).
export function kernel(w, x, x2, s) {
  const m = w.length / 3, n = x.length / 2, n2 = x2.length / 2, K = new Float64Array(n * n2);
  for (let j = 0; j < m; j++) {
    const a = w[j], b1 = w[m + 2 * j], b2 = w[m + 2 * j + 1];
    for (let i = 0; i < n; i++) {
      const z = b1 * x[2 * i] + b2 * x[2 * i + 1];
      if (z <= 0) continue;
      for (let k = 0; k < n2; k++) {
        const z2 = b1 * x2[2 * k] + b2 * x2[2 * k + 1];
        if (z2 > 0) K[i * n2 + k] += s * s * (z * z2 + a * a * (x[2 * i] * x2[2 * k] + x[2 * i + 1] * x2[2 * k + 1]));
      }
    }
  }
  return K;
}

// The largest eigenvalue of a symmetric matrix ≥ 0 (n × n): squared 20 times it is all but of rank one.
export function largestEigenvalue(K, n) {
  let M = Float64Array.from(K), size = norm(M);
  if (!(size > 0)) return 0;
  for (let k = 0; k < 20; k++) {
    const S = new Float64Array(n * n);
    for (let i = 0; i < n; i++) for (let l = 0; l < n; l++)
      for (let j = 0; j < n; j++) S[i * n + j] += (M[i * n + l] / size) * (M[l * n + j] / size);
    M = S;
    size = norm(M);
  }
  const column = Array.from({ length: n }, (_, j) => norm(M.subarray(j * n, j * n + n)));
  const j = column.indexOf(Math.max(...column)), v = M.subarray(j * n, j * n + n);
  const Kv = Array.from({ length: n }, (_, i) => dot(K.subarray(i * n, i * n + n), v));
  return dot(v, Kv) / dot(v, v);
}

// ‖D²h(w)‖: the largest over neurons of s·(λ_max of 1/n Σ x xᵀ over the inputs on which the neuron is on)^½.
export function hessianNorm(w, x, s) {
  const m = w.length / 3, n = x.length / 2;
  let largest = 0;
  for (let j = 0; j < m; j++) {
    let p = 0, q = 0, r = 0; // the matrix [[p, q], [q, r]]
    for (let i = 0; i < n; i++) {
      const x1 = x[2 * i], x2 = x[2 * i + 1];
      if (w[m + 2 * j] * x1 + w[m + 2 * j + 1] * x2 > 0) {
        p += x1 * x1 / n;
        q += x1 * x2 / n;
        r += x2 * x2 / n;
      }
    }
    largest = Math.max(largest, (p + r) / 2 + Math.hypot((p - r) / 2, q));
  }
  return s * Math.sqrt(largest);
}

// κ = ‖h − y/α‖ ‖D²h‖ / ‖Dh‖² and the alignment c = ‖∇F‖ / (‖Dh‖ ‖h − y/α‖) at w; norms over inputs are means.
export function criterion(w, x, s, r) {
  const n = x.length / 2, slope = largestEigenvalue(kernel(w, x, x, s), n) / n, residual = norm(r) / Math.sqrt(n);
  const kappa = residual * hessianNorm(w, x, s) / slope;
  return { kappa, c: norm(gradient(w, x, s, r)) / (Math.sqrt(slope) * residual), lambda: slope };
}

// The sizes of steps that the chapters compare; lambda is the largest eigenvalue of the kernel over n.
export function stepSize({ rule, share, tau }, lambda) {
  if (rule === "fixed") return 0.005; // figure 1 of COB, and BG
  if (rule === "published") return Math.min(10, 0.1 / tau ** 2); // figure 2 of COB
  return share * 2 / lambda; // a share of the largest stable step
}

export const outputFactor = ({ factor, m }) => ({ "1": 1, "1/√m": m ** -0.5, "1/m": 1 / m })[factor];

// The initial weights for τ = 1 are drawn by lazylib: normal ones for all neurons, or half a symmetrized net on a circle.
export function initialWeights({ start, tau, m }, drawn) {
  const w = new Float64Array(3 * m), half = m / 2;
  for (let j = 0; j < m; j++) {
    const [source, size] = start === "circle" ? [drawn.circle[m], half] : [drawn.normal[m], m];
    const twin = start === "normal" ? j : j % half, positive = j < half ? 1 : -1;
    w[j] = tau * (start === "normal" ? source[j] : positive * Math.abs(source[twin]));
    for (const k of [0, 1]) w[m + 2 * j + k] = tau * source[size + 2 * twin + k];
  }
  return w;
}

// Gradient descent of the net and of its tangent model, from the same weights, on the teacher's targets.
export class Training {
  constructor(setting, drawn) {
    this.s = outputFactor(setting);
    this.alpha = setting.alpha;
    this.x = drawn.x;
    this.xTest = drawn.xTest;
    const angles = setting.teacher ?? drawn.angles;
    this.teacher = Float64Array.from([...drawn.signs, ...angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle)])]);
    [this.y, this.yTest] = [this.x, this.xTest].map((x) => outputs(this.teacher, x, 1));
    this.target = this.y.map((value) => value / this.alpha);
    this.w0 = initialWeights(setting, drawn);
    this.w = Float64Array.from(this.w0);
    this.k = 0;
    this.h0 = outputs(this.w0, this.x, this.s);
    this.h0Test = outputs(this.w0, this.xTest, this.s);
    this.K = kernel(this.w0, this.x, this.x, this.s);
    this.KTest = kernel(this.w0, this.xTest, this.x, this.s);
    this.coefficients = new Float64Array(this.y.length); // w̄ − w0 = Dh(w0)ᵀ coefficients
    this.start = criterion(this.w0, this.x, this.s, this.h0.map((h, i) => h - this.target[i]));
    this.step = stepSize(setting, this.start.lambda);
  }

  // h̄ on the inputs whose h(w0) and kernel with the training inputs are given.
  tangent(h0, K) {
    const n = this.y.length;
    return h0.map((h, i) => h + dot(K.subarray(i * n, i * n + n), this.coefficients));
  }

  descend(steps) {
    for (let t = 0; t < steps; t++, this.k++) {
      const r = outputs(this.w, this.x, this.s).map((h, i) => h - this.target[i]);
      const g = gradient(this.w, this.x, this.s, r);
      const linear = this.tangent(this.h0, this.K);
      for (let p = 0; p < g.length; p++) this.w[p] -= this.step * g[p];
      for (let i = 0; i < r.length; i++) this.coefficients[i] -= this.step / r.length * (linear[i] - this.target[i]);
    }
  }

  // Losses ½ mean (αh − y)² over that of the zero function, and how far the net is from its start.
  measures() {
    const loss = (h, y) => h.reduce((sum, value, i) => sum + (this.alpha * value - y[i]) ** 2, 0) / dot(y, y);
    const moved = this.w.map((value, p) => value - this.w0[p]);
    const change = kernel(this.w, this.x, this.x, this.s).map((value, i) => value - this.K[i]);
    return {
      k: this.k,
      train: loss(outputs(this.w, this.x, this.s), this.y),
      test: loss(outputs(this.w, this.xTest, this.s), this.yTest),
      tangentTrain: loss(this.tangent(this.h0, this.K), this.y),
      tangentTest: loss(this.tangent(this.h0Test, this.KTest), this.yTest),
      moved: norm(moved) / norm(this.w0),
      kernelChange: norm(change) / norm(this.K),
      alignment: this.alignment(),
    };
  }

  // Cosine of the neurons to the nearest teacher neuron of their sign, weighted by |a_j| ‖b_j‖.
  alignment() {
    const { w, teacher } = this, m = w.length / 3, m0 = teacher.length / 3;
    let sum = 0, whole = 0;
    for (let j = 0; j < m; j++) {
      const length = Math.hypot(w[m + 2 * j], w[m + 2 * j + 1]);
      let nearest = -1;
      for (let i = 0; i < m0; i++) {
        const cosine = (w[m + 2 * j] * teacher[m0 + 2 * i] + w[m + 2 * j + 1] * teacher[m0 + 2 * i + 1]) / length;
        if (Math.sign(w[j]) === teacher[i]) nearest = Math.max(nearest, cosine);
      }
      sum += Math.abs(w[j]) * length * nearest;
      whole += Math.abs(w[j]) * length;
    }
    return sum / whole;
  }
}
