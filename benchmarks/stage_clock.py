"""Where the time goes, stage by stage, over several threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Seconds by stage, without those of stages within it.

    What the main thread does is wall clock. Of what other threads do beside each other, each counts for its share of
    the `threads` that there are: less than wall clock where some have nothing to do.
    """

    def __init__(self, device: str, threads: int = 1) -> None:
        self.seconds: Counter[str] = Counter()
        self.device, self.threads, self._lock, self._of_thread = device, threads, threading.Lock(), threading.local()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        pile = self._of_thread.__dict__.setdefault("pile", [])
        pile.append(0.0)
        started = self._now()
        try:
            yield
        finally:
            whole = self._now() - started
            is_main = threading.current_thread() is threading.main_thread()
            with self._lock:
                self.seconds[stage] += (whole - pile.pop()) / (1 if is_main else self.threads)
            if pile:
                pile[-1] += whole

    def _now(self) -> float:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Count every call of `owner.name` to a stage."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self(stage):
                return original(*arguments, **named)

        setattr(owner, name, timed)
