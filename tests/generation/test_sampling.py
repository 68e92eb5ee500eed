"""Noise and filters of sampling, against scipy and Hugging Face's logits processors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from steerlm.generation.sampling import Drawing, gumbel_noise, next_tokens, sample_key

_U64 = (1 << 64) - 1


def reference_mix(x: int) -> int:
    x &= _U64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _U64
    return x ^ (x >> 31)


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor([sample_key(seed, i) for i in range(count)])


def zeros(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.long)


def test_the_hash_is_splitmix64() -> None:
    # the published first outputs of SplitMix64 seeded with 0
    golden = 0x9E3779B97F4A7C15
    assert [reference_mix(golden * i) for i in (1, 2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    key, step = sample_key(7, 3), 5
    tokens = torch.tensor([[0, 1, 31999, 151_000]])
    noise = gumbel_noise(torch.tensor([key]), torch.tensor([step]), tokens)[0]
    for token, value in zip(tokens[0].tolist(), noise.tolist(), strict=True):
        bits = reference_mix(reference_mix(key + step * golden) + (token + 1) * golden) >> 41
        uniform = (bits + 0.5) / 2**23
        assert value == pytest.approx(-np.log(-np.log1p(-uniform)), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("vary", ["seed", "sample", "step", "token"])
def test_noise_is_gumbel_along_every_counter(vary: str) -> None:
    n = 20_000
    key = keys(n) if vary == "sample" else torch.tensor([sample_key(i if vary == "seed" else 0, 0) for i in range(n)])
    steps = torch.arange(n) if vary == "step" else zeros(n)
    tokens = torch.arange(n)[:, None] if vary == "token" else zeros(n)[:, None]
    noise = gumbel_noise(key, steps, tokens)[:, 0].numpy()
    assert np.isfinite(noise).all()
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 0.01
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.025


def test_draws_follow_the_softmax() -> None:
    n, temperature = 20_000, 0.7
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, 0.5, -3.0])
    drawn = next_tokens(logits.expand(n, -1), keys(n, 11), zeros(n), Drawing(temperature, 0, 1))
    expected = torch.softmax(logits.double() / temperature, 0).numpy() * n
    assert stats.chisquare(np.bincount(drawn.numpy(), minlength=7), expected).pvalue > 0.01


def test_successive_draws_are_independent() -> None:
    n = 20_000
    logits = torch.tensor([1.0, 0.0, 0.5]).expand(n, -1)
    first = next_tokens(logits, keys(n), zeros(n), Drawing(1, 0, 1))
    second = next_tokens(logits, keys(n), zeros(n) + 1, Drawing(1, 0, 1))
    table = np.zeros((3, 3))
    np.add.at(table, (first.numpy(), second.numpy()), 1)
    assert stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [*itertools.product([0.5, 1.3], [0, 1, 5, 50, 99], [0.1, 0.6, 0.95, 1.0])]
)
def test_support_is_that_of_the_hugging_face_processors(temperature: float, top_k: int, top_p: float) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 60) * 2
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    allowed = set(torch.isfinite(scores[0]).nonzero()[:, 0].tolist())
    n = 4000
    drawn = next_tokens(logits.expand(n, -1), keys(n), zeros(n), Drawing(temperature, top_k, top_p)).numpy()
    assert set(drawn.tolist()) <= allowed
    probabilities = torch.softmax(scores[0], 0).double().numpy()
    likely = probabilities > 0.003
    assert set(np.flatnonzero(likely)) <= set(drawn.tolist())
    if likely.sum() > 1:
        observed = np.bincount(drawn, minlength=60)
        counts = [*observed[likely], observed[~likely].sum()]
        expected = [*probabilities[likely] * n, probabilities[~likely].sum() * n]
        if expected[-1] < 5:  # too few for the test
            counts, expected = counts[:-1], expected[:-1]
        # many tests: a fixed seed, and a level that a right sampler passes in all of them
        assert stats.chisquare(counts, np.array(expected) / sum(expected) * sum(counts)).pvalue > 1e-3


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 0.5), (0, 1.0), (3, 1.0), (0, 0.5)])
@pytest.mark.parametrize("temperature", [0, 1e-300, 1e-38])
def test_temperature_zero_or_nearly_is_the_argmax(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(5, 9)
    drawn = next_tokens(logits, keys(5), zeros(5), Drawing(temperature, top_k, top_p))
    assert drawn.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.9999])
def test_a_nucleus_wider_than_the_candidates(top_p: float) -> None:
    generator = torch.Generator().manual_seed(3)
    # from nearly one token to nearly all of them
    logits = torch.randn(64, 3000, generator=generator) * torch.linspace(0.01, 12, 64)[:, None]
    warped = TopPLogitsWarper(top_p)(None, logits.clone())
    sizes = torch.isfinite(warped).sum(dim=-1)
    assert sizes.min() < 20
    assert sizes.max() > 500
    for seed in range(20):
        row_keys, steps = keys(64, seed), zeros(64) + seed
        drawn = next_tokens(logits, row_keys, steps, Drawing(1.0, 0, top_p))
        noise = gumbel_noise(row_keys, steps, torch.arange(3000).expand(64, 3000))
        expected = (warped + noise).argmax(dim=-1)
        # at the border of the set rounding decides
        assert (drawn == expected).sum() >= 63
        alone = [
            next_tokens(logits[i : i + 1], row_keys[i : i + 1], steps[i : i + 1], Drawing(1.0, 0, top_p))
            for i in range(0, 64, 9)
        ]
        assert torch.equal(torch.cat(alone), drawn[::9])
