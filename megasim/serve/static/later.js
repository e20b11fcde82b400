// Fetches what a page leaves for later, once it comes into view.
"use strict";
(() => {
  async function fill(place) {
    const answer = await fetch(place.dataset.later, { headers: { accept: "text/html" } });
    place.innerHTML = answer.ok ? await answer.text() : "";
    place.dataset.filled = answer.ok ? "yes" : "no";
  }

  const watch = new IntersectionObserver((seen) => {
    for (const { target } of seen.filter((one) => one.isIntersecting)) {
      watch.unobserve(target);
      fill(target);
    }
  }, { rootMargin: "400px" });

  for (const place of document.querySelectorAll("[data-later]")) watch.observe(place);
})();
