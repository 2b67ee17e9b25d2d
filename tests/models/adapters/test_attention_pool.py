"""SigLIP's pooling by attention, and the rows of whole texts and pictures, against the library's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, Sample
from auditor.models import Ablate, open_model
from auditor.models.packing import must_keep_apart
from auditor.store.recipe import groups_of
from auditor.store.record import RecordConfig, record
from auditor.store.row import row_of
from tests.models.checks import Changed
from tests.models.tiny import ALL, opened

POOLS = ("siglip", "siglip2", "siglip vision", "siglip2 vision")
SITES = ("q", "k", "v", "pattern", "z", "attn_out", "mlp_pre", "mlp_hidden", "mlp_out")


@pytest.mark.parametrize("name", POOLS)
def test_that_what_the_pooling_writes_adds_up_to_the_pictures_row(name: str) -> None:
    case = opened(ALL[name])
    record = [*(f"vision.pool.{site}" for site in SITES), "image_embeds", "vision.final_norm"]
    run = case.model.run(case.samples, record=record)
    at = {site: run.records[f"vision.pool.{site}"] for site in SITES}
    torch.testing.assert_close(
        (at["attn_out"] + at["mlp_out"])[:, 0], run.records["image_embeds"].reshape(len(case.samples), -1)
    )
    assert at["k"].shape == at["v"].shape == run.records["vision.final_norm"].shape
    assert at["pattern"].shape == (2, 4, 1, at["k"].shape[1])
    torch.testing.assert_close(at["pattern"].sum(-1), torch.ones(2, 4, 1))
    pool = ["vision.pool.q", "vision.pool.k", "image_embeds"]
    assert sorted(groups_of(case.model, pool)) == ["tokens", "vision"]
    for number in range(2):
        assert run.positions("vision.pool.q").kind[number].tolist() == [int(PositionKind.IMAGE)]


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_that_logits_are_the_librarys_and_follow_an_edit_of_one_heads_pattern(name: str) -> None:
    case = opened(ALL[name])
    inputs = case.model.encode(case.samples)
    clean = case.model.run(inputs, record=["image_embeds"])
    with torch.no_grad():
        ids = inputs.ids.masked_fill(inputs.ids < 0, 0)
        told = case.source(input_ids=ids, pixel_values=inputs.pixels, **inputs.beside)
    assert clean.logits is not None
    torch.testing.assert_close(clean.logits, told.logits_per_image, atol=1e-4, rtol=1e-4)
    first = torch.tensor([1.0, 0.0])[:, None, None, None]
    edit = Changed("vision.pool.pattern", lambda x: x * (1 - first * torch.eye(4)[1][None, :, None, None]))
    edited = case.model.run(inputs, record=["image_embeds"], edits=[edit])
    assert edited.logits is not None
    assert torch.equal(edited.logits[1], clean.logits[1]) and not torch.allclose(edited.logits[0], clean.logits[0])


@pytest.mark.parametrize("name", ["clip", "metaclip_2", "siglip", "siglip2"])
def test_that_a_texts_row_in_the_common_space_is_the_librarys(name: str) -> None:
    case = opened(ALL[name])
    first, second = case.samples
    inputs = case.model.encode([first, replace(second, text=None), second])
    run = case.model.run(inputs, record=["text_embeds", "token_embed", "embed"])
    rows, found = run.records["text_embeds"], run.positions("text_embeds")
    text, pad = int(PositionKind.TEXT), int(PositionKind.PAD)
    assert found.kind.tolist() == [[text], [pad], [text]] and found.unit.tolist() == [[0], [-1], [0]]
    assert rows.shape[1] == 1 and bool((rows[1] == 0).all())
    read = inputs.ids.masked_fill(inputs.ids < 0, 0)
    for row in (0, 2):
        with torch.no_grad():
            told = case.source.get_text_features(input_ids=read[row : row + 1]).pooler_output
        torch.testing.assert_close(rows[row], told, atol=1e-5, rtol=1e-5)
    embeddings = case.source.text_model.embeddings
    torch.testing.assert_close(run.records["token_embed"], embeddings.token_embedding(read))
    places = embeddings.position_embedding(torch.arange(read.shape[1]))
    torch.testing.assert_close(run.records["embed"], run.records["token_embed"] + places)
    # Pictures alone have none.
    alone = [replace(sample, text=None) for sample in case.samples]
    if name.startswith("siglip"):
        nothing = case.model.run(case.model.encode(alone), record=["text_embeds", "image_embeds"])
        assert nothing.records["text_embeds"].shape[1] == 0 == nothing.positions("text_embeds").kind.shape[1]


def test_that_an_edit_of_one_texts_row_changes_how_that_text_fits_alone() -> None:
    case = opened(ALL["clip"])
    inputs = case.model.encode(case.samples)
    turn = torch.tensor([1.0, 0.0])[:, None, None]
    edit = Changed("text_embeds", lambda x: x - 2 * turn * x.flip(-1))
    clean, edited = case.model.run(inputs).logits, case.model.run(inputs, edits=[edit]).logits
    assert clean is not None and edited is not None
    assert torch.equal(edited[:, 1], clean[:, 1]) and not torch.allclose(edited[:, 0], clean[:, 0], atol=1e-3)
    hooks = ["image_embeds", "text_embeds", "blocks.0.resid_post"]
    assert sorted(groups_of(case.model, hooks)) == ["pooled", "text", "tokens"]
    ablated = case.model.run(inputs, edits=[Ablate("token_embed")]).logits
    assert ablated is not None and not torch.allclose(ablated, clean, atol=1e-3)


def test_that_a_store_keeps_one_row_a_text_and_one_a_picture(tmp_path: Path) -> None:
    ALL["siglip"].save(tmp_path / "m")
    model = open_model(tmp_path / "m")
    samples = [*opened(ALL["siglip"]).samples, Sample("text", text="red cat")]
    hooks = ("vision.pool.k", "image_embeds", "blocks.0.resid_post", "text_embeds")
    store = record(
        RecordConfig(model="m", samples="s", hooks=hooks, batch_size=2), model, samples, tmp_path / "a.store"
    )
    assert [store.at(hook).n_rows for hook in hooks] == [8, 2, 13, 3]  # each text has a begin and an end
    run = model.run(samples, record=["text_embeds", "image_embeds"])
    numbers = {sample.id: number for number, sample in enumerate(samples)}
    for hook, count in (("text_embeds", 3), ("image_embeds", 2)):
        home = store.at(hook)
        order = [numbers[home.sample(int(n)).id] for n in home.positions().sample]
        assert sorted(order) == list(range(count))
        told = [row_of(store, hook, row).told()["text"] for row in range(count)]
        assert told == [samples[number].text if hook == "text_embeds" else "" for number in order]
        rows = torch.from_numpy(home.rows(slice(None)))
        torch.testing.assert_close(rows, run.rows(hook)[order, 0], atol=1e-3, rtol=1e-3)  # kept as float16


@pytest.mark.parametrize("name", ["clip", "clip text projected", "clip text"])
def test_that_texts_of_one_row_each_are_not_packed(name: str) -> None:
    model = opened(ALL[name]).model
    with pytest.raises(AuditorError, match="apart"):
        must_keep_apart(model, list(model.hook_points)[-1])


def test_that_a_text_tower_alone_gives_the_librarys_row() -> None:
    case = opened(ALL["clip text projected"])
    run = case.model.run(case.samples, record=["text_embeds"])
    for row, sample in enumerate(case.samples):
        ids = case.model.encode([sample]).ids
        with torch.no_grad():
            told = case.source(input_ids=ids).text_embeds
        torch.testing.assert_close(run.records["text_embeds"][row], told, atol=1e-5, rtol=1e-5)


def test_that_a_tower_whose_config_has_no_head_has_no_pooling() -> None:
    case = opened(ALL["llava with siglip"])
    assert not [name for name in case.model.hook_points if name.startswith("vision.pool")]


def test_that_a_batch_of_one_and_a_text_alone_are_read() -> None:
    model = opened(ALL["siglip"]).model
    run = model.run([Sample("text", text="red cat")], record=["text_embeds", "vision.pool.pattern", "image_embeds"])
    assert run.records["text_embeds"].shape[:2] == (1, 1)
    assert run.records["vision.pool.pattern"].numel() == 0 == run.records["image_embeds"].numel()
