"""Small models of tables to test with: real ones of scikit-learn, XGBoost and LightGBM, trained in a moment.

The frameworks are imported inside the functions: they belong to extras. All randomness is seeded.
"""

from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "estimator",
    "flowers",
    "lightgbm_model",
    "patients",
    "save_skops",
    "trips",
    "xgboost_model",
]

_ROUNDS = 5


def flowers() -> tuple[Any, Any]:
    """The irises: FP64 [150, 4] and the number of the kind, INT64 [150]."""
    from sklearn.datasets import load_iris

    loaded: tuple[Any, Any] = load_iris(return_X_y=True)
    return loaded


def patients() -> tuple[Any, Any]:
    """The diabetes data: FP64 [442, 10] and how the illness went on, FP64 [442]."""
    from sklearn.datasets import load_diabetes

    loaded: tuple[Any, Any] = load_diabetes(return_X_y=True)
    return loaded


def trips() -> tuple[Any, Any]:
    """Bicycle hires as a polars frame of `hours`, `weather` and `season`, and whether there were many, INT64 [60]."""
    import polars as pl

    rng = np.random.default_rng(0)
    hours, season = rng.uniform(0, 24, 60), rng.integers(1, 5, 60)
    weather = rng.choice(["clear", "mist", "rain"], 60)
    frame = pl.DataFrame({"hours": hours, "weather": weather.tolist(), "season": season})
    return frame, ((hours > 8) & (weather != "rain")).astype(np.int64)


def estimator(kind: str) -> Any:
    """A fitted estimator: `logistic` (kinds by name), `forest`, `linear`, `histogram`, `mixed`, `words` or `pca`."""
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if kind == "logistic":
        rows, labels = flowers()
        names = np.array(["setosa", "versicolor", "virginica"])[labels]
        return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, names)
    if kind == "forest":
        return RandomForestClassifier(10, max_depth=4, random_state=0, n_jobs=2).fit(*flowers())
    if kind == "linear":
        return LinearRegression().fit(*patients())
    if kind == "histogram":
        return HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(*patients())
    if kind == "pca":
        return PCA(2).fit(flowers()[0])
    if kind == "words":
        texts = ["cheap pills now", "lunch at noon", "win cheap money", "see you at noon"] * 3
        return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["spam", "ham"] * 6)
    if kind == "mixed":
        columns = [("number", StandardScaler(), ["hours"]), ("word", OneHotEncoder(), ["weather", "season"])]
        return make_pipeline(ColumnTransformer(columns), LogisticRegression()).fit(*trips())
    raise ValueError(f"there is no estimator {kind!r}")


def save_skops(path: Path, fitted: Any) -> Path:
    """Write an estimator as skops does."""
    import skops.io

    skops.io.dump(fitted, path)
    return path


def xgboost_model(path: Path, objective: str = "multi:softprob", **parameters: Any) -> Path:
    """A booster on the irises (`multi:...`; `binary:...`: kind 0 or not) or on the diabetes data; `.json` or `.ubj`."""
    import xgboost

    rows, labels, count = _task(objective, "multi:", "binary:")
    data = xgboost.DMatrix(rows, labels, feature_names=parameters.pop("feature_names", None))
    settings = {"objective": objective, "max_depth": 3, "nthread": 1, "verbosity": 0, "seed": 0, **count}
    xgboost.train({**settings, **parameters}, data, _ROUNDS).save_model(path)
    return path


def lightgbm_model(path: Path, objective: str = "multiclass", **parameters: Any) -> Path:
    """A booster on the irises (`multiclass`, `binary`: kind 0 or not) or on the diabetes data, as text."""
    import lightgbm

    rows, labels, count = _task(objective, "multiclass", "binary")
    data = lightgbm.Dataset(rows, labels, feature_name=parameters.pop("feature_names", "auto"))
    settings = {"objective": objective, "num_leaves": 5, "num_threads": 1, "verbose": -1, "seed": 0, **count}
    lightgbm.train({**settings, **parameters}, data, _ROUNDS).save_model(path)
    return path


def _task(objective: str, several: str, two: str) -> tuple[Any, Any, dict[str, int]]:
    if objective.startswith(several):
        return (*flowers(), {"num_class": 3})
    if objective.startswith(two):
        rows, labels = flowers()
        return rows, (labels == 0).astype(np.int64), {}
    return (*patients(), {})
