"""Everything that can be asked for, as frozen dataclasses that check themselves (`options.py` reads them).

No torch and no MPI in here: a bad command line is refused in under a second, before anything is touched. Durations
are in `frames` (agent steps) unless named otherwise. Each field says its unit and where its default comes from
("LTCR 4.1" is a paper's section, "ref" means: the papers are silent, the value is ours).
"""

from mpi_ltcr.config.actor_critic import ActorCriticConfig
from mpi_ltcr.config.align import AlignConfig, CertificateConfig
from mpi_ltcr.config.c51 import C51Config
from mpi_ltcr.config.ca3c import A3CConfig, CA3CConfig, TaskConfig, TeacherConfig
from mpi_ltcr.config.checks import ConfigError, require
from mpi_ltcr.config.common import CheckpointConfig, EnvConfig, EvalConfig, LogConfig, RuntimeConfig
from mpi_ltcr.config.ltcr import AgentConfig, Config, kind_of
from mpi_ltcr.config.transfer import TransferConfig

__all__ = [
    "A3CConfig",
    "ActorCriticConfig",
    "AgentConfig",
    "AlignConfig",
    "C51Config",
    "CA3CConfig",
    "CertificateConfig",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "EnvConfig",
    "EvalConfig",
    "LogConfig",
    "RuntimeConfig",
    "TaskConfig",
    "TeacherConfig",
    "TransferConfig",
    "kind_of",
    "require",
]
