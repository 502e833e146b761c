"""A cluster's profile: a YAML file with the settings of launch.slurm that a group shares."""

from __future__ import annotations

from pydantic import ValidationError

from lora_dist.assets import user_path
from lora_dist.config.loading import read_yaml
from lora_dist.config.problems import problems_of
from lora_dist.config.slurm import SlurmSection
from lora_dist.errors import ConfigError, Problem, Refused


def with_profile(section: SlurmSection) -> SlurmSection:
    """The settings with those of the profile that they name where they say nothing themselves.

    Raises:
        ConfigError: the profile cannot be read.
        Refused: with every mistake in it.
    """
    if section.profile is None:
        return section
    path = user_path(section.profile)
    document = read_yaml(path)
    if "profile" in document:
        raise ConfigError(key=f"{path}: profile", problem="a profile cannot name another", fix="leave it out")
    try:
        shared = SlurmSection.model_validate(document)
    except ValidationError as error:
        raise Refused(
            Problem(f"{path}: {problem.key}", problem.problem, problem.fix) for problem in problems_of(error)
        ) from None
    given = {name: getattr(section, name) for name in section.model_fields_set}
    jobs = {
        kind: shared.jobs[kind].model_copy(update=_given(job)) if kind in shared.jobs else job
        for kind, job in section.jobs.items()
    }
    return shared.model_copy(update=given | {"jobs": {**shared.jobs, **jobs}})


def _given(job: object) -> dict[str, object]:
    return {name: getattr(job, name) for name in job.model_fields_set}
