from rung.settings import ProjectSettings
from rung.settings.project import ModelSettings, ReplicaCount, ServeSection


def test_a_project_needs_one_replica_and_as_many_as_its_most_wanted_model():
    def wanting(count: int) -> ModelSettings:
        return ModelSettings(serve=ServeSection(replicas=ReplicaCount(min=count)))

    assert ProjectSettings().replicas == 1
    assert ProjectSettings(models={"a": wanting(1), "b": wanting(3)}).replicas == 3
