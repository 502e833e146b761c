"""`python -m lora_dist VERB`, the same as `lora-dist VERB`."""

from lora_dist.cli.app import main

if __name__ == "__main__":
    main()
