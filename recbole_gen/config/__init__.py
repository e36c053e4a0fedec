"""Which settings a run has, and which model class a name means."""
