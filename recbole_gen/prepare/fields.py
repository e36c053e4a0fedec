"""The fields of a log, by their names in an atomic file."""

USER, ITEM, TIME, RATING, SCENE = "user_id", "item_id", "timestamp", "rating", "scene"
SESSION = "session_id"
"""What the users of a log are called whose users are sequences."""
TOKENS = (USER, ITEM, SCENE, "device")
"""Fields that are tokens; all others are numbers."""
TIME_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Name -> how many of it are a second."""
