"""Edits as lines and as tables of files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.analysis.editing import KINDS, parse_edit, read_edits, written
from auditor.base.config import describe, read_config
from auditor.base.errors import AuditorError

LINES = (
    ("ablate blocks.5.z mean head=2", "Puts its mean over the samples in the place of head 2 of blocks.5.z."),
    ("ablate blocks.5.mlp_hidden neuron=7 at=last",
     "Puts zero in the place of neuron 7 of blocks.5.mlp_hidden at the last position."),
    ("scale blocks.1.attn_out factor=-2 at=2:5", "Multiplies blocks.1.attn_out at positions 2:5 by -2."),
    ("add blocks.9.resid_post direction='token: Paris' amount=8",
     "Adds 8 times the direction “token: Paris” to blocks.9.resid_post."),
    ("patch blocks.3.z at=-1 text='The cat' origin=2",
     "Puts the values of the run on “The cat”, from its positions 2, in the place of blocks.3.z at position -1."),
    ("feature 12 scale amount=0.5 only_active=true at=''",
     "Multiplies the activation of feature 12 by 0.5 where it fires; the dictionary's error term is kept."),
    ("weight a.b.weight scale amount=0 index=3,:", "Multiplies the weight a.b.weight[3,:] by 0, on a copy."),
    ("cut blocks.3.z -> blocks.5.q head=1 to_head=2 live",
     "Takes what head 1 of blocks.3.z writes out of what head 2 of blocks.5.q reads (live norm); all else reads it as "
     "before."),
    ("ablate 'blocks.*.z' mean head='*'",
     "Puts its mean over the samples in the place of each head of blocks.*.z."),
    ("scale blocks.2:5.mlp_hidden neuron=0:8,11",
     "Multiplies neurons 0:8,11, one by one, of blocks.2:5.mlp_hidden by 0.5."),
    ("feature 3,17 ablate at=''", "Takes features 3,17, one by one, away; the dictionary's error term is kept."),
    ("freeze norms blocks=2:4", "Keeps the denominators of the norms in blocks 2:4 as they are in the unedited run."),
)  # fmt: skip


@pytest.mark.parametrize(("line", "told"), LINES)
def test_that_a_line_says_what_it_does_and_is_written_again(line: str, told: str) -> None:
    spec = parse_edit(line)
    assert spec.describe() == told
    assert parse_edit(written(spec)) == spec


def test_that_every_kind_has_a_line_here() -> None:
    assert {line.split()[0] for line, _ in LINES} == set(KINDS.names())


@given(st.data())
def test_that_any_spec_is_read_from_its_own_line(data: st.DataObject) -> None:
    kind = KINDS.get(data.draw(st.sampled_from(KINDS.names())))
    texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    values = {}
    for name, info in kind.model_fields.items():
        base, choices = info.annotation, describe(info)["choices"]
        if choices:
            values[name] = data.draw(st.sampled_from(choices))
        elif name in ("head", "neuron", "feature", "to_head"):
            values[name] = data.draw(st.integers(0, 99).map(str) | st.sampled_from(["*", "0:4", "1,7:9", "3"]))
        elif base is bool:
            values[name] = data.draw(st.booleans())
        elif base is int:
            values[name] = data.draw(st.integers(0, 99))
        elif base is float:
            values[name] = data.draw(st.integers(-400, 400)) / 8 + data.draw(st.sampled_from([0, 1e-7, 1e9 + 0.25]))
        elif name in kind.arguments:
            values[name] = data.draw(st.sampled_from(["blocks.0.z", "a.weight", "final_norm"]))
        else:
            values[name] = data.draw(texts)
    for alone in ("neuron", "feature") if kind.kind == "cut" else ("neuron",):
        if alone in kind.model_fields:
            values[alone] = kind.model_fields[alone].default
    if "left" in values:
        values["left"], values["right"] = "a.npy", "b.npy"
    spec = read_config(kind, values)
    assert parse_edit(written(spec)) == spec and spec.describe().endswith(".")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "empty"),
        ("ablat blocks.5.z", "no edit called “ablat”"),
        ("ablate", "“Hook point”"),
        ("ablate blocks.5.z heads=2", "heads=2"),
        ("ablate blocks.5.z head=two", "“Head”"),
        ("ablate blocks.5.z head=4:2", "4:2 names nothing"),
        ("ablate blocks.5.z head=-3", "“Head”"),
        ("feature all", "“Feature”"),
        ("ablate blocks.5.z median", "median"),
        ("ablate blocks.5.z head=1 neuron=2", "not both"),
        ("patch blocks.5.z text='the", "quotation mark"),
        ("weight a.weight left=a.npy", "both of its factors"),
    ],
)
def test_that_a_bad_line_says_what_is_wrong(line: str, said: str) -> None:
    with pytest.raises(AuditorError) as error:
        parse_edit(line)
    assert said in error.value.message and error.value.hint


def test_that_files_hold_lists_of_edits_in_order(tmp_path: Path) -> None:
    toml, listed = tmp_path / "a.toml", tmp_path / "b.json"
    toml.write_text(
        '[[edit]]\nkind = "ablate"\nhook = "blocks.5.z"\nhead = 2\nmode = "mean"\n[[edit]]\nkind = "freeze"\n'
    )
    listed.write_text(json.dumps(["scale embed factor=2", {"kind": "cut", "source": "embed", "target": "final_norm"}]))
    found = [written(spec) for spec in read_edits([str(toml), "add embed amount=3", str(listed)])]
    assert found == [
        "ablate blocks.5.z head=2 mean",
        "freeze",
        "add embed amount=3",
        "scale embed factor=2",
        "cut embed final_norm",
    ]


@pytest.mark.parametrize("said", ["", "all", "-1", "−1"])
def test_that_all_is_said_by_its_word_and_as_older_lists_say_it(said: str) -> None:
    spec = parse_edit(f"ablate blocks.5.z head={said}")
    assert spec == parse_edit("ablate blocks.5.z") and spec.model_dump()["head"] == "all"
    assert read_config(KINDS.get("ablate"), {"hook": "blocks.5.z", "head": -1}) == spec
    assert read_config(KINDS.get("cut"), {"source": "embed", "target": "final_norm", "feature": -1}).feature == "none"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "[[edit]\nkind", "not sound TOML"),
        ("a.json", "{", "not sound JSON"),
        ("a.json", "[" * 100_000, "not sound JSON"),
        ("a.json", '{"x": 1}', "no list of edits"),
        ("a.json", "[]", "no list of edits"),
        ("a.json", "[3]", "Edit 1 of “a.json”"),
        ("a.json", '[{"kind": "scale", "hook": "embed", "factr": 1}]', "factr"),
        ("b.json", None, "cannot be read"),
    ],
)
def test_that_a_bad_file_says_what_is_wrong(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(AuditorError) as error:
        read_edits([str(path)])
    assert said in error.value.message


def test_that_a_list_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.json")
    with pytest.raises(AuditorError, match="no plain file"):
        read_edits([str(tmp_path / "list.json")])
