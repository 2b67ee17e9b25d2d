"""An image under a heat map of its patches, on the same scale as the text; hover says the value, a click the patch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QBuffer, QByteArray, QEvent, QIODevice, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QHelpEvent, QImage, QImageReader, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from auditor.ui import theme
from auditor.ui.widgets.numbers import figure
from auditor.ui.widgets.plain_text import tooltip

_LARGEST_MB = 64
_FORMATS = (b"png", b"webp", b"jpeg")


def read_thumbnail(data: bytes) -> QImage:
    """A stored thumbnail (PNG, WebP or JPEG) as an image; a null image where the bytes are none of these."""
    QImageReader.setAllocationLimit(_LARGEST_MB)
    buffer = QBuffer()
    buffer.setData(QByteArray(data))
    buffer.open(QIODevice.OpenModeFlag.ReadOnly)
    reader = QImageReader(buffer)
    reader.setDecideFormatFromContent(True)
    if bytes(reader.format().data()) not in _FORMATS:
        return QImage()
    return reader.read()


class PatchView(QWidget):
    """A picture with patches `values` [rows, columns] over it; `side` is its size in design pixels (0: as it fits)."""

    patch_clicked = Signal(int)
    patch_hovered = Signal(int)

    def __init__(self, parent: QWidget | None = None, *, side: int = 0) -> None:
        super().__init__(parent)
        self._side = side
        self._image = QImage()
        self._values: NDArray[np.float64] | None = None
        self._low, self._high = 0.0, 1.0
        self._heat = QImage()
        self._unit = ""
        self._strength = 0.65
        self._hover = self._chosen = -1
        self.setMouseTracking(True)
        if side:
            self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme.signals.changed.connect(self._recolour)

    def set_image(self, image: QImage | bytes | NDArray[np.uint8] | None) -> None:
        """Show a QImage, the bytes of a thumbnail, an array [height, width, 3], or nothing."""
        if isinstance(image, bytes):
            self._image = read_thumbnail(image)
        elif isinstance(image, np.ndarray):
            held = np.ascontiguousarray(image, dtype=np.uint8)
            high, wide, _ = held.shape
            self._image = QImage(held.data, wide, high, 3 * wide, QImage.Format.Format_RGB888).copy()
        else:
            self._image = image or QImage()
        self.updateGeometry()
        self.update()

    def choose(self, patch: int) -> None:
        """Frame a patch, silently; −1 for none."""
        self._chosen = patch
        self.update()

    def set_patches(
        self, values: NDArray[Any] | None, *, low: float = 0.0, high: float | None = None, unit: str = ""
    ) -> None:
        """Lay activations [rows, columns] over the image on the scale `low`…`high`; None takes them away."""
        self._values = None if values is None else np.asarray(values, dtype=np.float64)
        if self._values is not None:
            largest = float(np.nanmax(self._values, initial=0.0))
            self._low, self._high, self._unit = low, largest if high is None else high, unit
        self._hover = self._chosen = -1
        self._recolour()

    def set_strength(self, strength: float) -> None:
        """How much the heat map covers, 0 (not at all) to 1."""
        self._strength = strength
        self._recolour()

    def patch_at(self, point: QPointF) -> int:
        """Row-major number of the patch under a point, −1 for none."""
        area = self._area()
        if self._values is None or not area.contains(point):
            return -1
        rows, columns = (int(n) for n in self._values.shape)
        y = min(rows - 1, int((point.y() - area.top()) / area.height() * rows))
        x = min(columns - 1, int((point.x() - area.left()) / area.width() * columns))
        return y * columns + x

    def describe(self, patch: int) -> str:
        """What hover says of a patch."""
        if self._values is None:
            return ""
        row, column = divmod(patch, self._values.shape[1])
        told = figure(float(self._values[row, column]), self._unit)
        return f"{told}\npatch row {row + 1}, column {column + 1}"

    def sizeHint(self) -> QSize:
        side = theme.px(self._side or 160)
        if self._image.isNull():
            return QSize(side, side)
        return self._image.size().scaled(side, side, Qt.AspectRatioMode.KeepAspectRatio)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint() if self._side else QSize(theme.px(48), theme.px(48))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        area = self._area()
        if self._image.isNull():
            painter.setPen(theme.color("muted"))
            painter.drawRect(area.adjusted(0.5, 0.5, -0.5, -0.5))
            painter.setFont(theme.font("small"))
            painter.drawText(area, int(Qt.AlignmentFlag.AlignCenter), "no picture")
        else:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            painter.drawImage(area, self._image)
        if not self._heat.isNull():
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
            painter.drawImage(area, self._heat)
        for patch, pen in ((self._hover, 2), (self._chosen, 3)):
            if patch >= 0:
                painter.setPen(QPen(theme.color("accent"), pen))
                painter.drawRect(self._patch_area(patch))
        painter.end()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        patch = self.patch_at(event.position())
        if patch != self._hover:
            self._hover = patch
            self.patch_hovered.emit(patch)
            self.update()

    def leaveEvent(self, event: QEvent) -> None:
        self._hover = -1
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        patch = self.patch_at(event.position())
        if patch >= 0 and event.button() == Qt.MouseButton.LeftButton:
            self._chosen = patch
            self.update()
            self.patch_clicked.emit(patch)
        else:
            super().mousePressEvent(event)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            patch = self.patch_at(QPointF(event.pos()))
            if patch >= 0:
                QToolTip.showText(event.globalPos(), tooltip(self.describe(patch)), self)
            return True
        return super().event(event)

    def _area(self) -> QRectF:
        if self._image.isNull():
            return QRectF(self.rect())
        fitted = self._image.size().scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio)
        left = 0 if self._side else (self.width() - fitted.width()) / 2
        return QRectF(left, (self.height() - fitted.height()) / 2, fitted.width(), fitted.height())

    def _patch_area(self, patch: int) -> QRectF:
        area = self._area()
        assert self._values is not None
        rows, columns = self._values.shape
        row, column = divmod(patch, columns)
        wide, high = area.width() / columns, area.height() / rows
        return QRectF(area.left() + column * wide, area.top() + row * high, wide, high)

    def _recolour(self) -> None:
        self._heat = QImage()
        if self._values is not None:
            reach = max(abs(self._low), self._high) or 1.0
            colours = theme.heat_rgba(self._values, self._low, self._high).copy()
            part = np.nan_to_num(np.clip(np.abs(self._values) / reach, 0, 1))
            colours[..., 3] = np.round(255 * self._strength * np.sqrt(part))
            high, wide = self._values.shape
            made = QImage(colours.tobytes(), wide, high, 4 * wide, QImage.Format.Format_RGBA8888)
            self._heat = made.copy()
        self.update()
