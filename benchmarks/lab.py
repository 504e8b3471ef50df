"""The lab in the built pages: how soon it answers a reader, and how many pictures a second it draws.

python -m benchmarks.lab SITE [RUNS]    SITE: the folder of the built pages, as _build/html

The pages come from a server on this machine; numbers are medians over RUNS openings, each in a fresh profile.
"""

import functools
import http.server
import statistics
import sys
import threading

from playwright.sync_api import Browser, sync_playwright

from tools.bench import machine
from tools.ready import browser_path

WATCH = """
window.drawn = [];  // ms at which the plane of the neurons was drawn
const clear = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...box) {
  if (this.canvas.className.startsWith("lab-plane")) window.drawn.push(performance.now());
  return clear.apply(this, box);
};"""
# A reader moves τ as soon as there is a slider, and waits for the answer.
ANSWER = """() => new Promise((done) => {
  const before = document.querySelector("[name=predicted]").textContent, slider = document.querySelector("[name=tau]");
  slider.value = 0; slider.dispatchEvent(new Event("input", { bubbles: true }));
  const look = () => document.querySelector("[name=predicted]").textContent === before
    ? requestAnimationFrame(look) : done(performance.now());
  look();
})"""


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


def interactive(browser: Browser, address: str) -> tuple[float, float]:
    """Seconds from opening the front page to the first picture, and to the answer to a moved slider."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(WATCH)
    page.goto(f"{address}/index.html", wait_until="commit")
    page.wait_for_function("window.drawn?.length > 0")
    answered = page.evaluate(ANSWER)
    first = page.evaluate("window.drawn[0]")
    page.close()
    return first / 1000, answered / 1000


def frames(browser: Browser, address: str, m: int, seconds: int = 5) -> float:
    """Pictures a second while a run of width m goes on."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(WATCH)
    page.goto(f"{address}/lab.html#m={m}&tau=1", wait_until="load")
    page.wait_for_timeout(1000)
    now = "[performance.now(), window.drawn.length]"
    start, before = page.evaluate(now)
    page.wait_for_timeout(1000 * seconds)
    end, after = page.evaluate(now)
    page.close()
    return 1000 * (after - before) / (end - start)


def main() -> None:
    site, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=site))
    server.handle_error = lambda *where: None  # type: ignore[method-assign]  # a page closed before it had all
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"])
        opened = [interactive(browser, address) for _ in range(runs)]
        rates = {m: [frames(browser, address, m) for _ in range(runs)] for m in (16, 64)}
        browser.close()
    print(machine())
    for name, values in zip(("first picture", "answer to a moved slider"), zip(*opened, strict=True), strict=True):
        print(f"{name}: {statistics.median(values):.2f} s after opening (largest {max(values):.2f} s)")
    for m, values in rates.items():
        print(f"m = {m}: {statistics.median(values):.0f} pictures a second (smallest {min(values):.0f})")


if __name__ == "__main__":
    main()
