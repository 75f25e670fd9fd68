"""Draw the two pathways of the method, with equations 1 to 7.

python docs/pathways.py docs/pathways.svg
"""

import sys
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 960, 480
INK, QUIET, APPEARANCE, MOTION = "#1f2328", "#59636e", "#0969da", "#bc4c00"
REGIONS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e4c441")


def text(x: float, y: float, words: str, size: int = 14, fill: str = INK, **more: str) -> str:
    """A line of text, centred on (x, y)."""
    extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="middle"'
        f' dominant-baseline="middle"{extra}>{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, colour: str, *lines: str) -> str:
    """A rounded box of one pathway: its first line is its name."""
    middle = y + height / 2 - 10 * (len(lines) - 1)
    rows = [
        text(x + width / 2, middle + 20 * row, line, 15 if row == 0 else 13, colour)
        for row, line in enumerate(lines)
    ]
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}"'
        f' fill-opacity="0.07" stroke="{colour}" stroke-width="1.5"/>' + "".join(rows)
    )


def frame(x: float, y: float, shift: float, label: str) -> str:
    """A small picture: a ball above the ground, moved by `shift`."""
    return (
        f'<rect x="{x}" y="{y}" width="96" height="64" fill="#cfe8fc" stroke="{INK}"/>'
        f'<rect x="{x}" y="{y + 44}" width="96" height="20" fill="#a9c77f"/>'
        f'<circle cx="{x + 36 + shift}" cy="{y + 38}" r="13" fill="#d1495b"/>'
        + text(x + 48, y + 80, label)
    )


def regions(x: float, y: float) -> str:
    """The c soft regions, as a stack of cards."""
    cards = [
        f'<rect x="{x + 9 * m}" y="{y + 7 * m}" width="56" height="38" fill="white"'
        f' stroke="{colour}" stroke-width="1.5"/>'
        f'<ellipse cx="{x + 28 + 9 * m}" cy="{y + 19 + 7 * m}" rx="{10 + 2 * m}" ry="{8 + m}"'
        f' fill="{colour}" fill-opacity="0.6"/>'
        for m, colour in enumerate(REGIONS)
    ]
    return "".join(cards) + text(x + 46, y + 84, "c soft regions S")


def vectors(x: float, y: float) -> str:
    """One flow vector for each region."""
    arrows = [
        f'<path d="M{x} {y + 13 * m} l{length} {rise}" stroke="{colour}" stroke-width="3"'
        f' marker-end="url(#tip)"/>'
        for m, (colour, length, rise) in enumerate(
            zip(REGIONS, (14, 46, 18, 12, 24), (2, -5, 1, -2, 2), strict=True)
        )
    ]

    label = text(x + 24, y + 76, "one flow vector") + text(x + 24, y + 93, "a region")
    return "".join(arrows) + label


def flow(x: float, y: float) -> str:
    """The segment flow: one colour for each region."""
    return (
        f'<rect x="{x}" y="{y}" width="96" height="64" fill="{REGIONS[0]}" fill-opacity="0.45"'
        f' stroke="{INK}"/><rect x="{x}" y="{y + 44}" width="96" height="20" fill="{REGIONS[2]}"'
        f' fill-opacity="0.5"/><circle cx="{x + 46}" cy="{y + 38}" r="13" fill="{REGIONS[1]}"/>'
        f'<path d="M{x + 38} {y + 38} h14" stroke="white" stroke-width="3"'
        f' marker-end="url(#white)"/>' + text(x + 48, y + 80, "segment flow F")
    )


def arrow(path: str, x: float = 0, y: float = 0, equation: str = "") -> str:
    """An arrow, with the number of its equation on a white ground."""
    line = (
        f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.5" marker-end="url(#tip)"/>'
    )
    if not equation:
        return line
    ground = f'<rect x="{x - 23}" y="{y - 10}" width="46" height="20" rx="10" fill="{INK}"/>'
    return line + ground + text(x, y, equation, 13, "white")


def drawing() -> str:
    """The whole SVG."""
    tip = '<path d="M0 0 L9 4 L0 8 z" fill="{}"/></marker>'
    marker = '<marker id="{}" markerWidth="9" markerHeight="8" refX="{}" refY="4" orient="auto"'
    tips = (
        marker.format("tip", 8) + ' markerUnits="userSpaceOnUse">' + tip.format(INK)
        + marker.format("white", 5) + ' markerUnits="userSpaceOnUse">' + tip.format("white")
    )  # fmt: skip
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        "<title>The appearance pathway and the motion pathway re-create a frame</title>",
        f"<defs>{tips}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        frame(24, 84, -6, "frame i"),
        frame(24, 264, 20, "frame j"),
        # Frame i to its regions.
        arrow("M122 116 H186"),
        box(188, 80, 170, 72, APPEARANCE, "Appearance pathway", "ResNet, head, softmax"),
        arrow("M360 116 H440", 398, 116, "eq. 1"),
        regions(444, 80),
        # Both frames to motion features.
        arrow("M146 116 V280 H186"),
        arrow("M122 296 H186"),
        box(188, 260, 170, 72, MOTION, "Motion pathway", "cost volumes, 5 levels"),
        arrow("M360 296 H440", 398, 296, "eq. 2"),
        "".join(
            f'<rect x="{446 + 7 * n}" y="{262 + 6 * n}" width="62" height="44" fill="white"'
            f' stroke="{MOTION}" stroke-width="1.5"/>'
            for n in range(4)
        ),
        text(490, 344, "motion features V"),
        # Features pooled over each region: one vector each.
        arrow("M532 296 H654", 584, 296, "eq. 3"),
        arrow("M490 174 V206 H584 V284"),
        text(668, 240, "mean over each region", 13, QUIET),
        box(656, 270, 54, 52, MOTION, "g"),
        arrow("M712 296 H768", 740, 270, "eq. 4"),
        vectors(776, 268),
        # Vectors spread over their regions: the flow.
        arrow("M800 256 V172", 800, 216, "eq. 5"),
        arrow("M540 112 H748", 644, 112, "eq. 5"),
        flow(752, 76),
        # The flow warps frame i into frame j.
        arrow("M850 112 H924 V420 H546", 884, 420, "eq. 6"),
        arrow("M72 84 V40 H940 V436 H546"),
        text(506, 26, "frame i is moved along the flow", 13, QUIET),
        frame(448, 388, 20, "re-created frame j"),
        arrow("M446 420 H312", 380, 420, "eq. 7"),
        arrow("M72 352 V420 H180"),
        box(182, 392, 128, 56, INK, "difference", "the training loss"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing(), encoding="utf-8")
