"""Deep knowledge distillation (CDRL 4.2): one teacher of one student, with an alignment network between them.

The teacher sees the student's states. F maps its logits into the student's action space; from T1 on F is trained to
meet the student's policy, from T2 on the student's distillation layer is trained to meet F.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mpi_ltcr.formulas import distillation
from mpi_ltcr.interfaces import EnvSpec, Metrics, Rollout, State
from mpi_ltcr.nets.alignment import AlignmentNetwork
from mpi_ltcr.nets.flat import FlatParameters, flatten
from mpi_ltcr.nets.universe import RecurrentActorCritic, RecurrentState
from mpi_ltcr.steppers import PushStepper


class Teacher:
    """A network of another task (or of the same one), read-only, walking along the student's path.

    Args:
        spec: of its own environment: the student's observations enter its network scaled as it learned to see.
        games: how many the student plays side by side.
        own_state: True: its own recurrent state; False: the student's at the start of each rollout (the authors' code).
        newest: fetches the newest weights (P,) of a collaborative teacher; None: a certificated one, which stays.
    """

    def __init__(
        self,
        *,
        net: RecurrentActorCritic,
        spec: EnvSpec,
        games: int,
        own_state: bool,
        newest: Callable[[], np.ndarray] | None,
    ) -> None:
        self.net, self.spec, self.own_state, self.newest = net, spec, own_state, newest
        self.flat = flatten(net)
        self.recurrent = net.initial_state(games)

    def load_weights(self, values: np.ndarray) -> None:
        """Take over a parameter vector (P,); raises ValueError if it is of another length."""
        if values.shape != self.flat.values.shape:
            raise ValueError(f"the teacher has {values.size} parameters, its network here {len(self.flat.values)}")
        self.flat.values.copy_(torch.from_numpy(values))

    @torch.no_grad()
    def logits(self, rollout: Rollout) -> torch.Tensor:
        """z^alpha, its policy logits (N, A_teacher) on the states of a rollout of the student (line 11)."""
        if self.newest is not None:
            self.load_weights(self.newest())
        obs, scale = torch.from_numpy(rollout.obs), torch.as_tensor(self.spec.obs_scale, dtype=torch.float32)
        scaled = (obs.to(torch.float32) * scale).reshape(len(obs), *self.net.torso.obs_shape)
        start = self._own_start(rollout.first) if self.own_state else rollout.start
        out, self.recurrent = self.net.unroll_on(scaled, start, rollout.lengths)
        return out.policy

    def _own_start(self, first: Sequence[bool]) -> RecurrentState:
        """Where it was, in the games that go on; zeros where an episode begins."""
        anew = torch.tensor(first)[:, None]
        h, c = self.recurrent
        return h.masked_fill(anew, 0), c.masked_fill(anew, 0)

    def state(self) -> State:
        h, c = self.recurrent
        return {"h": h.numpy().copy(), "c": c.numpy().copy()}

    def load_state(self, state: State) -> None:
        self.recurrent = torch.from_numpy(state["h"].copy()), torch.from_numpy(state["c"].copy())


class Alignment:
    """F_omega and how it is trained. `network` None is the identity (same actions, CDRL 4.2's trivial case).

    Args:
        flat: parameters of `network`; None without one.
        stepper: where the gradients of line 27 go; None: F is frozen (offline alignment).
        direction, temperature: of the alignment loss, see `config.TeacherConfig`.
    """

    def __init__(
        self,
        *,
        network: AlignmentNetwork | None,
        flat: FlatParameters | None,
        stepper: PushStepper | None,
        temperature: float,
        direction: distillation.Direction,
    ) -> None:
        self.network, self.flat, self.stepper = network, flat, stepper
        self.temperature, self.direction = float(temperature), direction

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """F(z^alpha): (N, A_teacher) -> (N, A_student)."""
        return logits if self.network is None else self.network(logits)

    def train(self, aligned: torch.Tensor, policy_logits: torch.Tensor) -> Metrics:
        """Line 27: one gradient of the alignment loss. `aligned` carries the graph of F."""
        if self.stepper is None:
            return {}
        loss = distillation.alignment_loss(aligned, policy_logits, self.temperature, self.direction)
        return {"align_grad_norm": self.stepper.step(loss), "align_loss": float(loss.detach())}


class AlignmentTransfer:
    """Lines 10 to 13 and 25 to 32 of Algorithm 1, for one teacher.

    Args:
        t1, t2, t_stop: steps of the student's task from which F is trained, it is distilled, and both end.
        layer: of the student that is distilled into.
    """

    lockstep = False

    def __init__(
        self,
        *,
        name: str,
        teacher: Teacher,
        align: Alignment,
        layer: str,
        t1: int,
        t2: int,
        t_stop: int | None,
    ) -> None:
        self.name, self.teacher, self.align, self.layer = name, teacher, align, layer
        self.t1, self.t2, self.t_stop = int(t1), int(t2), t_stop

    def aligning(self, frames: int) -> bool:
        """T1 <= T < t_stop (line 25)."""
        return self.t1 <= frames and (self.t_stop is None or frames < self.t_stop)

    def distilling(self, frames: int) -> bool:
        """T2 <= T < t_stop (line 29)."""
        return self.t2 <= frames and (self.t_stop is None or frames < self.t_stop)

    @property
    def temperature(self) -> float:
        """tau of Eq. 3."""
        return self.align.temperature

    def logits(self, rollout: Rollout) -> torch.Tensor:
        """z^alpha on the student's states, (N, A_teacher) (line 11)."""
        return self.teacher.logits(rollout)

    def state(self) -> State:
        return self.teacher.state()

    def load_state(self, state: State) -> None:
        self.teacher.load_state(state)
