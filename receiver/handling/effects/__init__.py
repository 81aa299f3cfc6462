"""The customer's own database, where an effect and our mark of it commit together.

Our table there, `postback_handled`, is the one that counts: the inbox keeps a copy of what it
says. Nothing else in that database is touched.
"""

from receiver.handling.effects.base import Effects, EffectsError
from receiver.handling.effects.opening import open_effects

__all__ = ["Effects", "EffectsError", "open_effects"]
