"""Bikes an hour, from hour and weather: a few lines with XGBoost."""

import numpy as np
import xgboost


def train(ctx):
    """Fit on the hours up to some day of 2012, and measure on those that follow."""
    X, y = ctx.data.arrays("train")
    model = xgboost.XGBRegressor(
        # Counts: twice the bikes may be off by more than half of them.
        objective="count:poisson",
        n_estimators=ctx.params.rounds,
        learning_rate=ctx.params.rate,
        max_depth=ctx.params.depth,
        random_state=ctx.seed,
    ).fit(X, y)
    X, y = ctx.data.arrays("validation")
    ctx.report(mae=np.abs(model.predict(X) - y).mean())
    return model
