"""Images in: sources, streams, decoding, crops, photometric operations, collator. May import `ops`, `system`."""
