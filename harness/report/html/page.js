"use strict";
(() => {
  const RIGHT = 50; // a score counts as right from half on, as in harness.analysis.flips
  const PAGE = 20;
  const $ = (id) => document.getElementById(id);
  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // --- Colours -----------------------------------------------------------------------------------
  const themes = $("themes");
  themes.hidden = false;
  themes.addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
  });

  // --- Charts: each mark says its label, under the pointer or reached by the arrow keys ----------
  const tip = $("tip");
  const show = (mark) => {
    tip.textContent = mark.getAttribute("aria-label").split("; ").join("\n");
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    const left = box.left + box.width / 2 - tip.offsetWidth / 2;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, Math.min(left, room)) + window.scrollX}px`;
    tip.style.top = `${(above > 0 ? above : box.bottom + 8) + window.scrollY}px`;
  };
  const hide = () => { tip.hidden = true; };
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  for (const drawing of document.querySelectorAll(".drawing svg")) {
    const marks = [...drawing.querySelectorAll(".mark")];
    const markOf = (event) => event.target.closest(".mark");
    drawing.addEventListener("pointerover", (event) => { if (markOf(event)) show(markOf(event)); });
    drawing.addEventListener("pointerout", hide);
    drawing.addEventListener("focusin", (event) => { if (markOf(event)) show(markOf(event)); });
    drawing.addEventListener("focusout", hide);
    drawing.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { hide(); return; }
      const at = marks.indexOf(event.target);
      if (at < 0) return;
      const ends = { Home: 0, End: marks.length - 1 };
      const to = event.key in ends ? ends[event.key] : at + (STEPS[event.key] || 0);
      const next = marks[Math.max(0, Math.min(marks.length - 1, to))];
      if (next === marks[at]) return;
      event.preventDefault();
      marks[at].setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  }

  // --- Heatmaps: one stop of the Tab key each; the arrow keys go from cell to cell ---------------
  const MOVES = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  for (const table of document.querySelectorAll("table.heat")) {
    const rows = [...table.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("button.cell")]);
    const cells = rows.flat();
    cells.forEach((cell, i) => { cell.tabIndex = i === 0 ? 0 : -1; });
    table.addEventListener("keydown", (event) => {
      const row = rows.findIndex((found) => found.includes(event.target));
      const move = MOVES[event.key];
      if (row < 0 || !move) return;
      event.preventDefault();
      const beside = rows[row + move[0]] || [];
      const next = beside[rows[row].indexOf(event.target) + move[1]];
      if (!next) return;
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  // --- Samples -----------------------------------------------------------------------------------
  const packed = $("packed");
  if (!packed) return;

  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  const browse = (data) => {
    const fields = ["view", "benchmark", "stage", "change", "path", "kind", "search"];
    const f = Object.fromEntries(fields.map((name) => [name, $(`f-${name}`)]));
    let found = []; // [benchmark index, sample index]
    let page = 0;

    const option = (select, value, text) => {
      const made = element("option", "", text);
      made.value = value;
      select.append(made);
    };
    const several = (strategy) => data.views.filter((view) => view.strategy === strategy).length > 1;
    data.views.forEach((view, i) => {
      option(f.view, i, several(view.strategy) ? `${view.strategy}, run ${view.run}` : view.strategy);
    });
    option(f.benchmark, "", "all");
    data.benchmarks.forEach((bench, i) => option(f.benchmark, i, bench.name));
    option(f.kind, "", "any");
    data.types.forEach((kind, i) => option(f.kind, i, kind.replace("_", "/")));

    const view = () => data.views[Number(f.view.value)];
    // A base alone has changed nothing yet: there is no stage to choose, and no way it went.
    const fillStages = (stage) => {
      for (const name of ["stage", "change", "path"]) {
        f[name].closest("label").hidden = view().stages.length < 2;
      }
      f.stage.replaceChildren();
      view().stages.forEach((name, t) => {
        if (t > 0) option(f.stage, t, `${view().numbers[t]} ${name}`);
      });
      f.stage.value = String(Math.min(stage, view().stages.length - 1));
    };

    const strictOf = (bench) => bench.scores[data.scorer] ?? bench.scores[data.own];
    const isRight = (score) => score >= RIGHT;

    // Which texts of a benchmark hold the searched words: looked up once per text, not per sample.
    const lowered = new Map();
    const matching = (bench, words) => {
      if (!lowered.has(bench)) lowered.set(bench, bench.texts.map((text) => text.toLowerCase()));
      return lowered.get(bench).map((text) => text.includes(words));
    };

    const tests = {
      lost: (was, now) => was && !now,
      form: (was, now, lenient) => was && !now && lenient,
      knowledge: (was, now, lenient) => was && !now && !lenient,
      gained: (was, now) => !was && now,
      kept: (was, now) => was && now,
      wrong: (was, now) => !was && !now,
    };

    const search = () => {
      const columns = view().columns;
      const stage = Number(f.stage.value);
      const [base, at, last] = [columns[0], columns[stage], columns[columns.length - 1]];
      const words = f.search.value.trim().toLowerCase();
      const kind = f.kind.value === "" ? null : Number(f.kind.value);
      found = [];
      data.benchmarks.forEach((bench, b) => {
        if (f.benchmark.value !== "" && Number(f.benchmark.value) !== b) return;
        const strict = strictOf(bench);
        const lenient = bench.scores.lenient;
        const hits = words ? matching(bench, words) : null;
        for (let i = 0; i < bench.ids.length; i += 1) {
          if (f.change.value || f.path.value) {
            if (!strict || strict[base][i] < 0 || strict[at][i] < 0) continue;
            const was = isRight(strict[base][i]);
            const now = isRight(strict[at][i]);
            const mild = lenient ? isRight(lenient[at][i]) : now;
            if (f.change.value && !tests[f.change.value](was, now, mild)) continue;
            if (f.path.value) {
              if (strict[last][i] < 0) continue;
              const path = `${+was}${+now}${+isRight(strict[last][i])}`;
              if (path !== f.path.value) continue;
            }
          }
          if (kind !== null && bench.kinds[at][i] !== kind) continue;
          if (hits) {
            const said = columns.some((c) => bench.answers[c][i] >= 0 && hits[bench.answers[c][i]]);
            const asked = hits[bench.questions[i]] || hits[bench.golds[i]];
            if (!said && !asked && !bench.ids[i].toLowerCase().includes(words)) continue;
          }
          found.push([b, i]);
        }
      });
      page = 0;
      draw();
    };

    const graded = (bench, column, i) => {
      const given = Object.entries(bench.scores)
        .map(([scorer, scores]) => [scorer, scores[column][i]])
        .filter(([, score]) => score >= 0);
      const agree = new Set(given.map(([, score]) => score)).size === 1;
      const parts = agree
        ? [`${given[0][1]} %`]
        : given.map(([scorer, score]) => `${scorer} ${score} %`);
      const kind = bench.kinds[column][i];
      if (kind >= 0) parts.push(data.types[kind].replace("_", "/"));
      return parts.join(" · ");
    };

    const step = (bench, i, t) => {
      const column = view().columns[t];
      const score = strictOf(bench) ? strictOf(bench)[column][i] : -1;
      const made = element("li", score < 0 ? "" : isRight(score) ? "right" : "wrong");
      if (t === Number(f.stage.value)) made.classList.add("at");
      const sign = score < 0 ? "" : isRight(score) ? " ✓" : " ✗";
      const name = t === 0 ? "base" : `${view().numbers[t]} ${view().stages[t]}`;
      made.append(element("p", "stage", name + sign));
      const answer = bench.answers[column][i];
      const text = answer < 0 ? "no answer stored" : bench.texts[answer] || "(empty)";
      const said = element("p", answer < 0 || !bench.texts[answer] ? "said quiet" : "said", text);
      said.dir = "auto";
      made.append(said, element("p", "graded", graded(bench, column, i)));
      return made;
    };

    const article = ([b, i]) => {
      const bench = data.benchmarks[b];
      const made = element("article", "sample");
      const header = element("header");
      const picture = bench.pictures[i];
      if (picture >= 0) {
        const image = element("img");
        image.src = data.pictures[picture];
        image.alt = "The picture of this question";
        header.append(image);
      }
      const words = element("div");
      const question = element("h3", "", bench.texts[bench.questions[i]] || bench.ids[i]);
      question.dir = "auto";
      const gold = bench.texts[bench.golds[i]];
      words.append(element("p", "name", `${bench.name} · ${bench.ids[i]}`), question);
      if (gold) words.append(element("p", "gold", `Right: ${gold}`));
      header.append(words);
      const steps = element("ol", "steps");
      view().columns.forEach((_, t) => steps.append(step(bench, i, t)));
      made.append(header, steps);
      return made;
    };

    const draw = () => {
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      const shown = found.slice(page * PAGE, (page + 1) * PAGE);
      $("found").textContent = found.length === 1 ? "1 sample" : `${found.length.toLocaleString("en")} samples`;
      $("list").replaceChildren(...shown.map(article));
      $("pager").hidden = found.length <= PAGE;
      $("page-number").textContent = `${page + 1} of ${pages.toLocaleString("en")}`;
      $("previous").disabled = page === 0;
      $("next").disabled = page >= pages - 1;
    };

    const turn = (by) => {
      page += by;
      draw();
      $("found").scrollIntoView({ block: "start" });
    };
    $("previous").addEventListener("click", () => turn(-1));
    $("next").addEventListener("click", () => turn(1));
    f.view.addEventListener("change", () => { fillStages(Number(f.stage.value)); search(); });
    for (const name of ["benchmark", "stage", "change", "path", "kind"]) {
      f[name].addEventListener("change", search);
    }
    let waiting = 0;
    f.search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(search, 120);
    });
    $("filters").addEventListener("submit", (event) => event.preventDefault());

    for (const cell of document.querySelectorAll("button.cell")) {
      cell.addEventListener("click", () => {
        const { strategy, benchmark, stage } = cell.dataset;
        const at = data.views.findIndex((found) => found.strategy === strategy);
        f.view.value = String(at);
        fillStages(data.views[at].numbers.indexOf(Number(stage)));
        f.benchmark.value = String(data.benchmarks.findIndex((bench) => bench.name === benchmark));
        f.change.value = cell.classList.contains("q0") || !/q-/.test(cell.className) ? "" : "lost";
        f.path.value = f.kind.value = f.search.value = "";
        search();
        $("samples").scrollIntoView({ block: "start" });
        f.view.focus({ preventScroll: true });
      });
    }

    $("filters").hidden = false;
    f.view.value = "0";
    fillStages(view().start);
    f.change.value = "lost";
    search();
    if (found.length === 0) { f.change.value = ""; search(); }
  };

  if (!("DecompressionStream" in window)) {
    $("found").textContent = "This browser is too old to unpack the samples (DecompressionStream).";
    return;
  }
  unpack(packed.textContent).then(browse);
})();
