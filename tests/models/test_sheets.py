"""Sheets: where several pictures, or the parts of one, lie side by side."""

from __future__ import annotations

import numpy as np

from auditor.models.sheets import Panel, Sheet


def test_that_no_two_cells_share_a_number_and_pictures_stand_apart() -> None:
    drawn = np.random.default_rng(3)
    for _ in range(20):
        sizes = drawn.integers(1, 9, (int(drawn.integers(2, 12)), 2)).tolist()
        sheet = Sheet.of([Panel(n, (0, 0, 10, 10), rows, columns) for n, (rows, columns) in enumerate(sizes)])
        held = np.full(sheet.grid, -1)
        for panel in sheet.panels:
            flat = held.reshape(-1)
            assert (flat[sheet.units(panel)] == -1).all()
            flat[sheet.units(panel)] = panel.picture
        assert [int((held == n).sum()) for n in range(len(sizes))] == [rows * columns for rows, columns in sizes]
        for one, other in ((held[:, 1:], held[:, :-1]), (held[1:], held[:-1])):
            assert not ((one != other) & (one >= 0) & (other >= 0)).any()


def test_that_a_single_picture_is_its_sheet_and_a_finer_sheet_has_each_cell_in_parts() -> None:
    sheet = Sheet.of([Panel(0, (0, 0, 30, 40), 3, 4)])
    assert sheet.grid == (3, 4) and sheet.units(sheet.panels[0]).tolist() == list(range(12))
    several = Sheet.of([Panel(0, (0, 0, 30, 40), 3, 4, block=1), Panel(1, (0, 0, 9, 9), 2, 2)])
    finer = several.finer(2)
    assert finer.grid == (2 * several.grid[0], 2 * several.grid[1])
    for coarse, fine in zip(several.panels, finer.panels, strict=True):
        units = finer.units(fine)
        y, x = units // finer.grid[1] // 2, units % finer.grid[1] // 2
        assert set((y * several.grid[1] + x).tolist()) == set(several.units(coarse).tolist())


def test_that_the_areas_of_cells_tile_the_part_of_the_picture_and_blocks_come_one_by_one() -> None:
    panel = Panel(0, (10, 20, 50, 100), 4, 4, block=2)
    covered = np.zeros((60, 110))
    for cell in range(16):
        top, left, bottom, right = panel.area(cell)
        covered[int(top) : int(bottom), int(left) : int(right)] += 1
    assert (covered[10:50, 20:100] == 1).all() and covered.sum() == 40 * 80
    assert panel.ranks().tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_that_a_drawn_sheet_has_each_picture_over_its_cells() -> None:
    pictures = [np.full((30, 60, 3), 40, np.uint8), np.full((50, 20, 3), 200, np.uint8)]
    sheet = Sheet.of([Panel(0, (0, 0, 30, 60), 2, 4), Panel(1, (0, 0, 50, 20), 5, 2)])
    drawn = sheet.drawn(pictures, 64)
    cell = drawn.shape[0] // sheet.grid[0]
    assert drawn.shape == (sheet.grid[0] * cell, sheet.grid[1] * cell, 3)
    for panel, shade in zip(sheet.panels, (40, 200), strict=True):
        for unit in sheet.units(panel).tolist():
            y, x = divmod(unit, sheet.grid[1])
            assert (drawn[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell] == shade).all()
    alone = Sheet.of([Panel(0, (0, 0, 30, 30), 2, 2)]).drawn(pictures, 20)
    assert alone.shape == (20, 20, 3)
