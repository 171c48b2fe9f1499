"""Chromium with a server's page in it: what it shows, says and asks for.

The one rule: everything is waited for by a condition of the page itself. Chromium talks to the server under test and
to nobody else, with a profile of its own that ends with the test.
"""

import json
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.system import require

SECONDS = 60.0

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--force-color-profile=srgb",
)

# The relation of luminances of a text and its ground (WCAG 2.1, 1.4.3). A canvas turns any colour into sRGB.
_CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = (text) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const found = rgba(getComputedStyle(at).backgroundColor);
    if (found[3] === 255) return found;
  }
  return [255, 255, 255, 255];
};
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !node.checkVisibility()) continue;
  if (node.closest('.unseen, .skip, datalist, noscript')) continue;
  const style = getComputedStyle(node);
  const text = luminance(rgba(node.closest('svg') ? style.fill : style.color));
  const behind = luminance(ground(node));
  const ratio = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
  found.push([ratio, walk.currentNode.data.trim(), node.className.baseVal ?? node.className]);
}
return found;
"""


class Page:
    def __init__(self, driver):
        self.driver = driver
        # Nodes come and go while the page is redrawn: a stale one is asked for again, it is no failure.
        self._wait = WebDriverWait(driver, SECONDS, poll_frequency=0.1)

    def open(self, url):
        self.driver.get(url)

    def resize(self, width, height):
        """The inner size, in CSS pixels, as a phone of this width has it."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def prefer(self, **features):
        """What the system prefers: `color_scheme="dark"`, `reduced_motion="reduce"`."""
        wished = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wished})

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def imported(self, module, expression):
        """The value of a JavaScript expression in which `m` is this module of the page."""
        script = (
            "const done = arguments[arguments.length - 1];"
            f"import(new URL('page/{module}', document.baseURI))"
            f".then((m) => done({{value: {expression}}})).catch((error) => done({{error: String(error)}}));"
        )
        answer = self.driver.execute_async_script(script)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def text(self, selector):
        """All text in the first element of this selector, as it stands in the document; "" without one."""
        return self.js("return document.querySelector(arguments[0])?.textContent.trim() ?? ''", selector)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, condition, what):
        """Wait until `condition()` is true, and return what it was."""
        try:
            return self._wait.until(lambda _: condition())
        except Exception as error:
            seen = self.js("return document.body.innerText")
            raise AssertionError(f"the page does not come to show {what} ({error!r}); it shows:\n{seen}") from None

    def until_text(self, selector, *parts):
        """Wait until the element's text has all these parts, and return it."""

        def found():
            text = self.text(selector)
            return text if all(part in text for part in parts) else None

        return self.until(found, f"{parts} in {selector}")

    def lane(self, rank):
        """What the lane of this rank shows: its state, how many wait for it, and its words."""
        return self.js(
            "const lane = document.querySelector(`.lane[data-rank='${arguments[0]}']`);"
            "return lane && {state: lane.dataset.state, awaited: Number(lane.dataset.awaited ?? 0),"
            " words: [...lane.querySelectorAll('.words > :not([hidden])')].map((node) => node.textContent)};",
            rank,
        )

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def complaints(self):
        """What the browser's console has of warnings and errors since it was asked last."""
        return [row["message"] for row in self.driver.get_log("browser") if row["level"] in ("SEVERE", "WARNING")]

    def asked(self):
        """Every address that was asked for since this was asked last."""
        rows = (json.loads(row["message"])["message"] for row in self.driver.get_log("performance"))
        return [row["params"]["request"]["url"] for row in rows if row["method"] == "Network.requestWillBeSent"]

    def contrasts(self):
        """`(ratio, text, class)` of every text in sight, the faintest first."""
        return sorted(tuple(row) for row in self.js(_CONTRAST))

    def picture(self, path, *, whole=True):
        """Save what it shows as a PNG; `whole`: as long as the page is."""
        if whole:
            size = self.js("return [innerWidth, document.documentElement.scrollHeight]")
            self.resize(*size)
        self.driver.save_screenshot(str(path))


@contextmanager
def chromium(folder):
    """A browser window whose profile is in `folder`."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(require("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--crash-dumps-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(str(require("chromedriver")))
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_script_timeout(SECONDS)
        yield Page(driver)
    finally:
        driver.quit()
