from rung.settings import ProjectSettings, ServeSettings
from rung.settings.project import ModelSettings, ProjectSection, ServeSection
from rung.settings.scaling import ReplicaCount


def test_a_project_needs_one_replica_and_as_many_as_its_most_wanted_model():
    def wanting(count: int) -> ModelSettings:
        return ModelSettings(serve=ServeSection(replicas=ReplicaCount(min=count)))

    assert ProjectSettings().replicas == 1
    assert ProjectSettings(models={"a": wanting(1), "b": wanting(3)}).replicas == 3


def test_models_that_ask_for_a_cache_share_what_they_ask_for():
    models = {"a": ModelSettings(serve=ServeSection(cache="1MiB")), "b": ModelSettings(serve=ServeSection(cache="1MB"))}
    serving = ProjectSettings(models={**models, "c": ModelSettings()}).serving

    assert serving.cache == str((1 << 20) + 10**6)
    assert set(serving.cache_models) == {"a", "b"}
    shared = ProjectSettings(project=ProjectSection(cache="redis://h:1/0"), models=models).serving
    assert shared.cache.endswith(",redis://h:1/0")
    assert ProjectSettings().serving == ServeSettings()
