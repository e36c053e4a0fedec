"""The fields of a log, by their names in an atomic file."""

USER, ITEM, TIME, RATING, SCENE = "user_id", "item_id", "timestamp", "rating", "scene"
SESSION = "session_id"
"""What the users of a log are called whose users are sequences."""
TOKENS = (USER, ITEM, SCENE, "device")
"""Fields that are tokens; all others are numbers."""
