"""Spam or not, from the words of a message: their TF-IDF, and logistic regression."""

from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score


def train(ctx):
    """Count the words of each message, weigh each by how rare it is, and let a linear model weigh them for spam."""
    X, y = ctx.data.arrays("train", text={"least": ctx.params.least, "sublinear": True})
    model = LogisticRegression(C=ctx.params.C, class_weight="balanced", max_iter=1000).fit(X, y)
    X, y = ctx.data.arrays("validation")
    spam = model.predict_proba(X)[:, 1]
    ctx.report(f1=f1_score(y, spam > 0.5, average="macro"), average_precision=average_precision_score(y, spam))
    return model
