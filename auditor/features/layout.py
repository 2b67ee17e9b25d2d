"""Names that the writer and the reader of an index share: format, files and the tables of its database."""

from __future__ import annotations

FORMAT, VERSION = "auditor.index", 1
REBUILD = "Build the index again, or take the folder from a backup."
FILES = ("arrays.npz", "index.sqlite")
TABLES = """
    PRAGMA page_size = 8192;
    CREATE TABLE feature (id INTEGER PRIMARY KEY, auto_label TEXT NOT NULL);
    CREATE TABLE examples (block INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE sample (first_row INTEGER PRIMARY KEY, number INTEGER NOT NULL, id TEXT NOT NULL, grp TEXT NOT NULL,
        caption TEXT, n_rows INTEGER NOT NULL, codes BLOB NOT NULL, grid_rows INTEGER, grid_cols INTEGER,
        thumb INTEGER);
    CREATE TABLE thumbnail (number INTEGER PRIMARY KEY, webp BLOB NOT NULL);
    CREATE TABLE blob (name TEXT PRIMARY KEY, data BLOB NOT NULL);
    CREATE VIRTUAL TABLE words USING fts5(label, tokens, captions, content='',
        tokenize='unicode61 remove_diacritics 2');
"""
