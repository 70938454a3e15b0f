// The last hour: a few figures, and two small charts that are said in words too.

function drawFigures(metrics) {
  byId("figures-part").hidden = false;
  const wait = metrics.percentiles?.queue_time ?? {}, work = metrics.percentiles?.process_time ?? {};
  const rate = number(metrics.success_rate);
  const finished = (number(metrics.counts?.completed) ?? 0) + (number(metrics.counts?.failed) ?? 0);
  const rows = [
    ["Finished", String(finished)],
    ["Succeeded", rate === null ? "–" : `${Math.round(rate * 100)} %`],
    ["Wait, half below", span(wait.p50)],
    ["Wait, 95 % below", span(wait.p95)],
    ["Work, half below", span(work.p50)],
    ["Preemptions", String(number(metrics.counts?.preemptions) ?? 0)],
  ];
  keep(byId("figures"), rows, ([name]) => name, ([name]) => {
    const node = make("div");
    node.append(make("dt", "", name), make("dd"));
    return node;
  }, (node, [, text]) => say(node.lastChild, text));
}

function numbers(value) {
  return Array.isArray(value) ? value.slice(0, 120).map(number) : [];
}

function drawCharts(series) {
  const done = numbers(series?.completed), failed = numbers(series?.failed), waits = numbers(series?.wait_s);
  const step = span(number(series?.step_s) ?? 120);
  const total = (all) => all.reduce((sum, each) => sum + (each ?? 0), 0);
  const most = Math.max(0, ...done.map((each, i) => (each ?? 0) + (failed[i] ?? 0)));
  const longest = Math.max(0, ...waits.map((each) => each ?? 0));
  const charts = done.length ? [
    { key: "finished", title: "Finished", most: `most ${most} in ${step}`, draw: (svg) => bars(svg, done, failed, most || 1),
      words: `Finished in the last hour: ${total(done)} completed, ${total(failed)} failed.` },
    { key: "waits", title: "Mean wait", most: `most ${span(longest)}`, draw: (svg) => line(svg, waits, longest || 1),
      words: `Mean wait in the last hour: at most ${span(longest)}, lately ${span(waits.findLast((each) => each !== null) ?? null)}.` },
  ] : [];
  keep(byId("charts"), charts, (chart) => chart.key, buildChart, (node, chart) => {
    const svg = node.querySelector("svg");
    if (svg.getAttribute("aria-label") !== chart.words) svg.setAttribute("aria-label", chart.words);
    say(node.querySelector(".most"), chart.most);
    svg.replaceChildren();
    chart.draw(svg);
  });
}

function buildChart(chart) {
  const node = make("figure", "chart");
  const title = make("figcaption");
  title.append(make("span", "", chart.title), make("span", "most"));
  const ends = make("div", "ends");
  ends.append(make("span", "", "an hour ago"), make("span", "", "now"));
  const svg = shape("svg", { viewBox: "0 0 300 54", preserveAspectRatio: "none", role: "img" });
  node.append(title, svg, ends);
  return node;
}

function bars(svg, done, failed, most) {
  const width = 300 / done.length;
  done.forEach((each, i) => {
    let y = 54;
    for (const [kind, n] of [["ok", each ?? 0], ["bad", failed[i] ?? 0]]) {
      const height = (n / most) * 48;
      y -= height;
      if (n) svg.append(shape("rect", { class: kind, x: i * width + 1, y, width: width - 2, height }));
    }
  });
}

/** Steps in which nothing finished have no wait: the line has gaps there, and dots stay seen. */
function line(svg, values, most) {
  const width = 300 / values.length;
  const y = (value) => 51 - (value / most) * 45;
  let part = [];
  const end = () => {
    if (!part.length) return;
    const [first, last] = [part[0][0], part[part.length - 1][0] + width];
    const points = [...part.map(([x, at]) => `${x},${at} ${x + width},${at}`)].join(" ");
    svg.append(shape("polygon", { class: "area", points: `${first},54 ${points} ${last},54` }));
    svg.append(shape("polyline", { class: "line", points }));
    part = [];
  };
  values.forEach((value, i) => (value === null ? end() : part.push([i * width, y(value)])));
  end();
}
