"""What `accelerate launch` would put into the environment of each rank, for ranks that something else has started."""

from __future__ import annotations

from pathlib import Path

_OURS = ("ACCELERATE_", "FSDP_")


def launch_environment(located: Path) -> dict[str, str]:
    """The variables of a launch config, by accelerate's own functions. Who each rank is, is not among them.

    Args:
        located: as `launch_config.write_located` makes it. As one machine's: nothing is started from here, and for
            several accelerate would look for their addresses.
    """
    from accelerate.commands import launch
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    words = ["--config_file", str(located), "--num_machines", "1", "--main_process_port", "0", "-m", "lora_dist"]
    arguments, defaults, has_precision = launch._validate_launch_command(
        launch.launch_command_parser().parse_args(words)
    )
    if arguments.use_deepspeed:
        fields = [*defaults.deepspeed_config, *(["mixed_precision"] if has_precision else [])]
        arguments.deepspeed_fields_from_accelerate_config = ",".join(fields)
        _, variables = prepare_deepspeed_cmd_env(arguments)
    elif arguments.multi_gpu or arguments.use_fsdp:
        variables = prepare_multi_gpu_env(arguments)
    else:
        _, variables = prepare_simple_launcher_cmd_env(arguments)
    return {name: value for name, value in variables.items() if name.startswith(_OURS)}
