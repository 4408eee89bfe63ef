import numpy as np
import pytest

from rung.fleet.scaling.forecast import BINS, History, forecast, remember

DAY = 86_400.0


def history(rate, periods: float, period: float = DAY, rng=None) -> History:
    """Looks every half bin at a rate that is a function of the share of the period."""
    found = History(period)
    for now in np.arange(0.0, periods * period, period / BINS / 2):
        noise = 1.0 if rng is None else float(rng.normal(1.0, 0.05))
        found = remember(found, float(now), rate(now / period % 1.0) * noise)
    return found


def wave(phase: float) -> float:
    return 50.0 - 40.0 * np.cos(2 * np.pi * phase)


def burst(phase: float) -> float:
    return 100.0 if 0.5 <= phase < 0.6 else 1.0


def test_fewer_than_two_periods_say_nothing_and_how_many_there_are():
    found = forecast(history(wave, 1.5), 600.0)
    assert found.rate is None
    assert found.why == "1.5 of the 2 periods are known that a forecast needs"


@pytest.mark.parametrize("shape", [wave, burst])
def test_it_sees_a_rise_before_it_comes(shape):
    known = history(shape, 2.48)
    now = forecast(known, 0.0)
    assert now.rate == pytest.approx(shape(0.48), rel=0.15)
    ahead = forecast(known, 0.06 * DAY)
    assert ahead.rate == pytest.approx(max(shape(p) for p in (0.48, 0.5, 0.52, 0.54)), rel=0.1)
    assert "are expected within 5184 s: earlier periods explain 100% of the last" in ahead.why


def test_a_busier_day_raises_what_is_expected():
    known = history(wave, 2.25)
    for share in np.arange(2.25, 2.3, 1 / BINS / 2):
        known = remember(known, float(share * DAY), 1.6 * wave(share % 1))
    assert forecast(known, 0.1 * DAY).rate == pytest.approx(1.6 * wave(0.4), rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_load_that_does_not_repeat_gives_no_forecast(seed):
    rng = np.random.default_rng(seed)
    known = history(lambda _: float(rng.exponential(10.0)), 4.0)
    found = forecast(known, 600.0)
    assert found.rate is None
    assert found.why.startswith("the load does not repeat: earlier periods explain ")


def test_noise_on_top_of_a_wave_does_not_hide_it():
    found = forecast(history(wave, 3.4, rng=np.random.default_rng(0)), 0.0)
    assert found.rate == pytest.approx(wave(0.4), rel=0.1)


def test_bins_in_which_nobody_looked_are_unknown_and_move_nothing():
    known = history(wave, 1.0)
    for now in np.arange(1.5 * DAY, 3.5 * DAY, DAY / BINS / 2):
        known = remember(known, float(now), wave(now / DAY % 1.0))
    assert np.isnan(known.rates).sum() == pytest.approx(BINS / 2, abs=1)
    assert forecast(known, 0.0).rate == pytest.approx(wave(0.5), rel=0.1)


def test_a_clock_that_was_set_back_changes_nothing():
    known = history(wave, 2.2)
    assert remember(known, 1000.0, 1e9) == known


def test_no_more_than_four_periods_are_kept():
    assert len(history(wave, 6.0).rates) == 4 * BINS
