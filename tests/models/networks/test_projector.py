"""The projector against its equation in numpy, and the committed one against its model's needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from auditor.models.networks.projector import Projector, load_projector

COMMITTED = Path(__file__).resolve().parents[3] / "sample_data" / "projector" / "projector.safetensors"


def randomised() -> Projector:
    projector = Projector(channels=12, width=6, concepts=9, d_model=5)
    for parameter in [*projector.parameters(), *projector.buffers()]:
        torch.nn.init.normal_(parameter)
    return projector.eval()


def reference(weights: dict[str, np.ndarray], maps: np.ndarray) -> np.ndarray:
    """The docstring's equation; `maps` is [B, channels, 4, 4]."""
    regions = maps.reshape(*maps.shape[:2], 16).transpose(0, 2, 1)
    regions = (regions - weights["feature_mean"]) * weights["feature_scale"]
    seen = regions @ weights["meaning.weight"].T + weights["meaning.bias"]
    mixed = weights["local_share"] * seen + weights["global_share"] * seen.mean(1, keepdims=True)
    keys = weights["keys"] / np.linalg.norm(weights["keys"], axis=-1, keepdims=True)
    cosine = mixed / np.linalg.norm(mixed, axis=-1, keepdims=True) @ keys.T
    words = softmax(np.exp(weights["log_scale"]) * cosine + weights["prior"], axis=-1) @ weights["values"]
    hidden = mixed @ weights["mix.weight"].T + weights["mix.bias"]
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    return words + hidden @ weights["residual.weight"].T + weights["position"]


def test_that_the_tokens_follow_the_equation() -> None:
    projector = randomised()
    maps = np.random.default_rng().normal(size=(3, 12, 4, 4)).astype(np.float32)
    with torch.no_grad():
        tokens = projector(torch.from_numpy(maps)).numpy()
    weights = {name: value.numpy().astype(np.float64) for name, value in projector.state_dict().items()}
    assert tokens.shape == (3, 16, 5)
    np.testing.assert_allclose(tokens, reference(weights, maps.astype(np.float64)), rtol=2e-4, atol=2e-4)


def test_that_any_size_of_map_gives_sixteen_tokens_in_reading_order() -> None:
    projector = randomised()
    with torch.no_grad():
        projector.global_share.zero_()
        maps = torch.randn(1, 12, 8, 8)
        before = projector(maps)
        maps[:, :, 0:2, 6:8] += 1
        changed = (projector(maps) - before).abs().amax(-1)[0] > 0
    assert changed.nonzero().flatten().tolist() == [3]
    assert projector(torch.randn(2, 12, 7, 7)).shape == (2, 16, 5)


def test_that_what_was_saved_comes_back_to_half_precision(tmp_path: Path) -> None:
    projector = randomised()
    projector.save(tmp_path / "projector.safetensors")
    again = load_projector(tmp_path / "projector.safetensors")
    for name, value in projector.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value.half().float(), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_that_the_committed_projector_is_small_and_fits_its_two_models() -> None:
    if not COMMITTED.exists():
        pytest.skip("no projector is committed")
    assert COMMITTED.stat().st_size <= 3_000_000
    projector = load_projector(COMMITTED)
    with torch.no_grad():
        tokens = projector(torch.rand(2, 1280, 4, 4))
    assert tokens.shape == (2, 16, 576)
    assert torch.isfinite(tokens).all()
    # A language model reads them only if they are of about the size of its own embeddings (3.2).
    assert 0.5 < tokens.norm(dim=-1).mean() < 30
