// The page's behaviour: tabs, theme, maps, curves. Everything else is HTML that stands without it.
(function () {
  'use strict';

  const data = JSON.parse(document.getElementById('data').textContent);
  const charts = [];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // ---- tabs: one in the tab order, arrows move, as the ARIA pattern has it
  function setUpTabs(box) {
    const tabs = Array.from(box.querySelectorAll('[role="tab"]'));
    const select = (chosen, byHand) => {
      for (const tab of tabs) {
        const on = tab === chosen;
        tab.setAttribute('aria-selected', String(on));
        tab.tabIndex = on ? 0 : -1;
        document.getElementById(tab.getAttribute('aria-controls')).hidden = !on;
      }
      if (!byHand) return;
      chosen.focus();
      history.replaceState(null, '', '#' + chosen.id);  // the address shows what the reader sees
    };
    tabs.forEach((tab, i) => {
      tab.addEventListener('click', () => select(tab, true));
      tab.addEventListener('keydown', (event) => {
        const last = tabs.length - 1;
        const to = {ArrowRight: i === last ? 0 : i + 1, ArrowLeft: i === 0 ? last : i - 1, Home: 0, End: last}[event.key];
        if (to === undefined) return;
        event.preventDefault();
        select(tabs[to], true);
      });
    });
    const named = () => tabs.find((tab) => '#' + tab.id === location.hash);
    addEventListener('hashchange', () => { if (named()) select(named(), false); });
    if (tabs.length > 0) select(named() || tabs[0], false);
  }

  // ---- maps: what a cell's title says, under the map, for the mouse and for the arrow keys; and the map as a file
  function setUpMap(svg) {
    const cells = Array.from(svg.querySelectorAll('g')), columns = Number(svg.dataset.columns);
    const figure = svg.closest('figure'), words = document.createElement('p');
    words.className = 'readout';
    words.setAttribute('aria-live', 'polite');
    figure.append(words);
    let at = -1;
    const show = (index) => {
      if (at >= 0) cells[at].classList.remove('at');
      at = index;
      if (at >= 0) cells[at].classList.add('at');
      words.textContent = at < 0 ? '' : cells[at].querySelector('title').textContent;
    };
    svg.addEventListener('pointerover', (event) => show(cells.indexOf(event.target.closest('g'))));
    svg.addEventListener('pointerleave', () => show(-1));
    const box = svg.closest('.scroll');
    box.addEventListener('blur', () => show(-1));
    box.addEventListener('keydown', (event) => {
      const row = Math.max(0, Math.floor(at / columns)), column = Math.max(0, at % columns), last = columns - 1;
      const to = {
        ArrowRight: at < 0 ? 0 : row * columns + Math.min(last, column + 1), ArrowLeft: row * columns + Math.max(0, column - 1),
        ArrowDown: at < 0 ? 0 : Math.min(cells.length - columns + column, at + columns), ArrowUp: Math.max(column, at - columns),
        Home: row * columns, End: row * columns + last, Escape: -1,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(to);
      if (at >= 0) cells[at].scrollIntoView({block: 'nearest', inline: 'nearest'});
    });
    const save = document.createElement('button');
    save.type = 'button';
    save.className = 'save';
    save.textContent = 'SVG';
    save.title = 'Save this picture';
    save.setAttribute('aria-label', 'Save as SVG: ' + svg.getAttribute('aria-label'));
    save.addEventListener('click', () => {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(svg)], {type: 'image/svg+xml'}));
      link.download = svg.getAttribute('aria-label').replace(/[^A-Za-z0-9]+/g, '-').toLowerCase() + '.svg';
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    figure.querySelector('figcaption').append(save);
  }

  // ---- theme: auto follows the system; the choice is kept where the browser allows it
  function setUpTheme() {
    const button = document.getElementById('theme');
    const names = ['auto', 'light', 'dark'];
    let theme = 'auto';
    try {
      theme = localStorage.getItem('qk-restore-theme') || 'auto';
    } catch (error) { /* a file:// page may have no storage */ }
    const apply = () => {
      if (theme === 'auto') {
        document.documentElement.removeAttribute('data-theme');
      } else {
        document.documentElement.dataset.theme = theme;
      }
      button.textContent = 'Theme: ' + theme;
      repaint();
    };
    button.addEventListener('click', () => {
      theme = names[(names.indexOf(theme) + 1) % names.length];
      try {
        localStorage.setItem('qk-restore-theme', theme);
      } catch (error) { /* then it lasts until the page is closed */ }
      apply();
    });
    if (!names.includes(theme)) theme = 'auto';
    apply();
  }

  const repaint = () => charts.forEach((chart) => chart.redraw(false, true));

  // ---- curves
  const short = (value) => {
    if (value == null) return '–';
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return Number(value.toPrecision(3)).toExponential();
    return String(Number(value.toPrecision(4)));
  };
  const ticks = (u, values) => values.map(short);

  // Exponential moving average, corrected for its start; gaps stay gaps.
  function smoothed(values, span) {
    const keep = 1 - 2 / (span + 1);
    let sum = 0, weight = 0;
    return values.map((value) => {
      if (value == null) return null;
      sum = keep * sum + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
      return sum / weight;
    });
  }

  const wholeSteps = (value) => value == null ? '–' : value.toLocaleString('en');
  const steps = () => ({label: 'step', value: (u, value) => wholeSteps(value)});
  const rightAxis = 82;  // of the learning rate, with its label; the loss leaves the same room, so that steps stand above steps

  const axis = (extra) => Object.assign({
    stroke: () => color('--soft'), font: '12px system-ui, sans-serif', labelFont: '12px system-ui, sans-serif', labelSize: 18, size: 56,
    grid: {stroke: () => color('--line'), width: 1}, ticks: {stroke: () => color('--line'), width: 1, size: 5}, values: ticks,
  }, extra);
  const series = (label, name, extra) => Object.assign({
    label, stroke: () => color(name), width: 1.5, value: (u, value) => short(value), points: {size: 5},
  }, extra);
  // Steps have no halves.
  const stepAxis = (label) => axis({
    size: 36, label, values: (u, values) => values.map(wholeSteps),
    incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6],
  });
  const cursor = () => ({sync: {key: 'steps'}, y: false});

  function draw(id, height, options, columns) {
    const box = document.getElementById(id);
    if (!box) return null;
    const width = () => Math.max(240, box.clientWidth);
    const chart = new uPlot(Object.assign({width: width(), height, cursor: cursor()}, options), columns, box);
    charts.push(chart);
    // In the next frame: a new size changes the layout that is being observed.
    new ResizeObserver(() => requestAnimationFrame(() => {
      if (chart.width !== width()) chart.setSize({width: width(), height});
    })).observe(box);
    return chart;
  }

  function drawTraining() {
    const log = data.log, count = log.step.length;
    if (count === 0) return;
    const span = Math.max(5, Math.round(count / 25));
    const smooth = document.getElementById('smooth');
    const faint = () => color('--accent') + (smooth.checked ? '77' : '');
    const loss = draw('chart-loss', 280, {
      scales: {x: {time: false}},
      padding: [null, rightAxis, null, null],
      axes: [stepAxis(null), axis({label: 'loss'})],
      series: [steps(), series('loss', '--accent', {stroke: faint}), series('smoothed', '--accent', {width: 2, points: {show: false}})],
    }, [log.step, log.loss, smoothed(log.loss, span)]);
    const show = () => {
      loss.setSeries(2, {show: smooth.checked});
      document.getElementById('smooth-hint').textContent = smooth.checked ? 'Moving average over ' + span + ' steps.' : '';
    };
    smooth.addEventListener('change', show);
    show();
    draw('chart-norm', 200, {
      scales: {x: {time: false}, lr: {}},
      axes: [stepAxis('step'), axis({label: 'grad norm'}),
             axis({scale: 'lr', side: 1, label: 'learning rate', grid: {show: false}, size: rightAxis - 18})],
      series: [steps(), series('grad norm', '--accent'), series('learning rate', '--second', {scale: 'lr', points: {show: false}})],
    }, [log.step, log.grad_norm, log.lr]);
  }

  // One line a task over the measurements up to the end of SFT; what was restored is another model and no point of the curve.
  function drawRecall() {
    const recall = data.recall, names = ['--accent', '--second', '--good', '--bad', '--soft'];
    const at = recall.stages.map((stage, i) => i).filter((i) => !recall.stages[i].stage.endsWith('restored'));
    draw('chart-recall', 220, {
      scales: {x: {time: false}, y: {range: [0, 100]}},
      axes: [stepAxis('step'), axis({label: '% found'})],
      series: [steps()].concat(recall.tasks.map((task, i) => series(task, names[i % names.length], {
        points: {show: true, size: 6}, dash: i < names.length ? undefined : [6, 4],
      }))),
    }, [at.map((i) => recall.stages[i].step)].concat(recall.tasks.map((task, t) => at.map((i) => {
      const rate = recall.by_task[i][t];
      return rate.n > 0 ? 100 * rate.rate : null;
    }))));
  }

  document.querySelectorAll('.tabbed').forEach(setUpTabs);
  document.querySelectorAll('svg.map').forEach(setUpMap);
  drawTraining();
  drawRecall();
  setUpTheme();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);

  // A printed page has nothing to click: open what is closed, and close it again afterwards.
  let opened = [];
  addEventListener('beforeprint', () => {
    opened = Array.from(document.querySelectorAll('details:not([open])'));
    opened.forEach((element) => { element.open = true; });
    requestAnimationFrame(repaint);
  });
  addEventListener('afterprint', () => {
    opened.forEach((element) => { element.open = false; });
    repaint();
  });
})();
