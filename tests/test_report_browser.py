"""The report in a real browser: at a desk, on a phone, in the dark and on paper."""

import re
from pathlib import Path

import browser
import pytest
import report_runs

from pipeline import schema

NARROW, PAPER = (320, 640), 2  # CSS pixels; pages at least
TOO_WIDE = """
  [...document.querySelectorAll("main *")]
    .filter((one) => !one.closest(".scroll, .field, svg"))
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5)
    .map((one) => one.outerHTML.slice(0, 200))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of a whole run and of a graph alone."""
    browser.program()
    folder = tmp_path_factory.mktemp("browser")
    run = report_runs.build(folder)
    pages = {"graph": report_runs.copy(run, folder / "graph", without=(schema.EXAMPLES,))}
    report_runs.add_model(run)
    report_runs.add_embeddings(run)
    report_runs.add_evaluation(run)
    pages["whole"] = run
    for path in pages.values():
        report_runs.report(path)
    return {name: path / "report" / "v0001" / "index.html" for name, path in pages.items()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory):
    with browser.page(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [browser.DESKTOP, browser.PHONE, NARROW], ids=str)
@pytest.mark.parametrize("name", ["whole", "graph"])
def test_nothing_complains_is_fetched_or_sticks_out(written, opened, name, size, dark):
    opened.open(written[name], size, dark=dark)
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [
        written[name].resolve().as_uri()
    ]
    assert opened.value("innerWidth") == size[0]
    assert opened.value("document.documentElement.scrollWidth") <= size[0]
    assert opened.value(TOO_WIDE) == []
    assert opened.value("[...document.images].every((one) => one.naturalWidth > 0)")
    assert opened.value("document.title") == "imgembed report"  # no script of others has run


def test_the_map_tells_which_image_is_there_by_pointer_and_by_key(written, opened):
    opened.open(written["whole"], browser.DESKTOP)
    opened.value('document.getElementById("map").scrollIntoView({behavior: "instant"})')
    assert opened.value("tip.hidden")
    x, y = opened.value(
        """(() => {
          const told = JSON.parse(points.textContent), box = field.getBoundingClientRect();
          const at = told.id.indexOf("image 17");
          const [left, top] = [told.x[at] / 1000 * box.width, told.y[at] / 640 * box.height];
          return [box.left + left, box.top + top];
        })()"""
    )
    opened.move(x, y)
    assert not opened.value("tip.hidden")
    assert opened.value('document.getElementById("tip-id").textContent') == "image 17"
    box = "field.getBoundingClientRect()"
    assert opened.value(f"tip.getBoundingClientRect().right <= {box}.right")
    opened.value("field.focus()")
    opened.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert opened.value("said.textContent").startswith(
        opened.value('document.getElementById("tip-id").textContent')
    )
    assert opened.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(written, opened, dark):
    """Contrast of at least 4.5, as the accessibility guidelines (WCAG 2.2, 1.4.3) ask."""
    opened.open(written["whole"], browser.DESKTOP, dark=dark)
    poor = opened.value(
        """(() => {
          const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
          const light = ([r, g, b]) =>
            0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
          const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
          const behind = (one) => {
            for (; one; one = one.parentElement) {
              const found = numbers(getComputedStyle(one).backgroundColor);
              if (found.length === 3 || found[3] === 1) return found;
            }
            return [255, 255, 255];
          };
          const poor = [];
          for (const one of document.querySelectorAll("main *, nav *")) {
            const own = [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
            if (!own || one.closest("svg, [hidden]")) continue;
            const [a, b] = [light(numbers(getComputedStyle(one).color)), light(behind(one))];
            const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (contrast < 4.5) poor.push([one.outerHTML.slice(0, 120), contrast]);
          }
          return poor;
        })()"""
    )
    assert poor == []


def test_it_prints_on_paper_of_its_own_colours(written, opened, tmp_path):
    opened.open(written["whole"], browser.DESKTOP, dark=True)
    opened.pdf(tmp_path / "page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= PAPER
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert opened.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
