"""Draw the book's diagrams as SVG, into book/figures.

python tools/draw_figures.py

SVG is written by hand, so that a diagram has no date in it and comes out the same everywhere.
"""

from __future__ import annotations

import argparse
import base64
import colorsys
import io
from pathlib import Path

import numpy as np

BOOK = Path(__file__).resolve().parent.parent / "book"
FOLDER = BOOK / "figures"
# The palette of rrvqlib.teaching.figures and a grey: one colour for each of eight codes.
PALETTE = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#BBBBBB",
]
INK, BLUE = "#222222", "#0072B2"


def svg(width: int, height: int, title: str, parts: list[str], font_size: int = 15) -> str:
    """A drawing on a white card, which a dark page needs."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
            f' font-family="Helvetica, Arial, sans-serif" font-size="{font_size}" fill="{INK}">',
            f"<title>{title}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0.5L8 4L0 7.5z" fill="context-stroke"/>'
            "</marker></defs>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, anchor: str = "middle", **style: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{extra}>{words}</text>'


def symbol(letter: str, index: str) -> str:
    """A letter with an index below it, as SVG text."""
    italic = f'<tspan font-style="italic">{letter}</tspan>'
    if not index:
        return italic
    return f'{italic}<tspan dy="4" font-size="11">{index}</tspan><tspan dy="-4">&#8203;</tspan>'


def arrow(x1: float, y1: float, x2: float, y2: float, colour: str = INK) -> str:
    return (
        f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{colour}" stroke-width="1.8"'
        ' fill="none" marker-end="url(#head)"/>'
    )


def cells(x: float, y: float, size: float, colours: np.ndarray, gap: float = 0.0) -> list[str]:
    """A square of coloured cells: colours is an array of strings, (side, side)."""
    step = size / len(colours)
    inner = step - gap
    return [
        f'<g transform="translate({x:g} {y:g})" shape-rendering="crispEdges">',
        *(
            f'<path fill="{colour}" d="M{j * step:g} {i * step:g}'
            f'h{inner:g}v{inner:g}h-{inner:g}z"/>'
            for (i, j), colour in np.ndenumerate(colours)
        ),
        "</g>",
    ]


def photograph(side: int) -> np.ndarray:
    """A face, uint8 (side, side, 3), by averaging blocks: side divides 192."""
    from skimage import data

    face = data.astronaut()[15:207, 130:322].astype(float)
    block = len(face) // side
    return face.reshape(side, block, side, block, 3).mean((1, 3)).round().astype(np.uint8)


def toy_codes(image: np.ndarray, K: int = 8) -> np.ndarray:
    """Index of the nearest of K colours for every pixel of an image: (side, side).

    The colours are the means of K groups, found by ten rounds of Lloyd's algorithm from pixels
    spread over the brightnesses.
    """
    pixels = image.reshape(-1, 3).astype(float)
    order = pixels.sum(1).argsort(kind="stable")
    centres = pixels[order[np.linspace(0, len(order) - 1, K).round().astype(int)]]
    for _ in range(10):
        nearest = ((pixels[:, None] - centres) ** 2).sum(2).argmin(1)
        for k in range(K):
            if (nearest == k).any():
                centres[k] = pixels[nearest == k].mean(0)
    return nearest.reshape(image.shape[:2])


def layers() -> str:
    """An image and four layers of codes, with the two directions of travel."""
    size, gap, left, top = 120, 30, 24, 62
    pixels = photograph(32)
    colours = np.array([[f"#{bytes(pixel).hex()}" for pixel in row] for row in pixels])
    parts = cells(left, top, size, colours)
    parts.append(text(left + size / 2, top + size + 24, f"{symbol('x', '')} 32×32 pixels"))
    for layer, side in enumerate((16, 8, 4, 2), start=1):
        x = left + layer * (size + gap)
        codes = toy_codes(photograph(side))
        parts += cells(x, top, size, np.array(PALETTE)[codes], gap=1)
        label = f"{symbol('z', str(layer))} {side}×{side} codes"
        parts.append(text(x + size / 2, top + size + 24, label))
    right = left + 5 * size + 4 * gap
    parts += [
        text(left, 26, "encoder: features of the image, from the pixels to the top", "start"),
        arrow(left, 42, right, 42),
        arrow(right, top + size + 46, left, top + size + 46, BLUE),
        text(
            right,
            top + size + 72,
            "decoder: draws the codes of all layers and then the pixels, in one pass",
            "end",
            fill=BLUE,
        ),
    ]
    title = "An image and four layers of discrete codes, 16×16 near the pixels to 2×2 at the top"
    return svg(right + left, top + size + 88, title, parts, font_size=18)


def node(x: float, y: float, words: str, kind: str) -> list[str]:
    """A random variable (circle), a representation (square) or the image (grey circle)."""
    if kind == "state":
        shape = f'<rect x="{x - 17:g}" y="{y - 17:g}" width="34" height="34" rx="4"'
    else:
        shape = f'<circle cx="{x:g}" cy="{y:g}" r="19"'
    fill = "#dddddd" if kind == "image" else "#ffffff"
    return [f'{shape} fill="{fill}" stroke="{INK}" stroke-width="1.5"/>', text(x, y + 5, words)]


def networks() -> str:
    """The named networks of a hierarchy with L = 3: posterior on the left, generative model."""
    parts: list[str] = []
    features, latent, state = 60, 190, 330  # columns of a panel
    row = {4: 90, 3: 150, 2: 270, 1: 390}  # of z_l; of d_4
    drop = 60  # d_l lies this far below z_l
    image_y = 540

    def label(x: float, y: float, name: str, index: int, anchor: str, colour: str = INK) -> str:
        words = f'{name}<tspan dy="3" font-size="10">{index}</tspan>'
        return text(x, y, words, anchor, font_size="13", fill=colour)

    def decoder(shift: float, strap: str) -> None:
        for layer in (3, 2, 1):
            x, y = shift + latent, row[layer]
            above = row[4] if layer == 3 else row[layer + 1] + drop
            below = y + drop
            parts.append(arrow(shift + state - 18, above + 6, x + 17, y - 10))
            parts.append(label(x + 62, (above + y) / 2 - 9, strap, layer, "end"))
            parts.append(arrow(x + 17, y + 9, shift + state - 19, below - 4, BLUE))
            parts.append(label(x + 50, y + 55, "pladder", layer, "middle", BLUE))
            parts.append(arrow(shift + state, above + 18, shift + state, below - 19, BLUE))
            between = (above + below) / 2 + 4
            parts.append(label(shift + state + 8, between, "dec", layer, "start", BLUE))
            parts.extend(node(x, y, symbol("z", str(layer)), "latent"))
        for layer, y in ((4, row[4]), *((n, row[n] + drop) for n in (3, 2, 1))):
            parts.extend(node(shift + state, y, symbol("d", str(layer)), "state"))

    parts.append(text(20, 34, "(a) posterior", "start", font_weight="bold"))
    decoder(0, "qstrap")
    for layer in (1, 2, 3):
        y = row[layer]
        below = image_y if layer == 1 else row[layer - 1]
        parts.append(arrow(features, below - 20, features, y + 19))
        parts.append(label(features - 8, (below + y) / 2 + 4, "enc", layer, "end"))
        parts.append(arrow(features + 18, y, latent - 21, y))
        parts.append(label((features + latent) / 2, y - 8, "qladder", layer, "middle"))
        parts.extend(node(features, y, symbol("d&#772;", str(layer)), "state"))
    parts.extend(node(features, image_y, symbol("x", ""), "image"))

    shift = 300
    parts.append(text(shift + latent - 60, 34, "(b) generative model", "start", font_weight="bold"))
    decoder(shift, "pstrap")
    parts.append(arrow(shift + state, row[1] + drop + 18, shift + state, image_y - 20))
    between = (row[1] + drop + image_y) / 2 + 4
    parts.append(text(shift + state - 8, between, "likelihood", "end", font_size="13"))
    parts.extend(node(shift + state, image_y, symbol("x", ""), "image"))
    title = "The networks of a hierarchy of three layers: posterior and generative model"
    return svg(700, 580, title, parts)


def pixels(x: float, y: float, size: float, image: np.ndarray) -> str:
    """A uint8 picture (side, side, 3) inside the drawing, its pixels left square."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=0)  # the same bytes everywhere
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<image x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}" image-rendering="pixelated"'
        f' href="data:image/png;base64,{data}"/>'
    )


def coffee() -> np.ndarray:
    """A cup of the test photographs, uint8 (64, 64, 3)."""
    from PIL import Image
    from skimage import data

    cup = Image.fromarray(data.coffee()[20:320, 150:450])
    return np.asarray(cup.resize((64, 64), Image.Resampling.BOX))


def likeliest_codes(image: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The codes that a stored model writes a picture with, and what it makes of them.

    Args:
        image: uint8 (64, 64, 3).

    Returns:
        Codes of every layer, l = 1 first, each (side, side); the picture rebuilt, uint8.
    """
    import torch

    from rrvqlib.likelihoods.base import pixels_to_reals, reals_to_pixels
    from rrvqlib.models.ready import load

    model = load("photos64-l5-cpu").double()
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    chosen = []
    with torch.no_grad():
        features = model.encoder(pixels_to_reals(pixels).double())
        state = model.decoder.top(1)
        for layer, feature in zip(reversed(model.layers), reversed(features), strict=True):
            codes = layer.latent.log_posterior(layer.posterior(feature, state)).argmax(-1)
            chosen.append(codes[0, :, :, 0].numpy())
            state = layer.decode(state, layer.latent.lookup(codes))
        rebuilt = reals_to_pixels(model.likelihood.mean(model.decoder.head(state)))
    return chosen[::-1], rebuilt[0].permute(1, 2, 0).numpy()


def hue(code: int) -> str:
    """A colour of its own for every code: steps of the golden angle around the circle of hues."""
    red, green, blue = colorsys.hls_to_rgb(code * 0.381966 % 1, (0.42, 0.58, 0.72)[code % 3], 0.55)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def symbols() -> str:
    """A photograph, the codes that a small hierarchy writes it with, and what they rebuild."""
    image = coffee()
    codes, rebuilt = likeliest_codes(image)
    big, small, gap, edge = 188, 104, 16, 22
    width = 5 * small + 4 * gap + 2 * edge
    right = width - edge - big
    middle = width / 2
    count = sum(grid.size for grid in codes)
    table = (128, 64, 32, 16, 8)
    bits = sum(grid.size * (size.bit_length() - 1) for grid, size in zip(codes, table, strict=True))
    parts = [
        pixels(edge, 16, big, image),
        pixels(right, 16, big, rebuilt),
        arrow(edge + big + 12, 110, right - 12, 110),
        text(middle, 62, f"{count} symbols", font_size="24", font_weight="bold"),
        text(middle, 90, f"{bits:,} bits"),
        text(middle, 138, "of the picture&#8217;s"),
        text(middle, 158, f"{8 * image.size:,}"),
        text(edge + big / 2, 228, "64×64 pixels"),
        text(right + big / 2, 228, "what they rebuild"),
    ]
    top = 262
    for place, (grid, size) in enumerate(zip(reversed(codes), reversed(table), strict=True)):
        x, side = edge + place * (small + gap), len(grid)
        colours = np.array([[hue(int(code)) for code in row] for row in grid])
        parts += cells(x, top, small, colours, gap=0.5 if side > 4 else 1)
        step = small / side
        if side <= 4:
            parts += [
                text(
                    x + (j + 0.5) * step,
                    top + (i + 0.5) * step + 5,
                    str(code),
                    font_size="15",
                    fill="#000000" if code % 3 else "#ffffff",  # the darkest third
                )
                for (i, j), code in np.ndenumerate(grid)
            ]
        label = "1 symbol" if side == 1 else f"{side}×{side}"
        parts.append(text(x + small / 2, top + small + 20, label))
        parts.append(text(x + small / 2, top + small + 39, f"of {size}", fill="#555555"))
    title = f"A photograph, the {count} codes of its five layers, and what is rebuilt from them"
    return svg(width, top + small + 54, title, parts, font_size=16)


FIGURES = {"layers.svg": layers, "networks.svg": networks, "symbols.svg": symbols}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help, and nothing else
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
        print(f"book/figures/{name}")


if __name__ == "__main__":
    main()
