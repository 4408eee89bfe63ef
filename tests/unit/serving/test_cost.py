import pytest

from rung.serving.cost import CostModel


def learned(costs: dict[int, float], objective: float = 0.0) -> CostModel:
    model = CostModel(objective)
    for rows, seconds in costs.items():
        model.learn(rows, seconds)
    return model


def test_batches_that_do_not_pay_are_refused():
    # The segmentation model on a CPU: twice the rows, twice the time.
    assert learned({1: 0.014, 2: 0.028, 4: 0.057}).cap == 1


def test_batches_that_pay_are_taken_to_the_largest_measured():
    model = learned({1: 0.004, 2: 0.005, 4: 0.006, 8: 0.009})
    assert (model.cap, model.capped_by) == (8, "size")


def test_the_objective_caps_the_batch():
    model = learned({1: 0.004, 2: 0.005, 4: 0.006, 8: 0.009}, objective=0.0065)
    assert (model.cap, model.capped_by) == (4, "objective")


def test_a_cheap_model_runs_inline_and_never_holds_the_loop_for_long():
    model = learned({1: 5e-6, 64: 100e-6, 512: 0.85e-3, 1024: 5e-3})
    assert model.inline
    assert model.cap == 512


def test_costs_follow_what_is_measured():
    model = learned({1: 0.010})
    for _ in range(100):
        model.learn(1, 0.030)
    assert model.estimate(1) == pytest.approx(0.030, rel=0.01)


def test_sizes_between_are_estimated_from_the_nearest_below():
    model = learned({1: 0.010, 4: 0.020})
    assert model.estimate(3) == pytest.approx(0.020)
    assert model.estimate(16) == pytest.approx(0.080)
    assert CostModel().estimate(4) == 0.0
