"""A feature's card as a PNG for reports: its strongest texts and images side by side, on one colour scale."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auditor.base.paths import resources
from auditor.features.examples import Example
from auditor.features.feature import Feature

_WIDTH, _MARGIN, _LINE, _THUMB = 1400, 28, 40, 150
_TEXT_WIDTH = 860
_INK, _MUTED, _GROUND, _RULE = (29, 29, 27), (95, 94, 90), (255, 255, 255), (222, 221, 216)
_LOW, _HIGH = np.array([255, 255, 255]), np.array([196, 80, 10])
_MIDDLE = np.array([242, 166, 90])


def card(feature: Feature, texts: int = 6, images: int = 6) -> bytes:
    """PNG bytes, 1400 px wide: the `texts` and `images` strongest examples, each token and patch shaded from 0 to the
    feature's largest activation, which is written beside the scale."""
    regular, bold = _face("Inter-Regular.otf", 24), _face("Inter-SemiBold.otf", 30)
    small = _face("Inter-Regular.otf", 20)
    shown_texts = feature.examples_of("text", "top")[:texts]
    shown_images = feature.examples_of("image", "top")[:images]
    rows = max(len(shown_texts) * 2, -(-len(shown_images) // 2) * 5, 2)
    canvas = Image.new("RGB", (_WIDTH, 150 + rows * _LINE + 90), _GROUND)
    draw = ImageDraw.Draw(canvas)
    mark = "" if feature.labelled else " (automatic label)"
    draw.text((_MARGIN, 20), _printable(f"{feature.id}  {feature.title}{mark}")[:90], _INK, bold)
    facts = (
        f"density {100 * feature.density:.3g} %   image {100 * feature.image_share:.0f} %   max {feature.max_act:.3g}"
    )
    draw.text((_MARGIN, 66), facts, _MUTED, regular)
    draw.line((_MARGIN, 108, _WIDTH - _MARGIN, 108), _RULE, 2)
    top = 124
    for at, example in enumerate(shown_texts):
        _text(draw, example, feature.max_act, (_MARGIN, top + at * 2 * _LINE), regular)
    if not shown_texts:
        draw.text((_MARGIN, top), "It fires on no text of this store.", _MUTED, regular)
    left = _MARGIN + _TEXT_WIDTH + 40
    for at, example in enumerate(shown_images):
        place = (left + at % 2 * (_THUMB + 50), top + at // 2 * 5 * _LINE)
        _image(canvas, draw, example, feature.max_act, place, small)
    if not shown_images:
        draw.text((left, top), "It fires on no image of this store.", _MUTED, regular)
    _scale(draw, feature.max_act, canvas.height - 56, small)
    out = io.BytesIO()
    canvas.save(out, "PNG", optimize=True)
    return out.getvalue()


def shade(value: float, largest: float) -> tuple[int, int, int]:
    """The colour of an activation between 0 and `largest`."""
    share = min(max(value / largest, 0.0), 1.0) if largest > 0 else 0.0
    low, high, part = (_LOW, _MIDDLE, 2 * share) if share < 0.5 else (_MIDDLE, _HIGH, 2 * share - 1)
    red, green, blue = (low + (high - low) * part).round().astype(int).tolist()
    return red, green, blue


def _text(
    draw: ImageDraw.ImageDraw, example: Example, largest: float, place: tuple[int, int], face: ImageFont.FreeTypeFont
) -> None:
    """One line around the peak, as many tokens as fit, the peak in view."""
    words = [_printable(token) for token in example.tokens]
    widths = [max(int(draw.textlength(word, face)), 4) for word in words]
    first = example.peak
    room = _TEXT_WIDTH - widths[first]
    while first > 0 and widths[first - 1] <= room and room > _TEXT_WIDTH // 3:
        first -= 1
        room -= widths[first]
    x, y = place
    for word, width, value in list(zip(words, widths, example.activations, strict=True))[first:]:
        if x + width > place[0] + _TEXT_WIDTH:
            break
        ground = shade(value, largest)
        if value > 0:
            draw.rectangle((x, y, x + width, y + 32), ground)
        ink = (255, 255, 255) if sum(ground) < 380 else _INK
        draw.text((x, y + 1), word, ink, face)
        x += width
    draw.text((place[0], y + 36), f"{example.peak_activation:.3g}   {example.sample_group}"[:80], _MUTED, _small())


def _image(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, example: Example, largest: float, place: tuple[int, int],
    face: ImageFont.FreeTypeFont,
) -> None:  # fmt: skip
    data = example.image
    x, y = place
    if data is not None:
        picture = Image.open(io.BytesIO(data)).convert("RGB").resize((_THUMB, _THUMB), Image.Resampling.LANCZOS)
        canvas.paste(picture, place)
    if example.grid is not None:
        rows, columns = example.grid
        for patch, value in enumerate(example.activations[: rows * columns]):
            if value > 0:
                left, above = x + patch % columns * _THUMB // columns, y + patch // columns * _THUMB // rows
                veil = Image.new("RGB", (_THUMB // columns, _THUMB // rows), shade(value, largest))
                mask = Image.new("L", veil.size, 120)
                canvas.paste(veil, (left, above), mask)
    draw.rectangle((x, y, x + _THUMB, y + _THUMB), outline=_RULE)
    which = f"picture {example.picture}" if example.picture else example.caption or ""
    told = f"{example.peak_activation:.3g}  {_printable(which)}"
    draw.text((x, y + _THUMB + 6), told[:20], _MUTED, face)


def _scale(draw: ImageDraw.ImageDraw, largest: float, y: int, face: ImageFont.FreeTypeFont) -> None:
    draw.text((_MARGIN, y), "activation 0", _MUTED, face)
    for step in range(200):
        x = _MARGIN + 130 + step * 2
        draw.rectangle((x, y, x + 2, y + 24), shade(step, 199))
    draw.text((_MARGIN + 545, y), f"{largest:.3g}", _MUTED, face)


def _printable(text: str) -> str:
    return "".join("⏎" if c == "\n" else "⇥" if c == "\t" else c if c.isprintable() else "·" for c in text)


def _small() -> ImageFont.FreeTypeFont:
    return _face("Inter-Regular.otf", 18)


def _face(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(resources() / "fonts" / name), size)
