import pytest

from rung.domain.errors import ConfigurationError
from rung.domain.releases import LADDER
from rung.fleet.policy import minimum_units, read_policy


def test_what_a_project_leaves_out_is_as_by_default() -> None:
    policy = read_policy({})
    assert policy.ladder == LADDER
    assert [guard.name for guard in policy.guards] == ["errors", "latency"]
    assert sum(guard.rule.alpha for guard in policy.guards) == pytest.approx(0.01)
    assert [policy.units_at(stage, percent) for stage, percent in enumerate(LADDER[:-1])] == [
        200,
        500,
        2_500,
        10_000,
        30_000,
    ]


def test_guards_are_names_or_tables() -> None:
    policy = read_policy(
        {
            "ladder": [5, 50, 100],
            "guard": [
                "errors",
                {"metric": "quality", "tolerance": 0.05, "weight": 3},
                {"metric": "corrections", "required": False},
            ],
            "alpha": 0.02,
            "units": [30, 60],
            "seconds": 5,
            "longest": 60,
            "maturity": 2.0,
            "unit": "header:rung-unit",
        }
    )
    assert policy.ladder == (5, 50, 100)
    alphas = {guard.name: round(guard.rule.alpha, 6) for guard in policy.guards}
    assert alphas == {"errors": 0.004, "quality": 0.012, "corrections": 0.004}
    assert [guard.required for guard in policy.guards] == [True, True, False]
    assert policy.guards[1].rule.tolerance == 0.05
    assert (policy.units_at(0, 5), policy.units_at(1, 50), policy.units_at(7, 75)) == (30, 60, 60)
    assert (policy.seconds_at(3), policy.longest, policy.maturity) == (5, 60, 2.0)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"guard": ["speed"]}, "no guard 'speed'"),
        ({"guard": ["errors", "errors"]}, "each may stand there once"),
        ({"guard": [{"metric": "errors", "marign": 1}]}, "marign"),
        ({"guard": [{"metric": "errors", "margin": 0.05, "tolerance": 0.01}]}, "tolerance"),
        ({"guard": [{"metric": "errors", "weight": 0}]}, "above 0"),
        ({"guard": [{"metric": "latency", "quantile": 95}]}, "quantile"),
        ({"ladder": [5, 1]}, "ladder"),
        ({"alpha": 2}, "alpha"),
    ],
)
def test_a_slip_is_named(section: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_policy(section)


def test_every_percentage_has_a_minimum() -> None:
    found = [minimum_units(percent) for percent in (0, 0.0001, 0.5, 1, 4, 5, 10, 25, 30, 50, 75)]
    assert found == sorted(found)
