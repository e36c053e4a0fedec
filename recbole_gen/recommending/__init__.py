"""From a finished run to recommendations: any histories in, items out; vectors; search by an index."""
