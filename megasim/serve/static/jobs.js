// Tells how far the jobs are that wait or run, and shows the page anew once one is over.
"use strict";
(() => {
  const over = ["done", "failed", "cancelled", "interrupted"];

  function duration(seconds) {
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    return `${(seconds / 3600).toFixed(1)} h`;
  }

  function amount(value, unit) {
    if (unit !== "bytes") return `${Math.round(value).toLocaleString("en")} ${unit}`;
    const units = ["B", "kB", "MB", "GB", "TB"];
    let i = 0;
    for (; value >= 1000 && i < units.length - 1; i++) value /= 1000;
    return `${value.toPrecision(3)} ${units[i]}`;
  }

  function said(progress) {
    if (!progress || !progress.total) return "";
    const { title, done, total, unit, rate, seconds_left: left } = progress;
    const parts = [`${title}: ${amount(done, unit)} of ${amount(total, unit)}`];
    if (rate) parts.push(`${amount(rate, unit)} a second`);
    if (left !== null && left !== undefined) parts.push(`${duration(left)} left`);
    return parts.join(", ");
  }

  for (const row of document.querySelectorAll("tr[data-watched]")) {
    const events = new EventSource(`/api/v1/jobs/${row.dataset.job}/events`);
    events.addEventListener("job", (event) => {
      const job = JSON.parse(event.data);
      row.querySelector(".state").textContent = job.state;
      row.querySelector(".said").textContent = said(job.progress);
      if (over.includes(job.state)) {
        events.close();
        location.reload();
      }
    });
    window.addEventListener("pagehide", () => events.close());
  }
})();
