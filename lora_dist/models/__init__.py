"""Models: opening them, their structure, what each method does to them, and the built-in one."""

import logging

# On a CPU bitsandbytes (0.50) warns, each time it is imported, that an optional kernel package is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
