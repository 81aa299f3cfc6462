"""What holds for every test."""

from __future__ import annotations

import freezegun

# Freezing the clock is for wall-clock decisions. An event loop that serves in another thread must
# not see it: a timer that it sets meanwhile would never ring.
freezegun.configure(extend_ignore_list=["asyncio"])
