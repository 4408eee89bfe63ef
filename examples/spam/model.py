"""Spam or not, from the words of a message: TF-IDF and logistic regression, one pipeline of scikit-learn."""

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.pipeline import make_pipeline

from rung.domain.models import Step, Transforms
from rung.training import Trained


def train(ctx):
    """The words are split inside the model, so that what is served splits them the same way."""
    rows = ctx.data.frame("train")
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=ctx.params.least, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=ctx.params.C, class_weight="balanced", max_iter=1000))
    model.fit(rows["text"].to_list(), rows["label"].to_list())
    held_out = ctx.data.frame("validation")
    spam = held_out["label"] == "spam"
    score = model.predict_proba(held_out["text"].to_list())[:, 1]
    ctx.report(f1=f1_score(spam, score > 0.5), average_precision=average_precision_score(spam, score))
    return Trained(
        model,
        transforms=Transforms(input=(Step("text.encode"),)),
        labels=tuple(model.classes_),
        description="Spam among text messages",
    )
