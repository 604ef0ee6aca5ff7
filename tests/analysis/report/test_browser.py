"""The page in a real browser: it runs, draws, sorts, saves and asks for nothing. Skipped without a Chromium on PATH."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.browser import Browser, find

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on PATH: the page is tested as a file only")

OVERLAPS = """(() => {
  const bad = [];
  for (const svg of document.querySelectorAll('svg.chart')) {
    const boxes = [...svg.querySelectorAll('text')].map((t) => [t.textContent, t.getBoundingClientRect()]);
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
      const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (wide > 2 && high > 4) bad.push(`${a} / ${b}`);
    }));
  }
  return bad;
})()"""


@pytest.fixture(scope="module")
def browser():
    with Browser(find()) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "two", "hostile", "many"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light")])
def test_pages_open_in_silence(browser, pages, name, width, scheme):
    browser.open(pages[name], width, 900, scheme)
    assert browser.messages == []
    assert browser.requests == [pages[name].resolve().as_uri()]
    assert browser.run(
        "[...document.querySelectorAll('figure svg')].every((s) => s.getBoundingClientRect().height > 60)"
    )
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(OVERLAPS) == []
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(", "))) < 150) == (scheme == "dark")


def test_three_runs_fit_on_a_narrow_screen(browser, pages):
    browser.open(pages["two"], width=800)
    browser.run("summary.append(summary.children[1].cloneNode(true)), summary.style.setProperty('--columns', 3)")
    assert browser.run("document.querySelectorAll('article.summary').length") == 3
    fits = (
        "[...document.querySelectorAll('article.summary')].map((a) => [a.scrollWidth <= a.clientWidth, a.clientWidth])"
    )
    for inside, wide in browser.run(fits):
        assert inside
        assert wide >= 290


def test_the_theme_button_overrules_the_system(browser, pages):
    browser.open(pages["one"], scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(ground)
    browser.run("theme.click(), theme.click()")
    assert browser.run("theme.textContent") == "Theme: dark"
    assert browser.run(ground) != light
    browser.run("theme.click()")
    assert browser.run(ground) == light


def test_a_heading_sorts_its_table(browser, pages):
    browser.open(pages["two"])
    column = "[...document.querySelector('#predictability tbody').rows].map((r) => Number(r.cells[2].dataset.key))"
    before = browser.run(column)
    head = "document.querySelectorAll('#predictability th')[2]"
    browser.run(f"{head}.querySelector('button').click()")
    assert browser.run(column) == sorted(before) != before
    browser.run(f"{head}.querySelector('button').click()")
    assert browser.run(column) == sorted(before, reverse=True)
    assert browser.run(f"{head}.getAttribute('aria-sort')") == "descending"
    names = "[...document.querySelector('#predictability tbody').rows].map((r) => r.cells[1].dataset.key)"
    browser.run("document.querySelectorAll('#predictability th')[1].querySelector('button').click()")
    assert browser.run(names) == sorted(browser.run(names))


def test_hovering_tells_the_number(browser, pages):
    browser.open(pages["one"], height=4000)
    spot = browser.run(
        "(({x, y}) => [x + 4, y + 4])(document.querySelectorAll('circle.dot')[1].getBoundingClientRect())"
    )
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=spot[0], y=spot[1])
    assert browser.run("tip.hidden") is False
    assert "kappa" in browser.run("tip.textContent")
    assert browser.run("document.querySelectorAll('svg title').length") == 0


def test_a_line_among_many_is_named_under_the_pointer(browser, pages):
    browser.open(pages["many"], height=8000)
    script = """(() => {
      const line = document.querySelector('#predictability path.over');
      line.parentNode.append(line);
      line.scrollIntoView({block: 'center'});
      const shown = line.getPointAtLength(line.getTotalLength() / 2).matrixTransform(line.getScreenCTM());
      return [shown.x, shown.y];
    })()"""
    x, y = browser.run(script)
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.run("tip.textContent") == "run0"
    hovered = """(async () => {
      while (!document.querySelector('path.over:hover')) await new Promise(requestAnimationFrame);
      return getComputedStyle(document.querySelector('path.over:hover')).opacity;
    })()"""
    assert browser.run(hovered) == "1"


def test_figures_are_saved(browser, pages, tmp_path):
    browser.open(pages["two"])
    script = """(async () => {
      const names = [], kinds = [], heads = [];
      let blob;
      URL.createObjectURL = (b) => { blob = b; return '#'; };
      HTMLAnchorElement.prototype.click = function () { names.push(this.download); };
      for (const kind of ['svg', 'png']) {
        blob = undefined;
        document.querySelector(`[data-save=${kind}]`).click();
        for (let i = 0; i < 100 && !blob; i++) await new Promise((done) => setTimeout(done, 20));
        kinds.push(blob.type);
        heads.push((await blob.text()).slice(0, 20000));
      }
      return [names, kinds, heads];
    })()"""
    names, kinds, heads = browser.run(script)
    assert names == ["heat_map.svg", "heat_map.png"]
    assert kinds == ["image/svg+xml", "image/png"]
    assert heads[0].startswith("<svg")
    assert "var(" not in heads[0]
    assert "rgb(" in heads[0]
    assert heads[1][1:4] == "PNG"
    assert browser.messages == []


STATE = "[zoom.elements.from.value, zoom.elements.to.value, zoom.classList.contains('on')]"


def test_steps_are_zoomed_in_all_figures_and_back(browser, pages):
    browser.open(pages["two"])
    charts = "[...document.querySelectorAll('svg[data-steps]')].map((svg) => svg.outerHTML).join()"
    whole, (first, last, _) = browser.run(charts), browser.run(STATE)
    cross = "document.querySelector('#figure-norm-1 .plot .cross').getAttribute('d')"  # the lost step 50 of 120
    browser.run("[zoom.elements.from.value, zoom.elements.to.value] = [40, 60], zoom.requestSubmit()")
    left, right = map(float, browser.run("document.querySelector('#figure-norm-1 svg').dataset.steps").split()[2:])
    assert float(browser.run(cross)[1:].split()[0]) == pytest.approx((left + right) / 2, abs=0.7)
    assert browser.run("document.querySelector('#figure-norm-1 .ticks').textContent") == "4045505560"
    assert browser.run("document.querySelector('#figure-heat_map-1 .plot').hasAttribute('clip-path')")
    assert browser.run(OVERLAPS) == []
    browser.run("zoom.querySelector('[type=reset]').click()")
    assert browser.run(STATE) == [first, last, False]
    clipped = "document.querySelectorAll('clipPath').forEach((clip) => clip.remove())"
    browser.run(clipped)
    assert browser.run(charts) == whole
    assert browser.messages == []


PLACES = """(() => [...document.querySelectorAll('#figure-loss .values .tick')].map(
  (tick) => [Number(tick.textContent), Number(tick.getAttribute('y')) - 4]))()"""
SHOWN = "document.querySelector('#figure-loss .line').getAttribute('d').match(/-?[\\d.]+ -?[\\d.]+/g)"


def test_the_y_axis_fits_the_steps_that_are_shown(browser, pages):
    """The same place of the line says the same loss by the labels before and after; it fills the plot afterwards."""
    browser.open(pages["one"])

    def losses():
        ticks, points = np.array(browser.run(PLACES)), np.array([p.split() for p in browser.run(SHOWN)], float)
        return ticks, points[:, 0], np.polyval(np.polyfit(ticks[:, 1], ticks[:, 0], 1), points[:, 1]), points[:, 1]

    wide, _, before, _ = losses()
    browser.run("[zoom.elements.from.value, zoom.elements.to.value] = [200, 240], zoom.requestSubmit()")
    near, x, after, y = losses()
    np.testing.assert_allclose(after, before, atol=0.002 * np.ptp(wide[:, 0]))
    assert np.ptp(near[:, 0]) < 0.5 * np.ptp(wide[:, 0])
    left, right, top, bottom = (float(v) for v in browser.run(
        "(({steps, values}) => [...steps.split(' ').slice(2), ...values.split(' ').slice(2, 4)])"
        "(document.querySelector('#figure-loss svg').dataset)"))  # fmt: skip
    inside = y[(x >= left) & (x <= right)]
    assert top < inside.min() < inside.max() < bottom
    assert np.ptp(inside) > 0.7 * (bottom - top)
    names = (
        "[...document.querySelectorAll('#figure-kappa_over_time text.name')].map((n) => Number(n.getAttribute('y')))"
    )
    assert (np.diff(sorted(browser.run(names))) > 13.8).all()
    assert browser.run(OVERLAPS) == []


@pytest.mark.parametrize("name", ["one", "two"])
def test_text_of_figures_is_readable_on_a_telephone(browser, pages, name):
    browser.open(pages[name], 390, 900)
    sizes = """[...document.querySelectorAll('svg.chart text')].map(
      (t) => t.ownerSVGElement.getScreenCTM().a * parseFloat(getComputedStyle(t).fontSize))"""
    assert 11 <= min(browser.run(sizes)) < max(browser.run(sizes)) < 17


def test_a_stroke_across_a_figure_zooms(browser, pages):
    browser.open(pages["one"], height=8000)
    place = (
        "(({x, y, width}) => [x, y + 90, width])(document.querySelector('#figure-norm svg').getBoundingClientRect())"
    )
    x, y, wide = browser.run(place)
    for kind, at in (("mousePressed", 0.4), ("mouseMoved", 0.5), ("mouseReleased", 0.6)):
        browser.send(
            "Input.dispatchMouseEvent", type=kind, x=x + at * wide, y=y, button="left", buttons=1, clickCount=1
        )
    low, high, on = browser.run(STATE)
    assert on
    assert 80 < int(low) < 130 < 160 < int(high) < 190


def test_it_prints(browser, pages):
    browser.open(pages["one"], scheme="dark")
    assert browser.pdf().startswith(b"%PDF")


def test_without_script_everything_is_there(browser, pages):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["one"])
        assert browser.run("document.querySelectorAll('svg title').length") > 20
        assert browser.run("getComputedStyle(theme).display") == "none"
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_the_browser_notices_an_error(browser, tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!DOCTYPE html><script>nowhere()</script><img src='missing.png'>")
    browser.open(page)
    assert any("nowhere" in m for m in browser.messages)
    assert len(browser.requests) == 2
