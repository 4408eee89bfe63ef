"""What the catalog knows that a measurement of quality goes by: which version answers, how to read it, its label."""

import msgspec

from rung.catalog import bundles, models, releases
from rung.data.quality import How
from rung.data.quality_estimates import head_of
from rung.domain.errors import InvalidInput, NotFound
from rung.domain.models import Manifest
from rung.domain.profiles import Profile
from rung.domain.scorecards import Figure
from rung.ports import BlobStore
from rung.stats.detectors import Baseline

__all__ = ["baseline_of", "with_catalog"]


def with_catalog(how: How, repository: BlobStore, model: str) -> How:
    """The same, with the version that a release names, heads of all versions, and the deviation of the label.

    What `how` says already stands. A model that the repository does not know changes nothing.
    """
    folders = bundles.scan(repository, model)
    heads = dict(how.heads)
    manifests: dict[int, Manifest] = {}
    for _, number in sorted(folders):
        try:
            manifests[number] = models.show(repository, model, number)
        except NotFound:
            continue  # being written, or deleted meanwhile
        head = head_of(manifests[number])
        if head is not None:
            heads.setdefault(number, head)
    release = releases.current(repository, model)
    version = how.version if how.version is not None else release.main.version if release else None
    watched = manifests.get(version) if version is not None else next(reversed(manifests.values()), None)
    scale = how.scale if how.scale is not None else _deviation(repository, watched)
    return msgspec.structs.replace(how, heads=heads, version=version, scale=scale)


def baseline_of(figure: Figure) -> Baseline:
    """A baseline from a scorecard: the loss is 1 less the figure, its bound 1 less the interval's lower end.

    The scorecard's rows have to be like those that users send; where they are easier, use the first mature cohorts.

    Args:
        figure: of a share such as accuracy or IoU, higher is better.

    Raises:
        InvalidInput: the figure is no share.
    """
    if not 0 <= figure.low <= figure.value <= 1:
        raise InvalidInput(
            f"{figure.name} is {figure.value:g}: only a share from 0 to 1 gives a baseline of losses", field="baseline"
        )
    return Baseline(1 - figure.value, 1 - figure.low, figure.groups, (1 - figure.level) / 2)


def _deviation(repository: BlobStore, manifest: Manifest | None) -> float | None:
    """Standard deviation of the label in training; None where there is no profile, or the label is no number."""
    if manifest is None or not manifest.profile:
        return None
    try:
        content = repository.get(f"{manifest.name}/{manifest.version}/{manifest.profile}")
        profile = msgspec.json.decode(content, type=Profile)
    except (NotFound, msgspec.MsgspecError):
        return None
    column = profile.columns.get(profile.label)
    return column.deviation if column is not None and column.deviation else None
