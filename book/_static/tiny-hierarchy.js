/* A trained hierarchy in the reader's page: the generative half of rrvqlib's HierarchicalVAE,
 * Eq. (3) and (7), in plain JavaScript, and the figure around it. Names are those of rrvqlib.
 *
 * A map is {data, channels, side}: numbers of shape (channels, side, side), row by row. Layers
 * are numbered as in the library: index 0 is l = 1, nearest the pixels. */
(function () {
  "use strict";

  // convolutions.py -----------------------------------------------------------------------------

  function emptyMap(channels, side) {
    return { data: new Float64Array(channels * side * side), channels, side };
  }

  function elu(map) {
    return { ...map, data: map.data.map((x) => (x > 0 ? x : Math.expm1(x))) };
  }

  function add(a, b) {
    return { ...a, data: a.data.map((x, i) => x + b.data[i]) };
  }

  function concat(a, b) {
    const joined = emptyMap(a.channels + b.channels, a.side);
    joined.data.set(a.data);
    joined.data.set(b.data, a.data.length);
    return joined;
  }

  /** Copies going up: each value becomes factor x factor of them. */
  function rescale(map, factor) {
    const { channels, side } = map, large = emptyMap(channels, side * factor);
    for (let i = 0, c = 0; c < channels; c++)
      for (let y = 0; y < large.side; y++)
        for (let x = 0; x < large.side; x++, i++)
          large.data[i] =
            map.data[(c * side + Math.floor(y / factor)) * side + Math.floor(x / factor)];
    return large;
  }

  /** A convolution that keeps the map's side; weight (outputs, inputs, kernel, kernel). */
  function conv(map, { weight, bias }) {
    const [outputs, inputs, kernel] = weight.shape, { side } = map;
    const padding = (kernel - 1) / 2, result = emptyMap(outputs, side);
    for (let o = 0, w = 0; o < outputs; o++) {
      result.data.fill(bias.data[o], o * side * side, (o + 1) * side * side);
      for (let i = 0; i < inputs; i++)
        for (let dy = -padding; dy <= padding; dy++)
          for (let dx = -padding; dx <= padding; dx++, w++) {
            const value = weight.data[w];
            const left = Math.max(0, -dx), right = Math.min(side, side - dx);
            for (let y = Math.max(0, -dy); y < Math.min(side, side - dy); y++) {
              const to = (o * side + y) * side, from = (i * side + y + dy) * side + dx;
              for (let x = left; x < right; x++) result.data[to + x] += value * map.data[from + x];
            }
          }
    }
    return result;
  }

  /** A transposed convolution that multiplies the side; weight (inputs, outputs, kernel, kernel).
   * The kernel is odd, or twice the stride. */
  function upConv(map, { weight, bias }, stride) {
    const [inputs, outputs, kernel] = weight.shape, { side } = map;
    const padding = Math.floor((kernel % 2 ? kernel : stride) / 2);
    const result = emptyMap(outputs, side * stride), large = result.side;
    for (let o = 0; o < outputs; o++)
      result.data.fill(bias.data[o], o * large * large, (o + 1) * large * large);
    for (let i = 0, w = 0; i < inputs; i++)
      for (let o = 0; o < outputs; o++)
        for (let ky = 0; ky < kernel; ky++)
          for (let kx = 0; kx < kernel; kx++, w++)
            for (let y = 0; y < side; y++) {
              const toY = y * stride - padding + ky;
              if (toY < 0 || toY >= large) continue;
              for (let x = 0; x < side; x++) {
                const toX = x * stride - padding + kx;
                if (toX >= 0 && toX < large)
                  result.data[(o * large + toY) * large + toX] +=
                    weight.data[w] * map.data[(i * side + y) * side + x];
              }
            }
    return result;
  }

  /** rescale(x) + conv(ELU(conv(ELU(x)))), a second input joining between the convolutions. */
  function residualBlock(map, { first, second }, factor, joining) {
    const branch = concat(upConv(elu(map), first, factor), joining);
    return add(rescale(map, factor), conv(elu(branch), second));
  }

  // responsibilities.py, sampling.py, likelihood.py ---------------------------------------------

  /** Eq. (7): embeddings (D, H, W) -> log-probabilities in nats, one list of K per position. */
  function logResponsibilities(map, { means, rawLogVariances }) {
    const [K, D] = means.shape, positions = map.side * map.side, result = [];
    for (let position = 0; position < positions; position++) {
      const logits = new Float64Array(K);
      for (let k = 0; k < K; k++) {
        const logVariance = Math.max(-5, Math.min(5, rawLogVariances.data[k]));
        let squaredDistance = 0;
        for (let d = 0; d < D; d++)
          squaredDistance += (map.data[d * positions + position] - means.data[k * D + d]) ** 2;
        logits[k] = -(squaredDistance * Math.exp(-logVariance) + D * logVariance) / 2;
      }
      const largest = Math.max(...logits);
      const total = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
      result.push(logits.map((logit) => logit - largest - Math.log(total)));
    }
    return result;
  }

  /** Codes (H x W) -> their vectors (D, H, W). */
  function lookup(codes, { means }) {
    const D = means.shape[1], map = emptyMap(D, Math.sqrt(codes.length));
    codes.forEach((code, position) => {
      for (let d = 0; d < D; d++)
        map.data[d * codes.length + position] = means.data[code * D + d];
    });
    return map;
  }

  /** A code drawn by the Gumbel-max trick; temperature 0 gives the most probable one. */
  function categorical(logProbabilities, temperature) {
    const scores = logProbabilities.map((logP) =>
      temperature === 0 ? logP : logP / temperature - Math.log(-Math.log(1 - Math.random())));
    return scores.indexOf(Math.max(...scores));
  }

  function realsToPixels(mean) {
    return Uint8ClampedArray.from(mean.data, (x) => Math.floor((x + 0.5) * 256));
  }

  // decoder.py ----------------------------------------------------------------------------------

  /** The state above (C, h, w) and code vectors (D, H, W) -> this layer's state (C, H, W). */
  function decode(layer, state, vectors) {
    return residualBlock(state, layer.join, layer.factor, conv(vectors, layer.pladder));
  }

  function pstrap(layer, state) {
    const project = layer.factor === 1 ? conv : upConv;
    return project(elu(state), layer.pstrap, layer.factor);
  }

  /** Run from the top layer down to the pixels: Eq. (3).
   *
   * choose(index, logPrior) is called for every layer and returns its codes. Drawing them or
   * keeping them is all that tells sampling and decoding apart.
   * Returns {mean, codes, logPriors}: means of the pixels (3, S, S), and lists by layer. */
  function topDown(model, choose) {
    const codes = [], logPriors = [];
    let state = rescale(model.top, model.pyramid[model.layers.length - 1]);  // d_{L+1}, tiled
    for (let index = model.layers.length - 1; index >= 0; index--) {
      const layer = model.layers[index];
      logPriors[index] = logResponsibilities(pstrap(layer, state), layer.codebook);
      codes[index] = choose(index, logPriors[index]);
      state = decode(layer, state, lookup(codes[index], layer.codebook));
    }
    return { mean: upConv(elu(state), model.head, 2), codes, logPriors };
  }

  // The weights ---------------------------------------------------------------------------------

  function fromFloat16(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  /** What tools/export_tiny_hierarchy.py wrote -> the model. */
  function load(packed) {
    const bytes = Uint8Array.from(atob(packed.float16), (letter) => letter.charCodeAt(0));
    const tensors = {};
    let start = 0;
    for (const [name, shape] of Object.entries(packed.shapes)) {
      const data = new Float64Array(shape.reduce((product, size) => product * size, 1));
      for (let i = 0; i < data.length; i++, start += 2)
        data[i] = fromFloat16(bytes[start] | (bytes[start + 1] << 8));
      tensors[name] = { shape, data };
    }
    const parameters = (name) => ({
      weight: tensors[name + ".weight"],
      bias: tensors[name + ".bias"],
    });
    const { pyramid } = packed;
    const layers = pyramid.map((side, index) => ({
      side,
      factor: side / (pyramid[index + 1] ?? side),
      codebook: {
        means: tensors[`layers.${index}.latent.codebook.means`],
        rawLogVariances: tensors[`layers.${index}.latent.codebook.raw_log_variances`],
      },
      pstrap: parameters(`layers.${index}.pstrap.project`),
      pladder: parameters(`layers.${index}.pladder.0`),
      join: {
        first: parameters(`layers.${index}.join.first`),
        second: parameters(`layers.${index}.join.second`),
      },
    }));
    const top = { data: tensors.top.data, channels: tensors.top.data.length, side: 1 };
    return { pyramid, layers, top, head: parameters("head.1") };
  }

  // The figure ----------------------------------------------------------------------------------

  const STYLE = `
    #tiny-hierarchy button { background: none; border: 1px solid currentColor; border-radius: 4px;
      color: inherit; cursor: pointer; font: inherit; padding: .15em .6em; }
    #tiny-hierarchy canvas { aspect-ratio: 1; display: block; image-rendering: pixelated;
      width: 100%; }
    #tiny-hierarchy p { margin: .4em 0; }
    #tiny-hierarchy :focus-visible { outline: 3px solid #E69F00; outline-offset: 1px; }
    #tiny-hierarchy .examples { display: grid; gap: 6px; margin: .5em 0;
      grid-template-columns: repeat(12, 1fr); }
    #tiny-hierarchy .examples button { border: 2px solid transparent; padding: 2px; }
    #tiny-hierarchy .examples button[aria-pressed="true"] { border-color: currentColor; }
    #tiny-hierarchy .controls { align-items: center; display: flex; flex-wrap: wrap;
      gap: .4em 1.2em; }
    #tiny-hierarchy .controls label { align-items: center; display: flex; gap: .5em; margin: 0; }
    #tiny-hierarchy input { accent-color: #0072B2; }
    #tiny-hierarchy output { font-variant-numeric: tabular-nums; }
    #tiny-hierarchy .panels { display: grid; gap: 1em; grid-template-columns: repeat(3, 1fr);
      margin-top: .8em; }
    #tiny-hierarchy .panels > div { min-width: 0; }
    /* Two lines whatever they say, so that nothing moves under the pointer. */
    #tiny-hierarchy .heading { align-items: baseline; display: grid; font-size: .85rem;
      grid-template-columns: 1fr auto; grid-template-rows: 1.9em 1.5em; line-height: 1.5;
      margin-bottom: .25em; white-space: nowrap; }
    #tiny-hierarchy .heading > :last-child { grid-column: 1 / -1; grid-row: 2; }
    #tiny-hierarchy .codes { aspect-ratio: 1; display: grid; gap: 1px; }
    #tiny-hierarchy [role="row"] { display: contents; }
    #tiny-hierarchy [role="gridcell"] { cursor: pointer; }
    #tiny-hierarchy [aria-selected="true"] { box-shadow: 0 0 0 2px #fff, 0 0 0 4px #000;
      z-index: 1; }
    #tiny-hierarchy .picture { position: relative; }
    #tiny-hierarchy .frame { border: 1px solid #fff; outline: 1px solid #000;
      pointer-events: none; position: absolute; }
    #tiny-hierarchy .bars { display: grid; grid-auto-flow: column; gap: 1px 1em;
      grid-template-rows: repeat(var(--codes), auto); }
    #tiny-hierarchy .bars button { align-items: center; border: 0; display: grid; font-size: .75rem;
      gap: .4em; grid-template-columns: 1em 1fr 3.4em; line-height: 1.05; padding: 0 .2em; }
    #tiny-hierarchy .bars button[aria-pressed="true"] { font-weight: 700; outline: 1px solid; }
    #tiny-hierarchy .bars .colour { border: 1px solid currentColor; height: .8em; }
    #tiny-hierarchy .bars .bar { background: currentColor; height: .6em; min-width: 1px; }
    #tiny-hierarchy .bars .share { font-variant-numeric: tabular-nums; text-align: right; }
    @media (max-width: 600px) {
      #tiny-hierarchy { padding: .6rem; }
      #tiny-hierarchy .examples { grid-template-columns: repeat(6, 1fr); }
      #tiny-hierarchy .panels { gap: .7em; grid-template-columns: repeat(2, 1fr); }
      #tiny-hierarchy .picture-panel { order: -1; }
      #tiny-hierarchy .wide { grid-column: span 2; }
      #tiny-hierarchy .bars { grid-template-rows: repeat(calc(var(--codes) / 2), auto); }
      #tiny-hierarchy .bars button { line-height: 1.6; }
    }`;

  // Viridis: readable to the colour-blind; tools/export_tiny_hierarchy.py has the same.
  const COLOURS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

  function colourOf(rank, K) {
    const place = (rank / (K - 1)) * (COLOURS.length - 1);
    const below = Math.min(Math.floor(place), COLOURS.length - 2);
    const mixed = COLOURS[below].map((c, i) =>
      Math.round(c + (place - below) * (COLOURS[below + 1][i] - c)));
    return `rgb(${mixed})`;
  }

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  /** Draw three planes of pixels, each (S, S), on a canvas of S x S. */
  function paint(canvas, planes) {
    const side = (canvas.width = canvas.height = Math.sqrt(planes.length / 3));
    const context = canvas.getContext("2d"), image = context.createImageData(side, side);
    for (let i = 0; i < side * side; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = planes[c * side * side + i];
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  function start(root, packed) {
    const model = load(packed), L = model.layers.length;
    const K = model.layers.map((layer) => layer.codebook.means.shape[0]);
    const keep = (codes) => (index) => codes[index];
    const draw = (logPrior) => logPrior.map((row) => categorical(row, Number(temperature.value)));
    const history = [];
    let shown = topDown(model, keep(packed.examples[0])), before = shown;
    let selected = { index: L - 1, position: Math.floor(model.layers[L - 1].side / 2) };

    // What can be pressed: examples, sample, undo.
    const examples = packed.examples.map((codes, i) => {
      const canvas = element("canvas", {});
      const label = `Example ${i + 1}`;
      const button = element("button", { type: "button", "aria-label": label }, canvas);
      // One after the other, so that the page does not wait for all of them.
      setTimeout(() => paint(canvas, realsToPixels(topDown(model, keep(codes)).mean)));
      button.addEventListener("click", () => show(keep(codes), label + "."));
      return button;
    });
    const sample = element("button", { type: "button" }, "Sample a picture");
    sample.addEventListener("click", () =>
      show((_, logPrior) => draw(logPrior), "Every layer drawn from its prior."));
    const undo = element("button", { type: "button" }, "Undo");
    undo.addEventListener("click", () => {
      before = shown;
      shown = history.pop();
      redraw("Undone.");
    });
    const temperature = element("input", {
      type: "range", min: 0, max: 1.5, step: 0.1, value: 1,
      "aria-label": "Temperature of the prior",
    });
    const temperatureShown = element("output", {}, "1.0");
    temperature.addEventListener("input", () => {
      temperatureShown.textContent = Number(temperature.value).toFixed(1);
    });
    const redrawBelow = element("input", { type: "checkbox" });

    // The grids, top layer first.
    const grids = model.layers.map(({ side }, index) => {
      const cells = Array.from({ length: side * side }, () => element("div", { role: "gridcell" }));
      const rows = Array.from({ length: side }, (_, row) =>
        element("div", { role: "row" }, ...cells.slice(row * side, (row + 1) * side)));
      const codes = element("div", {
        class: "codes", role: "grid", style: `grid-template-columns: repeat(${side}, 1fr)`,
        "aria-label": `Codes of layer ${index + 1}, ${side} by ${side}`,
      }, ...rows);
      codes.addEventListener("click", (event) => {
        const position = cells.indexOf(event.target);
        if (position >= 0) cycle(index, position, event);
      });
      codes.addEventListener("keydown", (event) => {
        const position = cells.indexOf(event.target), x = position % side;
        const steps = {
          ArrowLeft: x > 0 && -1, ArrowRight: x < side - 1 && 1,
          ArrowUp: position >= side && -side, ArrowDown: position < side * (side - 1) && side,
        };
        if (event.key === "Enter" || event.key === " ") cycle(index, position, event);
        else if (event.key in steps) select(index, position + Number(steps[event.key]));
        else return;
        event.preventDefault();
      });
      const bits = element("output", {});
      const again = element("button", { type: "button" }, "Redraw");
      again.setAttribute("aria-label", `Redraw layer ${index + 1} from its prior`);
      again.addEventListener("click", () => {
        show((i, logPrior) => (i === index || (i < index && redrawBelow.checked)
          ? draw(logPrior) : shown.codes[i]), `Layer ${index + 1} redrawn.`);
      });
      const name = element("span", {}, element("b", {}, `Layer ${index + 1}`), ` ${side}×${side}`);
      const panel = element("div", index ? {} : { class: "wide" },
        element("div", { class: "heading" }, name, again, bits), codes);
      return { cells, bits, panel };
    });

    // The pictures and the bars.
    const canvas = element("canvas", { role: "img", "aria-label": "The picture these codes give" });
    const changes = element("canvas", { role: "img", "aria-label": "What the last change did" });
    const frame = element("div", { class: "frame" });
    const pixelTitle = element("output", {}), barsTitle = element("div", { class: "heading" });
    const bars = element("div", { class: "bars", role: "group", "aria-label": "Codes to pick" });
    const status = element("p", { role: "status" });
    root.append(
      element("style", {}, STYLE),
      element("p", {}, "Click a code to change it to the next most probable one (with Shift: " +
        "back), or pick one from the prior’s bars. Keys: arrows move, Enter changes."),
      element("div", { class: "examples", role: "group", "aria-label": "Examples" }, ...examples),
      element("div", { class: "controls" }, sample,
        element("label", {}, "temperature", temperature, temperatureShown),
        element("label", {}, redrawBelow, "a change redraws the layers below it"), undo),
      element("div", { class: "panels" }, ...grids.map((grid) => grid.panel).reverse(),
        element("div", { class: "picture-panel" },
          element("div", { class: "heading" }, element("b", {}, "Picture"), pixelTitle),
          element("div", { class: "picture" }, canvas, frame)),
        element("div", { class: "picture-panel" },
          element("div", { class: "heading" }, element("b", {}, "Last change"),
            element("span", {}, "grey: none; contrast × 2")), changes),
        element("div", { class: "wide" }, barsTitle, bars)),
      status);

    /** The selected code's alternatives, most probable first. */
    function ranking(index, position) {
      const logPrior = shown.logPriors[index][position];
      return Array.from(logPrior.keys()).sort((a, b) => logPrior[b] - logPrior[a]);
    }

    function cycle(index, position, { shiftKey }) {
      const order = ranking(index, position), now = order.indexOf(shown.codes[index][position]);
      const step = shiftKey ? -1 : 1;
      change(index, position, order[(now + step + order.length) % order.length]);
    }

    function change(index, position, code) {
      const old = shown.codes[index][position];
      const edited = shown.codes[index].slice();
      edited[position] = code;
      selected = { index, position };
      show((i, logPrior) => {
        if (i === index) return edited;
        return i < index && redrawBelow.checked ? draw(logPrior) : shown.codes[i];
      }, `Layer ${index + 1}, ${placeOf(index, position)}: code ${old} became ${code}.`);
    }

    function placeOf(index, position) {
      const { side } = model.layers[index];
      return `row ${Math.floor(position / side) + 1}, column ${(position % side) + 1}`;
    }

    function select(index, position) {
      selected = { index, position };
      redraw(`Layer ${index + 1}, ${placeOf(index, position)}.`);
      grids[index].cells[position].focus();
    }

    function show(choose, words) {
      const next = topDown(model, choose);
      history.push(shown);
      before = shown;
      shown = next;
      redraw(words);
    }

    /** -log2 of the probability of a layer's codes given the layers above. */
    function bitsOf(state, index) {
      return state.codes[index].reduce((sum, code, position) =>
        sum - state.logPriors[index][position][code] / Math.LN2, 0);
    }

    function redraw(words) {
      const pixels = realsToPixels(shown.mean), earlier = realsToPixels(before.mean);
      paint(canvas, pixels);
      paint(changes, Uint8ClampedArray.from(pixels, (p, i) => 128 + 2 * (p - earlier[i])));
      const meanChange = pixels.reduce((sum, p, i) => sum + Math.abs(p - earlier[i]), 0);
      let total = 0;
      grids.forEach(({ cells, bits }, index) => {
        const now = bitsOf(shown, index), difference = now - bitsOf(before, index);
        total += now;
        const signed = (difference < 0 ? "−" : "+") + Math.abs(difference).toFixed(1);
        const same = Math.abs(difference) < 0.05;
        bits.textContent = `${now.toFixed(1)} bits` + (same ? "" : ` (${signed})`);
        cells.forEach((cell, position) => {
          const code = shown.codes[index][position];
          const chosen = selected.index === index && selected.position === position;
          cell.style.background = colourOf(packed.colourRanks[index][code], K[index]);
          cell.setAttribute("aria-label", `${placeOf(index, position)}, code ${code}`);
          cell.setAttribute("aria-selected", chosen);
          // One tab stop for each grid: the selected cell, or the first.
          const stop = selected.index === index ? chosen : position === 0;
          cell.tabIndex = stop ? 0 : -1;
        });
      });
      pixelTitle.textContent = `${total.toFixed(1)} bits in all`;
      drawFrame();
      drawBars();
      examples.forEach((button, i) => {
        const same = packed.examples[i].every((codes, index) =>
          codes.every((code, position) => code === shown.codes[index][position]));
        button.setAttribute("aria-pressed", same);
      });
      undo.disabled = history.length === 0;
      const moved = (meanChange / pixels.length).toFixed(1);
      status.textContent = `${words} Pixels moved by ${moved} of 255 on average.`;
    }

    /** The selected code's own square of the picture; its convolutions reach further. */
    function drawFrame() {
      const { side } = model.layers[selected.index], size = 100 / side;
      frame.style.cssText = `width: ${size}%; height: ${size}%; ` +
        `left: ${(selected.position % side) * size}%; ` +
        `top: ${Math.floor(selected.position / side) * size}%`;
    }

    function drawBars() {
      const { index, position } = selected, logPrior = shown.logPriors[index][position];
      const largest = Math.exp(Math.max(...logPrior));
      const focused = bars.contains(document.activeElement);
      barsTitle.replaceChildren(element("b", {}, "Prior"),
        element("span", {}, `of layer ${index + 1}, ${placeOf(index, position)}`));
      bars.style.setProperty("--codes", K[index]);
      bars.replaceChildren(...ranking(index, position).map((code) => {
        const p = Math.exp(logPrior[code]), share = `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`;
        const colour = colourOf(packed.colourRanks[index][code], K[index]);
        const button = element("button", {
          type: "button", "aria-label": `code ${code}, probability ${share}`,
          "aria-pressed": shown.codes[index][position] === code,
        }, element("span", { class: "colour", style: `background: ${colour}` }),
        element("span", { class: "bar", style: `width: ${(100 * p) / largest}%` }),
        element("span", { class: "share" }, share));
        button.addEventListener("click", () => change(index, position, code));
        return button;
      }));
      if (focused) bars.querySelector("[aria-pressed=true]").focus();
    }

    redraw("Example 1.");
  }

  if (typeof module === "object") module.exports = { load, topDown, categorical, realsToPixels };
  else start(document.getElementById("tiny-hierarchy"), globalThis.TINY_HIERARCHY);
})();
