"""The lab of the pages: its mathematics against lazylib in a browser, planted errors, and a reader's moves."""

import json
import math

import numpy as np
import pytest
import torch

from lazylib.flows import gradient_descent
from lazylib.measures import kernel_change, relative_displacement, tangent_kernel, two_layer_kappa
from lazylib.nets import TwoLayer
from lazylib.objectives import square_loss
from lazylib.problems import null_risk, teacher_student
from tools import lab
from tools.ready import browser_path

STEPS = (1, 100, 10_000)
FIXED = {"start": "circle", "tau": 0.1, "alpha": 1, "m": 16, "factor": "1", "rule": "fixed", "share": 0.5, "seed": 6}
SETTINGS = [
    FIXED,
    {**FIXED, "tau": 2, "seed": 0},
    {**FIXED, "start": "symmetrized", "tau": 1, "alpha": 30, "rule": "share"},
    {**FIXED, "start": "normal", "tau": 0.3, "m": 64, "factor": "1/√m", "rule": "published", "seed": 3},
    {**FIXED, "start": "normal", "tau": 5, "m": 8, "factor": "1/m", "alpha": 0.1, "rule": "share", "share": 0.2},
    {**FIXED, "start": "symmetrized", "tau": 1, "m": 4, "rule": "published", "seed": 9},
    {**FIXED, "start": "circle", "m": 32, "teacher": [0.3, 2.0, -1.5]},
]


@pytest.fixture(scope="module")
def browser():
    if browser_path() is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


# --- the mathematics ---


def in_the_browser(browser, settings, old="", new=""):
    """For each setting the weights and measures after STEPS, as the script computes them, with `old` replaced."""
    script = (lab.FOLDER / "mathematics.js").read_text(encoding="utf-8")
    assert old in script
    script = lab.MODULE.sub("", script.replace(old, new) if old else script)
    drawn = json.dumps(lab._packed({setting["seed"]: lab.drawn(setting["seed"]) for setting in settings}))
    unpack = lab.UNPACK[: lab.UNPACK.index("const from")]
    page = browser.new_page()
    found = page.evaluate(f"""() => {{ {script} {unpack}
        const drawn = unpack({drawn});
        return {json.dumps(settings)}.map((setting) => {{
            const run = new Training(setting, drawn[setting.seed]), seen = [];
            for (const k of {list(STEPS)}) {{
                run.descend(k - run.k);
                seen.push({{ ...run.measures(), w: [...run.w] }});
            }}
            return {{ step: run.step, ...run.start, seen }};
        }});
    }}""")
    page.close()
    return found


def by_lazylib(setting):
    """The same from lazylib: gradient descent, and the tangent model by the eigenvectors of its kernel."""
    problem = teacher_student(setting["seed"], d=2, n=lab.N, n_test=lab.N_TEST, dtype=torch.float64)
    m, alpha, tau = setting["m"], setting["alpha"], setting["tau"]
    net = TwoLayer(2, m, scale={"1": 1.0, "1/√m": m**-0.5, "1/m": 1 / m}[setting["factor"]])
    if setting["start"] == "circle":
        a, b = lab.on_the_circle(m, setting["seed"]).split([m // 2, m])
        w0 = tau * torch.cat([a, -a, b, b])[None]
    else:
        symmetrized = setting["start"] == "symmetrized"
        w0 = net.init(tau, setting["seed"], symmetrized=symmetrized, dtype=torch.float64)
    teacher = problem.teacher
    if "teacher" in setting:
        angles = torch.tensor(setting["teacher"], dtype=torch.float64)
        teacher = torch.cat([teacher[:3], torch.stack([angles.cos(), angles.sin()], 1).reshape(-1)])
    x, x_test = problem.x, problem.x_test
    y, y_test = (problem.teacher_net(teacher, points) for points in (x, x_test))
    found = two_layer_kappa(x, y / alpha, *net.split(w0[0]), scale=net.scale)
    step = {"fixed": 0.005, "published": min(10, 0.1 / tau**2), "share": setting["share"] * 2 / found.jacobian_norm**2}
    step = step[setting["rule"]]

    K, K_test = tangent_kernel(net, w0[0], x), tangent_kernel(net, w0[0], x_test, x)
    values, vectors = torch.linalg.eigh(K)
    h0, h0_test = net(w0, x)[0], net(w0, x_test)[0]
    r0 = vectors.T @ (y / alpha - h0)

    def loss(h, y):
        return float(null_risk(alpha * h - y) / null_risk(y))

    seen, objective = [], square_loss(net, w0, x, (y / alpha)[None])
    for k, u, out in gradient_descent(objective, step):
        if k in STEPS:
            rate = values.clamp_min(1e-12) / len(y)
            learned = -torch.expm1(k * torch.log1p(-step * rate)) / (rate * len(y)) * r0  # Σ of a geometric series
            c = vectors @ learned
            w = w0 + u
            seen.append(
                {
                    "w": w[0].clone().numpy(),
                    "train": loss(out[0], y),
                    "test": loss(net(w, x_test)[0], y_test),
                    "tangentTrain": loss(h0 + K @ c, y),
                    "tangentTest": loss(h0_test + K_test @ c, y_test),
                    "moved": float(relative_displacement(w0, u)),
                    "kernelChange": float(kernel_change(net, w0[0], w[0], x)),
                }
            )
        if k == STEPS[-1]:
            return found, step, seen


def worst(browser, settings, **patch):
    """The largest difference, relative to the size of what is compared, over all measures."""
    differences = []
    for setting, theirs in zip(settings, in_the_browser(browser, settings, **patch), strict=True):
        criterion, step, seen = by_lazylib(setting)
        pairs = [(theirs["kappa"], criterion.kappa), (theirs["step"], step)]
        for mine, other in zip(seen, theirs["seen"], strict=True):
            pairs += [(other[name], value) for name, value in mine.items()]
        for other, value in pairs:
            size = np.abs(value).max()
            differences.append(float(np.abs(np.asarray(other) - value).max() / max(size, 1e-6)))
    return max(differences) if np.isfinite(differences).all() else math.inf


def test_it_is_what_lazylib_computes(browser):
    assert worst(browser, SETTINGS) < 1e-9


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("g[j] = (s / n) * ga", "g[j] = ga / n"),
        ("a * g2;", "g2;"),
        ("this.step / r.length *", "this.step *"),
        ("* (z * z2 + a * a *", "* (z * z2 +"),
        ("if (z2 > 0)", ""),
        ("(p + r) / 2 +", "(p + r) +"),
        ("share * 2 / lambda", "share / lambda"),
        ("positive * Math.abs(source[twin])", "source[twin]"),
        ("value / this.alpha", "value"),
        ("norm(moved) / norm(this.w0)", "norm(moved)"),
    ],
)
def test_a_planted_error_shows(browser, old, new):
    some = [SETTINGS[2], SETTINGS[3]] if "positive" not in old else [SETTINGS[0]]
    assert not worst(browser, some, old=old, new=new) < 1e-6


# --- the page ---


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The lab on a page that is opened from the disk, as a reader of a built book may do."""
    page = tmp_path_factory.mktemp("lab") / "lab.html"
    style = (lab.FOLDER / "lab.css").read_text(encoding="utf-8")
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page.write_text(f"{head}<style>{style}</style><body>{lab.page()}</body></html>", encoding="utf-8")
    return page.as_uri()


@pytest.fixture
def tab(browser, address, request):
    options = getattr(request, "param", {})
    hash = options.pop("hash", "")
    page = browser.new_page(**{"viewport": {"width": 820, "height": 900}, **options})
    page.faults = []
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "blob:")) else page.faults.append(r.url))
    page.goto(address + hash)
    yield page
    assert page.faults == []
    page.close()


def test_the_first_picture_waits_for_neither_the_page_nor_the_worker(browser, tmp_path):
    """The page is still being read, and the worker never answers; an answer of a run that is over is dropped."""
    page = tmp_path / "index.html"
    page.write_text(f'<!doctype html><meta charset="utf-8">{lab.page(small=True)}', encoding="utf-8")
    tab = browser.new_page(reduced_motion="reduce")
    tab.add_init_script("""Worker = class {
        constructor() { window.worker = this; this.begun = document.readyState; }
        postMessage() {}
    }""")
    tab.goto(page.as_uri())
    assert "After 0 steps" in state(tab)
    assert tab.evaluate("worker.begun") == "loading"
    tab.evaluate("worker.onmessage({ data: { run: 0 } })")
    assert len(page.read_text(encoding="utf-8")) < 40_000  # the draws of one seed and width
    tab.close()


def state(tab):
    tab.wait_for_function("document.querySelector('.lab-state').textContent")
    return tab.inner_text(".lab-state")


def steps(tab):
    return int(state(tab).split()[1])


def test_it_runs_as_the_page_opens_pauses_and_goes_on(tab):
    tab.wait_for_function("/After [1-9]/.test(document.querySelector('.lab-state').textContent)")
    tab.click("text=Pause")
    tab.wait_for_timeout(1000)  # what was on its way has come, also on a busy machine
    first = steps(tab)
    tab.wait_for_timeout(300)
    assert steps(tab) == first
    tab.click("text=One step")
    tab.click("text=Play")
    for _ in range(50):
        if steps(tab) > first + 1:
            break
        tab.wait_for_timeout(100)
    tab.click("text=Pause")
    assert steps(tab) > first + 1
    tab.click("text=Reset")
    tab.wait_for_function("/After 0 /.test(document.querySelector('.lab-state').textContent)")


@pytest.mark.parametrize("tab", [{"reduced_motion": "reduce"}], indirect=True)
def test_with_reduced_motion_it_waits(tab):
    assert "After 0 steps" in state(tab)
    assert tab.inner_text("[name=play]") == "Play"


@pytest.mark.parametrize(
    "tab", [{"reduced_motion": "reduce", "hash": "#tau=2&m=64&start=normal&nonsense=1&share=7"}], indirect=True
)
def test_the_address_holds_the_experiment(tab):
    state(tab)
    assert tab.input_value("[name=m]") == "64" and tab.input_value("[name=start]") == "normal"
    assert tab.inner_text("[name=tau-value]") == "2" and tab.text_content("[name=share-value]") == "1.1"
    tab.click("summary")
    tab.select_option("[name=m]", "8")
    assert "m=8" in tab.url and "tau=2" in tab.url and "nonsense" not in tab.url
    tab.click("text=COB, figure 1")
    tab.wait_for_function("document.querySelector('[name=m]').value === '16'")
    assert tab.inner_text("[name=tau-value]") == "0.1"


@pytest.mark.parametrize("tab", [{"reduced_motion": "reduce"}], indirect=True)
def test_keys_and_pointer_move_what_it_is_about(tab):
    state(tab)
    before = tab.inner_text("[name=predicted]")
    tab.focus("[name=tau]")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function(f"document.querySelector('[name=predicted]').textContent !== {json.dumps(before)}")
    assert "tau=0.105" in tab.url
    angle = float(tab.input_value("[name=angle0]"))
    box = tab.locator(".lab-plane").bounding_box()
    x, y, r = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, 0.45 * box["width"]
    at = [x + r * math.cos(math.radians(angle)), y - r * math.sin(math.radians(angle))]
    tab.mouse.move(*at)
    tab.mouse.down()
    tab.mouse.move(x + r, y, steps=5)
    tab.mouse.up()
    tab.wait_for_function("new URLSearchParams(location.hash.slice(1)).has('angles')")
    tab.wait_for_timeout(200)
    assert abs(float(tab.input_value("[name=angle0]"))) <= 40 and abs(angle) > 60


@pytest.mark.parametrize("tab", [{"hash": "#tau=0.02&m=4&start=symmetrized&rule=published&seed=9"}], indirect=True)
def test_a_step_that_is_too_long_is_said(tab):
    tab.wait_for_function("/has diverged: the step 10 /.test(document.querySelector('.lab-state').textContent)")
    assert tab.inner_text("[name=play]") == "Play"


@pytest.mark.parametrize(
    "tab", [{"viewport": {"width": 360, "height": 740}, "reduced_motion": "reduce"}], indirect=True
)
def test_it_fits_a_phone(tab):
    state(tab)
    tab.click("summary")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
