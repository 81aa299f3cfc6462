"""A predictor as cog's users write them: it takes its time, writes a log, and can be stopped."""

import os
import sys
import time

from cog import BasePredictor, Input  # type: ignore[import-not-found]  # an environment of its own

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from marks import mark  # type: ignore[import-not-found]


class Predictor(BasePredictor):  # type: ignore[misc]
    def setup(self) -> None:
        """Nothing has to be loaded."""

    def predict(
        self,
        prompt: str = Input(description="What to say"),
        seconds: float = Input(default=0),
        fail: bool = Input(default=False),
    ) -> str:
        mark("begun", prompt)
        try:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                print(f" 40%|####      | of {prompt}", flush=True)
                time.sleep(0.05)
        except BaseException:
            mark("stopped", prompt)
            raise
        if fail:
            raise ValueError("out of memory")
        mark("ended", prompt)
        return f"said {prompt}"
