"""From publishers' archives, or a log of the user's own, to RecBole's atomic files."""
