"""The ranks agree to stop: after each step they compare their flags, and save and leave together."""

from __future__ import annotations

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_dist.team import Team
from lora_dist.training.stop import StopFlag


class StopTogether(TrainerCallback):
    """After each step: when a rank has been asked to stop, all save and leave the training there."""

    def __init__(self, flag: StopFlag, team: Team) -> None:
        self.flag, self.team = flag, team
        self.has_stopped = False

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called by transformers; the last step needs no checkpoint, since `model/` follows at once."""
        is_last = state.global_step >= state.max_steps or control.should_training_stop
        if self.flag.is_set_anywhere(self.team) and not is_last:
            control.should_save = control.should_training_stop = self.has_stopped = True
