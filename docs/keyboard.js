// What the theme leaves to a mouse: areas that scroll sideways, and the drawer of a narrow window.
(() => {
  const AREAS = ".md-typeset pre > code, .md-typeset__scrollwrap";

  // The heading above an area names it.
  const name = area => {
    const headings = [...document.querySelectorAll(".md-typeset :is(h1, h2, h3, h4)")];
    const above = headings.filter(
      each => each.compareDocumentPosition(area) & Node.DOCUMENT_POSITION_FOLLOWING).pop();
    const title = above ? `, ${above.firstChild.textContent}` : "";
    return (area.matches("code") ? "Code" : "Table") + title;
  };

  const mark = area => {
    if (area.scrollWidth <= area.clientWidth) {
      for (const each of ["tabindex", "role", "aria-label"]) area.removeAttribute(each);
    } else if (area.tabIndex !== 0 || !area.hasAttribute("aria-label")) {
      area.tabIndex = 0;
      area.setAttribute("role", "region");
      area.setAttribute("aria-label", name(area));
    }
  };
  const markAll = changes => new Set(changes.map(each => each.target)).forEach(mark);
  const sizes = new ResizeObserver(markAll);
  const attributes = new MutationObserver(markAll); // the theme removes some on a touch screen
  const watch = () => document.querySelectorAll(AREAS).forEach(area => {
    sizes.observe(area);
    attributes.observe(area, { attributeFilter: ["tabindex"] });
  });
  // The theme wraps tables when it has started.
  new MutationObserver(watch).observe(document.body, { childList: true, subtree: true });
  watch();

  // Enter clicks a label that has the focus: the theme sees to that.
  const drawer = document.querySelector(".md-header label[for=__drawer]");
  const toggle = document.getElementById("__drawer");
  if (drawer && toggle) {
    drawer.tabIndex = 0;
    drawer.setAttribute("role", "button");
    drawer.setAttribute("aria-label", "Pages");
    document.addEventListener("keydown", event => {
      if (event.key === "Escape" && toggle.checked) {
        toggle.click();
        drawer.focus();
      }
    });
  }
  // Empty until something is searched, and then the arrow keys reach it.
  document.querySelector(".md-search__scrollwrap")?.setAttribute("tabindex", "-1");
})();
