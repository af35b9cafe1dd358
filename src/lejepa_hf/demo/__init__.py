"""A page in the browser on which people look at an encoder, here or as a Space of the Hub."""
