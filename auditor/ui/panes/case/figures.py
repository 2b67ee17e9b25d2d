"""The figures of a case as they were pinned: read off the GUI thread, shown at the width there is."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QByteArray, QRectF, QSize, Qt
from PySide6.QtGui import QImage, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from auditor.ui import theme

_SHARP = 2


def load(path: Path, widest: int) -> QImage:
    """A figure of the case, sharp at up to `widest` pixels across; a null image where it cannot be shown.

    `figure_kind` refuses an SVG that could load something else before anything draws it.
    """
    from PySide6.QtSvg import QSvgRenderer

    from auditor.audit.figures import figure_kind
    from auditor.base.errors import AuditorError

    try:
        data = path.read_bytes()
        kind = figure_kind(data)
    except (OSError, AuditorError):
        return QImage()
    if kind == "svg":
        renderer = QSvgRenderer(QByteArray(data))
        size = renderer.defaultSize()
        factor = _SHARP * min(1.0, widest / max(1, size.width()))
        image = QImage(size * factor, QImage.Format.Format_RGB32)
        image.fill(Qt.GlobalColor.white)
        painter = QPainter(image)
        renderer.render(painter)
        painter.end()
        image.setDevicePixelRatio(factor)
        return image
    image = QImage.fromData(data)
    if image.width() > _SHARP * widest:
        factor = _SHARP * widest / image.width()
        image = image.scaledToWidth(_SHARP * widest, Qt.TransformationMode.SmoothTransformation)
        image.setDevicePixelRatio(factor)
    return image


class Figure(QWidget):
    """A picture that shrinks with the pane and never grows beyond its own size; empty until `set_image`.

    With `box` it stays within that many pixels, both ways.
    """

    def __init__(self, told: str, box: QSize | None = None) -> None:
        super().__init__()
        self._image = QImage()
        self._box = box
        self.setAccessibleName(f"Figure: {told}")
        if box is not None:
            self.setFixedSize(box)
        else:
            self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
            self.setMinimumWidth(theme.px(160))

    @property
    def empty(self) -> bool:
        return self._image.isNull()

    def set_image(self, image: QImage) -> None:
        """Show `image`; nothing at all where it is null."""
        self._image = image
        self.setVisible(not image.isNull())
        self.updateGeometry()
        self.update()

    def hasHeightForWidth(self) -> bool:
        return self._box is None

    def heightForWidth(self, width: int) -> int:
        own = self._image.deviceIndependentSize()
        if own.isEmpty():
            return theme.px(120)
        return round(own.height() * min(1.0, width / own.width()))

    def sizeHint(self) -> QSize:
        own = self._image.deviceIndependentSize()
        return self._box or QSize(max(theme.px(160), round(own.width())), max(theme.px(60), round(own.height())))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        if self._image.isNull():
            painter.setPen(theme.color("muted"))
            painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignCenter), "Reading the figure…")
        else:
            own = self._image.deviceIndependentSize()
            factor = min(1.0, self.width() / own.width(), self.height() / own.height())
            wide, high = own.width() * factor, own.height() * factor
            left = (self.width() - wide) / 2 if self._box is not None else 0.0
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, True)
            painter.drawImage(QRectF(left, (self.height() - high) / 2, wide, high), self._image)
        painter.end()
